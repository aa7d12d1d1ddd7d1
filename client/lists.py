"""Downloads an operators' list, and resumes between two rows, never inside one."""

import csv
import io
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from client.api import Api
from client.console import Advance
from client.errors import IncompleteError, RefusedError
from client.outputs import Output
from client.words import gettext, rows
from languages.words import to_translate

CRLF = b"\r\n"
LF = b"\n"
MAX_RECORD_BYTES = 16 * 1024 * 1024
ID = re.compile(rb"-?[0-9]+(?=,|\r\n)")
NO_END = to_translate("The list has a row that doesn't end")
NOT_A_LIST = to_translate("The answer is not a list of Carryout's: check --url")
INSIDE_A_ROW = to_translate("The list ended inside a row")
OTHER_COLUMNS = to_translate("The list has other columns than the existing FILE.part")

KeyOf = Callable[[bytes, bytes], str]
"""The parameter `after` behind a row of CSV, given the header and the row."""


class RecordSplitter:
    """Splits chunks of CSV (RFC 4180) into records: a CRLF between quotes doesn't end one."""

    def __init__(self) -> None:
        self._record = bytearray()
        self._quoted = False
        self._line = b""

    @property
    def between_records(self) -> bool:
        return not self._record and not self._line

    def split(self, chunk: bytes) -> list[bytes]:
        """The records that `chunk` completes, each with its CRLF. Raises RefusedError if one is too long."""
        records = []
        *lines, self._line = (self._line + chunk).split(CRLF)
        for line in lines:
            self._record += line + CRLF
            self._quoted ^= line.count(b'"') % 2 == 1  # a doubled quote doesn't change the state
            if not self._quoted:
                records.append(bytes(self._record))
                self._record.clear()
        if len(self._record) + len(self._line) > MAX_RECORD_BYTES:
            raise RefusedError(gettext(NO_END))
        return records


class LineSplitter:
    """Splits chunks into lines."""

    def __init__(self) -> None:
        self._line = b""

    def split(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, each with its LF. Raises RefusedError if one is too long."""
        *lines, self._line = (self._line + chunk).split(LF)
        if len(self._line) > MAX_RECORD_BYTES:
            raise RefusedError(gettext(NO_END))
        return [line + LF for line in lines]


class Layout(Protocol):
    """A format on its way: one document may come in several answers, each `begin`ning anew."""

    rows: int
    """Those in the output."""

    def begin(self) -> None:
        """A further answer, or what an earlier run left, is about to come."""

    def take(self, chunk: bytes) -> bytes:
        """The bytes of `chunk`, and of what was held back, that belong to the output: whole rows."""

    def end(self) -> bytes:
        """The bytes behind the last row. Raises IncompleteError if the answer has no end."""

    def after(self) -> str | None:
        """The parameter that continues behind the last row; None before the first."""


class CsvLayout:
    """The header is taken once. An answer's end is that of its framing alone."""

    def __init__(self, key_of: KeyOf) -> None:
        self.rows = 0
        self._key_of = key_of
        self._header: bytes | None = None
        self._last: bytes | None = None
        self.begin()

    def begin(self) -> None:
        self._splitter = RecordSplitter()
        self._begun = False

    def take(self, chunk: bytes) -> bytes:
        records = self._splitter.split(chunk)
        taken: Sequence[bytes] = records
        if records and not self._begun:
            self._begun = True
            taken = self._without_known_header(records)
            records = records[1:]
        if records:
            self._last = records[-1]
            self.rows += len(records)
        return b"".join(taken)

    def end(self) -> bytes:
        if not self._begun or not self._splitter.between_records:
            raise IncompleteError(gettext(INSIDE_A_ROW))
        return b""

    def after(self) -> str | None:
        return self._key_of(self._header or b"", self._last) if self._last else None

    def _without_known_header(self, records: Sequence[bytes]) -> Sequence[bytes]:
        if self._header is None:
            self._header = records[0]
            return records
        if records[0] != self._header:
            raise RefusedError(gettext(OTHER_COLUMNS))
        return records[1:]


class NdjsonLayout:
    """One line a row. Each answer's last line counts its rows; in the output, one line counts all."""

    def __init__(self, key: Sequence[str]) -> None:
        self.rows = 0
        self._key = key
        self._last: bytes | None = None
        self.begin()

    def begin(self) -> None:
        self._splitter = LineSplitter()
        self._answered = 0
        self._end: dict[str, Any] | None = None

    def take(self, chunk: bytes) -> bytes:
        lines = self._splitter.split(chunk)
        if self._end is not None and (lines or chunk):
            raise RefusedError(gettext(NOT_A_LIST))
        if lines and lines[-1].startswith(b'{"section":"end",'):
            self._end = json.loads(lines.pop())
        if lines:
            self._last = lines[-1]
            self._answered += len(lines)
            self.rows += len(lines)
        return b"".join(lines)

    def end(self) -> bytes:
        if self._end is None:
            raise IncompleteError(gettext(INSIDE_A_ROW))
        if self._end.get("records") != self._answered:
            sentence = gettext(
                "The list has %(rows)s, but counted %(counted)s",
                rows=rows(self._answered),
                counted=self._end.get("records"),
            )
            raise IncompleteError(sentence)
        whole = self._end | {"records": self.rows}
        if isinstance(given := whole.pop("filter", None), dict):
            given.pop("after", None)
            whole |= {"filter": given} if given else {}
        return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode() + LF

    def after(self) -> str | None:
        return None if self._last is None else encode_key(_texts(_object(self._last).get("row"), self._key))


class JsonLayout:
    """The lines of one object: its head, then a row each, the last of which ends array and object."""

    def __init__(self, name: str, key: Sequence[str]) -> None:
        self.rows = 0
        self._key = key
        self._opening = b'"%b":[' % name.encode()
        self._last: bytes | None = None
        self._head = b""
        self.begin()

    def begin(self) -> None:
        self._splitter = LineSplitter()
        self._in_rows = False
        self._ended = False

    def take(self, chunk: bytes) -> bytes:
        return b"".join(map(self._line, self._splitter.split(chunk)))

    def end(self) -> bytes:
        if not self._ended:
            raise IncompleteError(gettext(INSIDE_A_ROW))
        return (b"" if self.rows else self._head + self._opening) + b"]}\n"

    def after(self) -> str | None:
        return None if self._last is None else encode_key(_texts(_object(self._last), self._key))

    def _line(self, line: bytes) -> bytes:
        """Rows are joined by the comma before each but the first: so the output ends behind a whole row."""
        if self._ended:
            raise RefusedError(gettext(NOT_A_LIST))
        if not self._in_rows:
            if line.startswith(b'{"exported_at":'):
                self._head = line
                return b""
            if line.startswith(b'"filter":'):
                self._head += line
                return b""
            if not line.startswith(self._opening):
                raise RefusedError(gettext(NOT_A_LIST))
            self._in_rows = True
            line = line.removeprefix(self._opening)
        self._ended = line.endswith(b"]}\n")
        row = line.removesuffix(LF).removesuffix(b"]}" if self._ended else b",")
        if not row:
            return b""
        before = self._head + self._opening if not self.rows else b",\n"
        self._last = row
        self.rows += 1
        return before + row


class ListDownload:
    """Each retry requests the rows behind the last one received."""

    def __init__(  # noqa: PLR0913 (what to download, from where, and to where)
        self, api: Api, path: str, query: Mapping[str, str], layout: Layout, *, output: Output, advance: Advance
    ) -> None:
        self._api = api
        self._path = path
        self._query = dict(query)
        self._layout = layout
        self._output = output
        self._advance = advance

    async def run(self) -> int:
        """The number of rows. Raises IncompleteError when the retry budget is used up."""
        self._take_up()
        retry = self._api.retry()
        while True:
            try:
                await self._go_on()
            except IncompleteError as error:
                await retry.pause(error, self._layout.rows)
            else:
                self._output.finish()
                return self._layout.rows

    def _take_up(self) -> None:
        """Resume after the complete rows of an earlier run."""
        self._layout.begin()
        self._output.keep(sum(len(self._layout.take(piece)) for piece in self._output.pieces()))

    async def _go_on(self) -> None:
        after = self._layout.after()
        self._layout.begin()
        query = self._query if after is None else self._query | {"after": after}
        async with self._api.open_document(self._path, query) as response:
            async for chunk in response.content.iter_any():
                self._output.write(self._layout.take(chunk))
                self._advance(self._layout.rows)
        self._output.write(self._layout.end())


def create_layout(format_: str, name: str, key: Sequence[str]) -> Layout:
    """The layout of the list `name` in a format whose downloads can be resumed."""
    match format_:
        case "json":
            return JsonLayout(name, key)
        case "ndjson":
            return NdjsonLayout(key)
    return CsvLayout(lambda header, record: encode_key(_cells(header, record, key)))


async def download_whole(api: Api, path: str, query: Mapping[str, str], output: Output, advance: Advance) -> None:
    """A list in a format that can't be resumed: each retry begins anew."""
    retry = api.retry()
    while True:
        try:
            async with api.open_document(path, query) as response:
                async for chunk in response.content.iter_any():
                    output.write(chunk)
                    advance(output.size_bytes)
        except IncompleteError as error:
            output.keep(0)
            await retry.pause(error)
        else:
            output.finish()
            return


def user_id_of(_header: bytes, record: bytes) -> str:
    """The key of a list of users: the id in its first column, as it is."""
    if not (id_ := ID.match(record)):
        raise RefusedError(gettext("The list's first column isn't the users' id"))
    return id_[0].decode()


def encode_key(values: Sequence[str]) -> str:
    """Base64url, without padding, of the JSON array."""
    array = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    return urlsafe_b64encode(array).decode().rstrip("=")


def _cells(header: bytes, record: bytes, key: Sequence[str]) -> list[str]:
    names, cells = csv.reader(io.StringIO((header + record).decode(), newline=""))
    row = dict(zip(names, cells, strict=True))
    return _texts(row, key)


def _object(line: bytes) -> Any:
    """A JSON object with its numbers as they are written."""
    return json.loads(line, parse_int=str, parse_float=str)


def _texts(row: Any, key: Sequence[str]) -> list[str]:
    try:
        return [str(row[name]) for name in key]
    except (KeyError, TypeError):
        raise RefusedError(gettext(NOT_A_LIST)) from None

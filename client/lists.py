"""Downloads a user list as CSV, and resumes between two rows, never inside one."""

import re
from collections.abc import Mapping

from client.api import Api
from client.console import Advance
from client.errors import IncompleteError, RefusedError
from client.outputs import Output

CRLF = b"\r\n"
MAX_RECORD_BYTES = 16 * 1024 * 1024
ID = re.compile(rb"-?[0-9]+(?=,|\r\n)")


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
            raise RefusedError("The list has a row that doesn't end")
        return records


class UserList:
    """Downloads a user list; each retry requests the rows `after` the last one received."""

    def __init__(self, api: Api, path: str, query: Mapping[str, str], output: Output, advance: Advance) -> None:
        self._api = api
        self._path = path
        self._query = dict(query)
        self._output = output
        self._advance = advance
        self._header: bytes | None = None
        self._rows = 0

    async def run(self) -> int:
        """The number of rows. Raises IncompleteError when the retry budget is used up."""
        self._take_up()
        retry = self._api.retry()
        while True:
            try:
                await self._go_on()
            except IncompleteError as error:
                await retry.pause(error, self._output.size_bytes)
            else:
                self._output.finish()
                return self._rows

    def _take_up(self) -> None:
        """Resume after the complete records of an earlier run."""
        splitter = RecordSplitter()
        whole_bytes = 0
        for piece in self._output.pieces():
            for record in splitter.split(piece):
                whole_bytes += len(record)
                self._count(record)
        self._output.keep(whole_bytes)

    async def _go_on(self) -> None:
        splitter = RecordSplitter()
        header: bytes | None = None
        async with self._api.open_document(self._path, self._query) as response:
            async for chunk in response.content.iter_any():
                records = splitter.split(chunk)
                if records and header is None:
                    header = records[0]
                    records = self._without_known_header(records)
                self._write(records)
        if header is None or not splitter.between_records:
            raise IncompleteError("The list ended inside a row")

    def _without_known_header(self, records: list[bytes]) -> list[bytes]:
        if self._header is None:
            return records
        if records[0] != self._header:
            raise RefusedError("The list has other columns than the existing FILE.part")
        return records[1:]

    def _write(self, records: list[bytes]) -> None:
        self._output.write(b"".join(records))
        for record in records:
            self._count(record)
        self._advance(self._rows)

    def _count(self, record: bytes) -> None:
        if self._header is None:
            self._header = record
            return
        id_ = ID.match(record)
        if id_ is None:
            raise RefusedError("The list's first column isn't the users' id")
        self._query["after"] = id_[0].decode()
        self._rows += 1

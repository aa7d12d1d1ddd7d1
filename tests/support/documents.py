"""Documents made from a database and read back; the CSV reader is the tests' own, because csv knows no NULL."""

import csv
import io
import json
import re
import zipfile
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, TypeAlias

import msgspec
import openpyxl

from service.backends.database import Pool
from service.documents.datasets import Dataset
from service.documents.encoding import DEFAULTS, Encoder, EncoderOptions, text_of
from service.documents.package.contents import package_chunks
from service.documents.streaming import Document, open_document
from service.export_spec import ExportSpec
from service.formats import Format
from service.user_ids import UserId

Line: TypeAlias = list[str | None]

# The application name of the fixture `pool`: by it tests find the backend of a document in pg_stat_activity.
POOL_NAME = "documents"
CELL = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)')
XLSX_ESCAPE = re.compile("_x([0-9A-Fa-f]{4})_")
GUARDED = re.compile(r"'+[-+=@\t\r]")


def open_patiently(  # noqa: PLR0913 (what a test varies)
    pool: Pool,
    datasets: Sequence[Dataset],
    user_id: UserId,
    *,
    max_records: int = 1_000_000,
    exclusive: bool = False,
    encoder: Encoder | None = None,
) -> AbstractAsyncContextManager[Document]:
    """`encoder` is the one that the document is made by; without it, a CSV is."""
    format_ = next(format_ for format_ in Format if encoder is None or encoder.media_type == format_.media_type)
    options: EncoderOptions = getattr(encoder, "_options", DEFAULTS)
    unguarded = getattr(encoder, "_guard", None) is text_of
    return open_document(
        pool,
        datasets,
        ExportSpec(user_id, format_, big_as_text=options.big_as_text, unguarded=unguarded),
        max_records=max_records,
        acquire_timeout_seconds=10,
        exclusive=exclusive,
    )


async def make_document(pool: Pool, datasets: Sequence[Dataset], user_id: UserId, encoder: Encoder) -> bytes:
    async with open_patiently(pool, datasets, user_id, encoder=encoder) as document:
        return await read_chunks(document.chunks(encoder))


async def read_chunks(chunks: AsyncGenerator[bytes, None]) -> bytes:
    async with aclosing(chunks):
        return b"".join([chunk async for chunk in chunks])


async def make_package(pool: Pool, datasets: Sequence[Dataset], user_id: UserId) -> bytes:
    async with open_package(pool, datasets, user_id) as document:
        return await read_chunks(package_chunks(document))


def open_package(pool: Pool, datasets: Sequence[Dataset], user_id: UserId) -> AbstractAsyncContextManager[Document]:
    spec = ExportSpec(user_id, Format.ZIP)
    return open_document(pool, datasets, spec, max_records=1_000_000, acquire_timeout_seconds=10)


def read_csv(text: str) -> list[Line]:
    """RFC 4180 to the letter, cells as they stand in the file: None for an empty one, "" for a quoted empty one."""
    lines: list[Line] = []
    line: Line = []
    end = 0
    while end < len(text):
        cell = CELL.match(text, end)
        assert cell is not None, f"No CSV from here: {text[end : end + 80]!r}"
        quoted, bare, separator = cell.groups()
        line.append(quoted.replace('""', '"') if quoted is not None else bare or None)
        if separator != ",":
            lines.append(line)
            line = []
        end = cell.end()
    assert not line, "The last line has no end"
    return lines


def count_records(content: bytes, format_: str) -> int:
    """The records of one of the sample's documents, as another program would count them."""
    match Format(format_):
        case Format.CSV:
            return sum(1 for _ in csv.reader(io.StringIO(content.decode(), newline=""))) - 1
        case Format.JSON:
            document = msgspec.json.decode(content)
            return 1 + len(document["activity"]) + len(document["content"])
        case Format.NDJSON:
            *lines, end = msgspec.json.Decoder().decode_lines(content)
            assert end == {"section": "end", "records": len(lines)}
            return len(lines)
        case Format.XLSX:
            *sheets, _ = read_xlsx(content).values()
            return sum(len(rows) - 1 for rows in sheets)
        case Format.ZIP:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return count_records(archive.read("data/export.ndjson"), Format.NDJSON)


def read_strictly(content: bytes) -> Any:
    """JSON that every reader reads alike (RFC 7493): UTF-8 without lone surrogates, names once, finite numbers."""
    value = json.loads(content.decode(), object_pairs_hook=_members, parse_constant=_refuse)
    msgspec.json.decode(content)  # it knows no lone surrogates and no byte order mark
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    assert len(members) == len(pairs), f"A name comes twice: {pairs}"
    return members


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def read_xlsx(content: bytes) -> dict[str, list[list[Any]]]:
    """The records of each sheet, as openpyxl reads them; texts that go on in further rows are whole."""
    book = openpyxl.load_workbook(io.BytesIO(content))
    return {sheet.title: _records(sheet.iter_rows()) for sheet in book.worksheets}


def _records(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    records: list[list[Any]] = []
    for row in rows:
        values = [unescape_xlsx(cell.value) for cell in row]
        if any(cell.font.i for cell in row):
            records[-1] = [old if new is None else old + new for old, new in zip(records[-1], values, strict=True)]
        else:
            records.append(values)
    return records


def unescape_xlsx(value: Any) -> Any:
    """The escapes of ECMA-376 are left in inline texts by openpyxl."""
    return XLSX_ESCAPE.sub(lambda found: chr(int(found[1], 16)), value) if isinstance(value, str) else value


def unguard(cell: str | None) -> str | None:
    """The value of a cell, by the rule that CsvEncoder promises."""
    return cell[1:] if cell is not None and GUARDED.match(cell) else cell

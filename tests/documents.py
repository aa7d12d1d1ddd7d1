"""Documents made from a database and read back; the CSV reader is the tests' own, because csv knows no NULL."""

import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TypeAlias

from service.database import Pool, UserId
from service.datasets import Dataset
from service.encoders import Encoder
from service.streaming import Document, open_document

Line: TypeAlias = list[str | None]

# Of the fixture `pool`: by it tests find the backend of a document in pg_stat_activity.
POOL_NAME = "documents"
CELL = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)')
GUARDED = re.compile(r"'+[-+=@\t\r]")


def open_patiently(
    pool: Pool, datasets: Sequence[Dataset], user_id: UserId, *, max_records: int = 1_000_000, exclusive: bool = False
) -> AbstractAsyncContextManager[Document]:
    return open_document(
        pool, datasets, user_id, max_records=max_records, acquire_timeout_seconds=10, exclusive=exclusive
    )


async def make_document(pool: Pool, datasets: Sequence[Dataset], user_id: UserId, encoder: Encoder) -> bytes:
    async with (
        open_patiently(pool, datasets, user_id) as document,
        aclosing(document.chunks(encoder)) as chunks,
    ):
        return b"".join([chunk async for chunk in chunks])


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


def unguard(cell: str | None) -> str | None:
    """The value of a cell, by the rule that CsvEncoder promises."""
    return cell[1:] if cell is not None and GUARDED.match(cell) else cell

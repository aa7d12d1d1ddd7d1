"""From a cursor's rows to chunks of bytes, for documents of every kind."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from service.backends.database import Connection
from service.documents.encoding import RowText
from service.documents.selection import Query
from service.documents.snapshots import naming_failures
from service.documents.subjects import QUERY_TIMEOUT_SECONDS

CHUNK_BYTES = 64 * 1024
# The first chunk is soon full, because its client waits for it.
FIRST_CHUNK_BYTES = 4 * 1024
# However wide the rows, no fetch takes more than MAX_FETCHED * SLICE_BYTES.
SLICE_BYTES = 4 * 1024
TOO_LONG = b""
FIRST_FETCHED = 100
MAX_FETCHED = 1_000
# A fetch under way is usually done in milliseconds; cancelling it costs PostgreSQL another connection.
LEAVE_SECONDS = 0.5


class Chunks:
    """Common parts of documents. The counters grow while chunks are made."""

    def __init__(self, connection: Connection) -> None:
        self.records_done = 0
        self.size_bytes = 0
        self._connection = connection

    async def joined(self, made: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(made) as pieces:
            buffer: list[bytes] = []
            buffered, wanted = 0, FIRST_CHUNK_BYTES
            async for piece in pieces:
                buffer.append(piece)
                buffered += len(piece)
                if buffered >= wanted:
                    yield self._counted(b"".join(buffer))
                    buffer, buffered, wanted = [], 0, CHUNK_BYTES
        if rest := b"".join(buffer):
            yield self._counted(rest)

    def _counted(self, chunk: bytes) -> bytes:
        self.size_bytes += len(chunk)
        return chunk

    async def _batches(self, row_text: RowText, query: Query) -> AsyncGenerator[list[bytes], None]:
        """Batches sized to make one chunk each. Whole lines, as they are cheapest, up to the first that is too long."""
        lines = row_text(query.dataset)
        arguments = query.arguments
        done = 0
        async with aclosing(self._fetch(short_lines(lines), *arguments, end=TOO_LONG)) as fetches:
            async for values in fetches:
                rows = values[:-1] if values[-1] == TOO_LONG else values
                if rows:
                    yield rows
                done += len(rows)
                if len(rows) < len(values):
                    break
            else:
                return
        async with aclosing(self._put_together(_sliced(lines, len(arguments) + 1), *arguments, done)) as batches:
            async for rows in batches:
                yield rows

    async def _put_together(self, query: str, *arguments: object) -> AsyncGenerator[list[bytes], None]:
        begun: list[bytes] = []
        async with aclosing(self._fetch(query, *arguments)) as fetches:
            async for slices in fetches:
                rows: list[bytes] = []
                for slice_ in slices:
                    begun.append(slice_)
                    if len(slice_) < SLICE_BYTES:
                        rows.append(b"".join(begun))
                        begun.clear()
                if rows:
                    yield rows

    async def _fetch(
        self, query: str, *arguments: object, end: bytes | None = None
    ) -> AsyncGenerator[list[bytes], None]:
        """One column of the query, about CHUNK_BYTES at a time; the next are fetched while these are dealt with.

        The first value that is `end` is the last; no fetch is under way by then, to be cancelled with its transaction.
        """
        with naming_failures():
            cursor = await self._connection.cursor(query, *arguments, timeout=QUERY_TIMEOUT_SECONDS)
        fetching = asyncio.create_task(cursor.fetch(FIRST_FETCHED, timeout=QUERY_TIMEOUT_SECONDS))
        try:
            while True:
                with naming_failures():
                    values = [record[0] for record in await fetching]
                if not values:
                    return
                if end in values:
                    yield values[: values.index(end) + 1]
                    return
                fetching = asyncio.create_task(cursor.fetch(_next_number(values), timeout=QUERY_TIMEOUT_SECONDS))
                await asyncio.sleep(0)  # so that PostgreSQL has been asked before these are dealt with
                yield values
        finally:
            await asyncio.wait({fetching}, timeout=LEAVE_SECONDS)
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)


def _next_number(values: list[bytes]) -> int:
    """The number of rows, or slices, of this size that make a chunk."""
    size = sum(map(len, values))
    return max(1, min(CHUNK_BYTES * len(values) // (size + 1), MAX_FETCHED))


def short_lines(lines: str) -> str:
    """Each line, or TOO_LONG for one of SLICE_BYTES and more, so that a number of them is a bound in bytes.

    `textsend` writes the encoding of the client, which asyncpg has set to UTF-8, and is cheaper than `convert_to`.
    OFFSET 0 keeps PostgreSQL from rendering a line twice. For a limit that it can't foresee it plans to give a tenth of
    the rows soon (its source, `preprocess_limit`), as for a cursor of SQL's: an index in the order is worth more then.
    """
    rendered = f"SELECT line FROM ({lines}) AS texts (line) OFFSET 0"  # noqa: S608 (rendered from checked columns)
    is_short = f"pg_catalog.octet_length(line) OPERATOR(pg_catalog.<) {SLICE_BYTES}"
    whole = f"CASE WHEN {is_short} THEN pg_catalog.textsend(line) ELSE '' END"
    return f"SELECT {whole} FROM ({rendered}) AS rendered LIMIT (SELECT NULL::bigint)"  # noqa: S608 (likewise)


def _sliced(lines: str, parameter: int) -> str:
    """Each line from the one at offset $`parameter`, in slices; one shorter than SLICE_BYTES ends its line.

    The OFFSET also keeps PostgreSQL from rendering a line again for each of its slices.
    """
    rest = f"SELECT pg_catalog.textsend(line) AS line FROM ({lines}) AS texts (line) OFFSET ${parameter}::bigint"  # noqa: S608 (rendered from checked columns)
    end = "pg_catalog.length(line) OPERATOR(pg_catalog.+) 1"
    starts = f"SELECT line, pg_catalog.generate_series(1, {end}, {SLICE_BYTES}) AS start FROM ({rest}) AS lines"  # noqa: S608 (likewise)
    return f"SELECT pg_catalog.substr(line, start, {SLICE_BYTES}) FROM ({starts}) AS starts"  # noqa: S608 (likewise)

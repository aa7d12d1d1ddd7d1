"""One user's data as a document: datasets, one snapshot, one cursor after the other, chunks of bytes."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import asyncpg

from service.database import QUERIES, Connection, Pool, UserId, acquire
from service.datasets import Dataset
from service.encoders import Encoder
from service.errors import DocumentError, ExportInProgressError, ExportTooLargeError, SubjectNotFoundError

CHUNK_BYTES = 64 * 1024
FIRST_BATCH_ROWS = 100
MAX_BATCH_ROWS = 2_000


class Document:
    """What `open_document` gives: `records_total` is counted in the snapshot; the rest grows while chunks are made."""

    def __init__(
        self, connection: Connection, datasets: Sequence[Dataset], counts: Sequence[int], user_id: UserId
    ) -> None:
        self.records_total = sum(counts)
        self.records_done = 0
        self.size_bytes = 0
        self._connection = connection
        self._datasets = datasets
        self._counts = counts
        self._user_id = user_id
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        """The digest of all chunks given out so far."""
        return self._sha256.digest()

    async def chunks(self, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        """The document in chunks of about 64 KiB (a single larger row is a chunk of its own).

        Raises DocumentError where the rows don't match their count: a document that ends here is whole.
        """
        async with aclosing(self._pieces(encoder)) as pieces:
            buffer: list[bytes] = []
            buffered = 0
            async for piece in pieces:
                buffer.append(piece)
                buffered += len(piece)
                if buffered >= CHUNK_BYTES:
                    yield self._hashed(b"".join(buffer))
                    buffer, buffered = [], 0
        yield self._hashed(b"".join(buffer))

    def _hashed(self, chunk: bytes) -> bytes:
        self._sha256.update(chunk)
        self.size_bytes += len(chunk)
        return chunk

    async def _pieces(self, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        exported_at = await self._connection.fetchval(QUERIES["find_snapshot_time"])
        profiles = [row async for rows in self._batches(encoder, self._datasets[0]) for row in rows]
        self._check_count(0, len(profiles))
        self.records_done = 1
        yield encoder.begin(self._datasets, exported_at, profiles[0])
        for position, dataset in enumerate(self._datasets[1:], start=1):
            done = 0
            async with aclosing(self._batches(encoder, dataset)) as batches:
                async for rows in batches:
                    yield encoder.rows(position, rows, first=done == 0)
                    done += len(rows)
                    self.records_done += len(rows)
            self._check_count(position, done)
            yield encoder.end_dataset(position, empty=done == 0)
        yield encoder.end()

    async def _batches(self, encoder: Encoder, dataset: Dataset) -> AsyncGenerator[list[bytes], None]:
        """Batches sized to make one chunk each; they at most double, so that wide rows after narrow ones stay few."""
        query = f"SELECT convert_to(line, 'UTF8') FROM ({encoder.row_text(dataset)}) AS lines (line)"  # noqa: S608 (rendered from checked columns)
        cursor = await self._connection.cursor(query, self._user_id)
        wanted = FIRST_BATCH_ROWS
        while rows := [row[0] for row in await cursor.fetch(wanted)]:
            yield rows
            fitting = CHUNK_BYTES * len(rows) // (sum(map(len, rows)) + 1)
            wanted = max(1, min(fitting, 2 * wanted, MAX_BATCH_ROWS))

    def _check_count(self, position: int, done: int) -> None:
        if done != self._counts[position]:
            name = self._datasets[position].name
            raise DocumentError(f"Dataset {name} gave {done} rows, but counted {self._counts[position]}")


@asynccontextmanager
async def open_document(  # noqa: PLR0913 (each is one independent fact of the request)
    pool: Pool,
    datasets: Sequence[Dataset],
    user_id: UserId,
    *,
    max_records: int,
    acquire_timeout_seconds: float,
    exclusive: bool = False,
) -> AsyncIterator[Document]:
    """One REPEATABLE READ, READ ONLY snapshot of the user's data, counted; exit ends it and returns the connection.

    Raises SubjectNotFoundError, ExportTooLargeError, UnavailableError and, if `exclusive`, ExportInProgressError
    while another exclusive document of the user is open anywhere.
    """
    async with (
        acquire(pool, timeout_seconds=acquire_timeout_seconds) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute(QUERIES["use_portable_formats"])
        if exclusive and not await connection.fetchval(QUERIES["try_stream_lock"], str(user_id)):
            raise ExportInProgressError("A stream of your data is already running")
        counts = await _count(connection, datasets, user_id, max_records=max_records)
        yield Document(connection, datasets, counts, user_id)


async def _count(
    connection: Connection, datasets: Sequence[Dataset], user_id: UserId, *, max_records: int
) -> list[int]:
    counts: list[int] = []
    for dataset in datasets:
        bound = max_records + 1 - sum(counts)
        query = f'SELECT count(*) FROM (SELECT FROM ({dataset.sql}) AS "row" LIMIT $2::bigint) AS bounded'  # noqa: S608 (checked at start-up)
        try:
            counts.append(await connection.fetchval(query, user_id, bound))
        except asyncpg.DataError:  # a number too large, say, is nobody's id
            raise SubjectNotFoundError("No such user") from None
        if counts[0] == 0:
            raise SubjectNotFoundError("No such user")
        if sum(counts) > max_records:
            raise ExportTooLargeError(
                "Export too large, please filter data",
                record_count=f"more than {max_records}",
                limit=max_records,
                suggestion="Ask for a shorter date range (date-range filters), one period after the other",
            )
    return counts

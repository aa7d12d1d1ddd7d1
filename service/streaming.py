"""Documents, of one user's data or a list of users: one snapshot, one cursor after the other, chunks of bytes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager

from service.database import QUERIES, Connection, Pool, UserId
from service.datasets import Dataset
from service.encoders import CsvEncoder, Encoder
from service.errors import (
    DocumentError,
    ExportInProgressError,
    ExportTooLargeError,
    InvalidRequestError,
    SubjectNotFoundError,
)
from service.snapshots import naming_failures, open_snapshot, refusing_foreign_characters, require_whole_tables

CHUNK_BYTES = 64 * 1024
# However wide the rows, no fetch takes more than MAX_FETCHED * SLICE_BYTES.
SLICE_BYTES = 4 * 1024
TOO_LONG = b""
FIRST_FETCHED = 100
MAX_FETCHED = 1_000
# Of what an encoder adds to rows, the profile's cells above all; a profile may be wide, and the rows many.
MAX_ADDED_BYTES = 1024 * 1024
QUERY_TIMEOUT_SECONDS = 300.0
# A fetch under way is usually done in milliseconds; cancelling it costs PostgreSQL another connection.
LEAVE_SECONDS = 0.5
NO_SUCH_USER = "No such user"
TOO_LARGE_DETAIL = "Export too large, please filter data"
TOO_LARGE_SUGGESTION = (
    "There are no date-range filters here: ask the people who run this service for a larger limit, "
    "or for your data by date range"
)


class _Chunks:
    """What documents have in common; their numbers grow while chunks are made."""

    def __init__(self, connection: Connection, *arguments: object) -> None:
        """`arguments` are those of the datasets' parameters."""
        self.records_done = 0
        self.size_bytes = 0
        self._connection = connection
        self._arguments = arguments

    async def _chunks(self, made: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(made) as pieces:
            buffer: list[bytes] = []
            buffered = 0
            async for piece in pieces:
                buffer.append(piece)
                buffered += len(piece)
                if buffered >= CHUNK_BYTES:
                    yield self._counted(b"".join(buffer))
                    buffer, buffered = [], 0
        if rest := b"".join(buffer):
            yield self._counted(rest)

    def _counted(self, chunk: bytes) -> bytes:
        self.size_bytes += len(chunk)
        return chunk

    async def _batches(self, encoder: Encoder, dataset: Dataset) -> AsyncGenerator[list[bytes], None]:
        """Batches sized to make one chunk each. Whole lines, as they are cheapest, up to the first that is too long."""
        lines = encoder.row_text(dataset)
        done = 0
        async with aclosing(self._fetch(_short(lines), end=TOO_LONG)) as fetches:
            async for values in fetches:
                rows = values[:-1] if values[-1] == TOO_LONG else values
                if rows:
                    yield rows
                done += len(rows)
                if len(rows) < len(values):
                    break
            else:
                return
        async with aclosing(self._put_together(_sliced(lines, len(self._arguments) + 1), done)) as batches:
            async for rows in batches:
                yield rows

    async def _put_together(self, query: str, offset: int) -> AsyncGenerator[list[bytes], None]:
        begun: list[bytes] = []
        async with aclosing(self._fetch(query, offset)) as fetches:
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
            cursor = await self._connection.cursor(query, *self._arguments, *arguments, timeout=QUERY_TIMEOUT_SECONDS)
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


class Document(_Chunks):
    """What `open_document` gives; `records_total` is counted in the snapshot."""

    def __init__(
        self, connection: Connection, datasets: Sequence[Dataset], counts: Sequence[int], user_id: UserId
    ) -> None:
        super().__init__(connection, user_id)
        self.records_total = sum(counts)
        self._datasets = datasets
        self._counts = counts

    def chunks(self, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        """The document in chunks of about 64 KiB (a single larger row is a chunk of its own).

        A document that ends is whole: raises DocumentError where rows don't match their count or can't be read, and
        UnavailableError if the database goes away.
        """
        return self._chunks(self._pieces(encoder))

    async def _pieces(self, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        exported_at = await self._connection.fetchval(QUERIES["find_snapshot_time"])
        profiles = [row async for rows in self._batches(encoder, self._datasets[0]) for row in rows]
        self._check_count(0, len(profiles))
        self.records_done = 1
        yield encoder.begin(self._datasets, exported_at, profiles[0])
        for position, dataset in enumerate(self._datasets[1:], start=1):
            done = 0
            async with aclosing(self._batches(encoder, dataset)) as batches:
                async for batch in batches:
                    for rows in _portions(batch, encoder.added_bytes(position)):
                        self.records_done += len(rows)
                        yield encoder.rows(position, rows, first=done == 0)
                        done += len(rows)
            self._check_count(position, done)
            yield encoder.end_dataset(position, empty=done == 0)
        yield encoder.end()

    def _check_count(self, position: int, done: int) -> None:
        if done != self._counts[position]:
            name = self._datasets[position].name
            raise DocumentError(f"Dataset {name} gave {done} rows, but counted {self._counts[position]}")


class UserList(_Chunks):
    """What `open_user_list` gives."""

    def __init__(self, connection: Connection, dataset: Dataset, *, email: str | None, after: int | None) -> None:
        super().__init__(connection, email, after)
        self._dataset = dataset

    def chunks(self, encoder: CsvEncoder) -> AsyncGenerator[bytes, None]:
        """As `Document.chunks`, but nobody counted the rows before."""
        return self._chunks(self._pieces(encoder))

    async def _pieces(self, encoder: CsvEncoder) -> AsyncGenerator[bytes, None]:
        yield encoder.begin_list(self._dataset)
        async with aclosing(self._batches(encoder, self._dataset)) as batches:
            async for rows in batches:
                self.records_done += len(rows)
                yield encoder.rows(0, rows, first=False)


def _next_number(values: list[bytes]) -> int:
    """How many rows, or slices, like these make a chunk."""
    size = sum(map(len, values))
    return max(1, min(CHUNK_BYTES * len(values) // (size + 1), MAX_FETCHED))


def _portions(rows: list[bytes], added_bytes: int) -> Iterator[list[bytes]]:
    """So few at a time that what is added to them stays below MAX_ADDED_BYTES."""
    number = max(1, MAX_ADDED_BYTES // (added_bytes + 1))
    return (rows[start : start + number] for start in range(0, len(rows), number))


def _short(lines: str) -> str:
    """Each line, or TOO_LONG for one of SLICE_BYTES and more, so that a number of them is a bound in bytes.

    OFFSET 0 keeps PostgreSQL from rendering a line twice. For a limit that it can't foresee it plans to give a tenth of
    the rows soon (its source, `preprocess_limit`), as for a cursor of SQL's: an index in the order is worth more then.
    """
    rendered = f"SELECT line FROM ({lines}) AS texts (line) OFFSET 0"  # noqa: S608 (rendered from checked columns)
    whole = f"CASE WHEN octet_length(line) < {SLICE_BYTES} THEN convert_to(line, 'UTF8') ELSE '' END"
    return f"SELECT {whole} FROM ({rendered}) AS rendered LIMIT (SELECT NULL::bigint)"  # noqa: S608 (likewise)


def _sliced(lines: str, parameter: int) -> str:
    """Each line from the one at offset $`parameter`, in slices; one shorter than SLICE_BYTES ends its line.

    The OFFSET also keeps PostgreSQL from rendering a line again for each of its slices.
    """
    rest = f"SELECT convert_to(line, 'UTF8') AS line FROM ({lines}) AS texts (line) OFFSET ${parameter}::bigint"  # noqa: S608 (rendered from checked columns)
    starts = f"SELECT line, generate_series(1, length(line) + 1, {SLICE_BYTES}) AS start FROM ({rest}) AS lines"  # noqa: S608 (likewise)
    return f"SELECT substr(line, start, {SLICE_BYTES}) FROM ({starts}) AS starts"  # noqa: S608 (likewise)


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
    while another exclusive document of the user is open anywhere; DocumentError if the data can't be read.
    """
    async with open_snapshot(pool, acquire_timeout_seconds) as connection:
        if exclusive and not await connection.fetchval(QUERIES["try_stream_lock"], str(user_id)):
            raise ExportInProgressError("A stream of your data is already running")
        counts = await _count(connection, datasets, user_id, max_records=max_records)
        await require_whole_tables(connection)
        _check_counts(counts, max_records)
        yield Document(connection, datasets, counts, user_id)


@asynccontextmanager
async def open_user_list(
    pool: Pool, dataset: Dataset, *, email: str | None, after: int | None, acquire_timeout_seconds: float
) -> AsyncIterator[UserList]:
    """A REPEATABLE READ, READ ONLY snapshot of the users with this e-mail address (None: all), from the first id
    greater than `after`. Raises UnavailableError, and InvalidRequestError for an address that the database can't hold.
    """
    locking = f'SELECT FROM ({dataset.sql}) AS "row" LIMIT 0'
    async with open_snapshot(pool, acquire_timeout_seconds) as connection:
        refusal = InvalidRequestError("email has characters that the application's database can't hold")
        with naming_failures(), refusing_foreign_characters(refusal):
            await connection.fetch(locking, email, after, timeout=QUERY_TIMEOUT_SECONDS)
        await require_whole_tables(connection)
        yield UserList(connection, dataset, email=email, after=after)


async def require_subject(pool: Pool, profile: Dataset, user_id: UserId, *, acquire_timeout_seconds: float) -> None:
    """Raise SubjectNotFoundError unless the user exists now, in a snapshot of its own."""
    query = f'SELECT EXISTS (SELECT FROM ({profile.sql}) AS "row")'  # noqa: S608 (checked at start-up)
    async with open_snapshot(pool, acquire_timeout_seconds) as connection:
        with naming_failures():
            exists = await connection.fetchval(query, user_id)
        await require_whole_tables(connection)
        if not exists:
            raise SubjectNotFoundError(NO_SUCH_USER)


async def _count(
    connection: Connection, datasets: Sequence[Dataset], user_id: UserId, *, max_records: int
) -> list[int]:
    counts: list[int] = []
    for dataset in datasets:
        bound = max_records + 1 - sum(counts)
        query = f'SELECT count(*) FROM (SELECT FROM ({dataset.sql}) AS "row" LIMIT $2::bigint) AS bounded'  # noqa: S608 (checked at start-up)
        with naming_failures(), refusing_foreign_characters(SubjectNotFoundError(NO_SUCH_USER)):
            counts.append(await connection.fetchval(query, user_id, bound, timeout=QUERY_TIMEOUT_SECONDS))
        if counts[0] != 1 or sum(counts) > max_records:
            break
    return counts


def _check_counts(counts: Sequence[int], max_records: int) -> None:
    if counts[0] == 0:
        raise SubjectNotFoundError(NO_SUCH_USER)
    if counts[0] > 1:
        raise DocumentError("The profile has more than one row")
    if sum(counts) > max_records:
        raise ExportTooLargeError(
            TOO_LARGE_DETAIL,
            record_count=f"more than {max_records}",
            limit=max_records,
            suggestion=TOO_LARGE_SUGGESTION,
        )

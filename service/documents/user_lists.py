"""Operators' lists of users: one snapshot, one cursor, and no count to compare with."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from service.backends.database import QUERIES, Connection, Pool
from service.documents.chunks import Chunks
from service.documents.csv_encoder import CsvEncoder
from service.documents.datasets import Dataset
from service.documents.selection import Query
from service.documents.snapshots import (
    naming_failures,
    open_snapshot,
    refusing_foreign_characters,
    require_whole_tables,
)
from service.documents.subjects import QUERY_TIMEOUT_SECONDS
from service.errors import InvalidRequestError


class UserList(Chunks):
    """Yielded by `open_user_list`."""

    def __init__(self, connection: Connection, dataset: Dataset, *, email: str | None, after: int | None) -> None:
        super().__init__(connection)
        self._query = Query(dataset, (email, after))

    def chunks(self, encoder: CsvEncoder) -> AsyncGenerator[bytes, None]:
        """Like `Document.chunks`, but without a count to compare with."""
        return self.joined(self._pieces(encoder))

    async def _pieces(self, encoder: CsvEncoder) -> AsyncGenerator[bytes, None]:
        yield encoder.begin_list(self._query.dataset)
        async with aclosing(self._batches(encoder.row_text, self._query)) as batches:
            async for rows in batches:
                self.records_done += len(rows)
                yield encoder.rows(0, rows, first=False)
        await require_whole_tables(self._connection)


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
            await connection.execute(QUERIES["plan_for_arguments"])
            await connection.fetch(locking, email, after, timeout=QUERY_TIMEOUT_SECONDS)
        await require_whole_tables(connection)
        yield UserList(connection, dataset, email=email, after=after)

"""Snapshots of the application's data: how they are opened, what makes them worthless, what their failures mean."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import asyncpg

from service.database import CONNECTION_LOST, QUERIES, Connection, Pool, acquire
from service.errors import DocumentError, ServiceError, UnavailableError

# What says nothing of the data, and may be over in a moment.
PASSING_TROUBLES = (
    TimeoutError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,  # a deadlock, or a replica's conflict with its primary
    asyncpg.InsufficientResourcesError,
)


class _RollBackError(Exception):
    """Ends a transaction of asyncpg's without committing it."""


@asynccontextmanager
async def open_snapshot(pool: Pool, acquire_timeout_seconds: float) -> AsyncIterator[Connection]:
    """REPEATABLE READ, READ ONLY; rolled back at its end, with what the datasets' functions have set: the next user
    has the same connection.
    """
    async with acquire(pool, timeout_seconds=acquire_timeout_seconds, server="source") as connection:
        with suppress(_RollBackError):
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute(QUERIES["use_portable_formats"])
                yield connection
                raise _RollBackError


async def require_whole_tables(connection: Connection) -> None:
    """Raise UnavailableError if a table that the snapshot's queries have read was rewritten or exchanged since.

    A query has its snapshot before it waits for its tables. What ALTER TABLE or TRUNCATE held then looks empty to it
    (PostgreSQL's manual, "Serialization and Concurrency Caveats"), and so does another table that was filled and then
    renamed or attached in its place. From the first query on the locks prevent it.
    """
    if await connection.fetchval(QUERIES["has_rewritten_table"]):
        raise UnavailableError("A table of the application's database was being rebuilt")


@contextmanager
def naming_failures() -> Iterator[None]:
    """Failures of a query as errors of ours; `acquire` names those of the connection."""
    try:
        yield
    except PASSING_TROUBLES as error:
        raise UnavailableError("The application's database could not finish a query") from error
    except CONNECTION_LOST:
        raise
    except asyncpg.PostgresError as error:
        raise DocumentError("The application's data can't be read") from error


@contextmanager
def refusing_foreign_characters(refusal: ServiceError) -> Iterator[None]:
    """For a query that gives no text: an argument that its database's encoding lacks equals nothing there."""
    try:
        yield
    except asyncpg.UntranslatableCharacterError:
        raise refusal from None

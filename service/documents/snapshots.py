"""Snapshots of the application's data: how they are opened, what makes them worthless, what their failures mean."""

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NamedTuple

import asyncpg

from service.backends.database import CONNECTION_LOST, QUERIES, Connection, Pool, acquire, look_at_replay, snapshot
from service.errors import DocumentError, OutageError, ServiceError, UnavailableError

# For rounded times, clocks of the application, and sessions that have begun a transaction and not yet said so.
MARGIN_SECONDS = 5.0
# Transient failures, independent of the data.
PASSING_TROUBLES = (
    TimeoutError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,  # a deadlock
    asyncpg.ConfigurationLimitExceededError,  # temp_file_limit
)


class Snapshot(NamedTuple):
    """Rows that it doesn't see may be dated from `changes_from` on; None if it wasn't asked for.

    On a standby, `replayed_at` is when the last commit was made that it is sure to see.
    """

    connection: Connection
    changes_from: dt.datetime | None
    replayed_at: dt.datetime | None


class _RollBackError(Exception):
    """Ends a transaction of asyncpg's without committing it."""


@asynccontextmanager
async def open_snapshot(pool: Pool, acquire_timeout_seconds: float) -> AsyncIterator[Connection]:
    """REPEATABLE READ, READ ONLY; rolled back at its end, with what the datasets' functions have set: the next user
    has the same connection.
    """
    async with (
        acquire(pool, timeout_seconds=acquire_timeout_seconds, server="source") as connection,
        take_snapshot(connection),
    ):
        yield connection


@asynccontextmanager
async def open_dated_snapshot(
    pool: Pool, acquire_timeout_seconds: float, *, overlap_seconds: float | None, margin_seconds: float = MARGIN_SECONDS
) -> AsyncIterator[Snapshot]:
    """The same, with its times. They are asked before: a transaction that is open in the snapshot was open then, or
    began later. Without `overlap_seconds`, it has no `changes_from`.
    """
    async with acquire(pool, timeout_seconds=acquire_timeout_seconds, server="source") as connection:
        changes_from = None
        if overlap_seconds is not None:
            with naming_failures():
                changes_from = await connection.fetchval(QUERIES["find_changes_from"], overlap_seconds, margin_seconds)
        async with take_snapshot(connection) as replayed_at:
            yield Snapshot(connection, changes_from, replayed_at)


@asynccontextmanager
async def take_snapshot(connection: Connection) -> AsyncIterator[dt.datetime | None]:
    """Yields `replayed_at` of the snapshot."""
    replayed_at = await look_at_replay(connection)
    with suppress(_RollBackError):
        async with snapshot(connection):
            yield replayed_at
            raise _RollBackError


async def require_whole_tables(connection: Connection) -> None:
    """Raise UnavailableError if a table that the snapshot's queries have read was rewritten or exchanged since.

    A query has its snapshot before it waits for its tables. A table that ALTER TABLE or TRUNCATE held then looks empty
    to it (PostgreSQL's manual, "Serialization and Concurrency Caveats"), and so does another table that was filled and
    then renamed or attached in its place. From the first query on the locks prevent it.
    """
    if await connection.fetchval(QUERIES["has_rewritten_table"]):
        raise UnavailableError("A table of the application's database was being rebuilt")


@contextmanager
def naming_failures() -> Iterator[None]:
    """Failures of a query as errors of ours; `acquire` names those of the connection."""
    try:
        yield
    except asyncpg.SerializationError:
        raise
    except asyncpg.DeadlockDetectedError as error:
        if "recovery" in str(error):  # a replica's own kind, which only its primary's changes cause
            raise OutageError("A replica had to replay its primary's changes", server="source") from error
        raise UnavailableError("The application's database could not finish a query") from error
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

"""Connections, the queries of `sql/queries/`, and the migrations of `sql/migrations/`."""

import asyncio
import hashlib
import re
import traceback
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.errors import ConfigurationError, OutageError
from service.settings import SQL_DIR
from service.unreachable import OS_FAILURES, Failures, find_words

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
UserId: TypeAlias = uuid.UUID | int | str

CLOSE_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 5.0
# For a server that vanished without a word; the queries of documents have a limit of their own.
COMMAND_TIMEOUT_SECONDS = 30.0
ROWS_AT_ONCE = 1_000
MIGRATION_LOCK = int.from_bytes(b"carryout"[:7])
CONNECTION_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a query that meets the server's farewell half-way
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)

# What a server says of its role, or of itself, to whatever is asked: no fault of the question.
REFUSALS = (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)

ENDED_CONNECTION = "ended the connection"
REFUSED_PASSWORD = "refused the password"  # noqa: S105 (words)
# The first that fits.
FAILURES: Failures = (
    (asyncpg.InvalidPasswordError, REFUSED_PASSWORD),
    (asyncpg.InvalidAuthorizationSpecificationError, "refused the user"),
    (asyncpg.InvalidCatalogNameError, "has no such database"),
    (asyncpg.InsufficientPrivilegeError, "denies the user access to the database"),
    (asyncpg.TooManyConnectionsError, "has no connection left"),
    (asyncpg.CannotConnectNowError, "is starting or stopping"),
    (asyncpg.ReadOnlySQLTransactionError, "is read-only"),
    (asyncpg.InvalidCachedStatementError, "was migrated a moment ago"),
    (asyncpg.AdminShutdownError, ENDED_CONNECTION),
    (asyncpg.CrashShutdownError, ENDED_CONNECTION),
    (asyncpg.PostgresConnectionError, ENDED_CONNECTION),
    (asyncpg.InternalClientError, ENDED_CONNECTION),
    (asyncpg.UndefinedObjectError, "doesn't know a parameter that the URL gives"),
    (asyncpg.exceptions.ClientConfigurationError, "can't be asked: the URL, or a file for its sslmode, is wrong"),
    (asyncpg.InterfaceError, ENDED_CONNECTION),
    *OS_FAILURES,
)


def load_queries(directory: Path = SQL_DIR / "queries") -> dict[str, str]:
    """The statements below each `-- name: …` line. Raises ConfigurationError if two share a name."""
    queries: dict[str, str] = {}
    for path in sorted(directory.glob("*.sql")):
        _, *parts = re.split(r"^-- name: (\w+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in queries:
                raise ConfigurationError(f"Two queries are called {name}")
            queries[name] = text.strip().removesuffix(";")
    return queries


QUERIES = load_queries()


@asynccontextmanager
async def open_pool(dsn: str, *, size: int, application_name: str) -> AsyncIterator[Pool]:
    """A pool that connects on demand, so that a process starts, and says why it isn't ready, without its database.

    Closing waits for running queries a few seconds, then cuts them.
    """
    pool = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        reset=_leave_session,
        server_settings={"application_name": application_name},
    )
    await pool  # connects to nobody yet
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()


async def _leave_session(_connection: Connection) -> None:
    """The transaction has ended, and nothing here outlives one: settings and locks are local to it."""


@asynccontextmanager
async def acquire(pool: Pool, *, timeout_seconds: float, server: str = "postgresql") -> AsyncIterator[Connection]:
    """A connection of `pool`. Raises OutageError, of `server`, if none is free in time, PostgreSQL goes away, or it
    has become a replica.

    What else the caller's block raises stays as it is, an OSError of another server, say.
    """
    try:
        connection = await pool.acquire(timeout=timeout_seconds)
    except (*CONNECTION_LOST, asyncpg.PostgresError) as error:  # the latter: it refused to connect
        if is_busy(pool):
            raise OutageError("All connections are in use", server=server) from None
        raise OutageError("PostgreSQL is not available", server=server) from error
    try:
        yield connection
    except CONNECTION_LOST as error:
        if _is_servers(error) or _is_lost(connection):
            raise OutageError("PostgreSQL is not available", server=server) from error
        raise
    except asyncpg.InvalidCachedStatementError as error:  # asyncpg has forgotten all of the pool's statements by now
        raise OutageError("The database was migrated meanwhile", server=server) from error
    except asyncpg.ReadOnlySQLTransactionError as error:
        if server == "source":  # a dataset that writes
            raise
        connection.terminate()  # the next one may lead to the primary
        raise OutageError("PostgreSQL is not available", server=server) from error
    finally:
        with suppress(*CONNECTION_LOST):
            await pool.release(connection)


async def iterate(connection: Connection, query: str, *arguments: object) -> AsyncGenerator[asyncpg.Record]:
    """The rows of a read, a thousand in memory at a time. To be closed, which ends its transaction."""
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(query, *arguments, prefetch=ROWS_AT_ONCE):
            yield row


def is_busy(pool: Pool) -> bool:
    return pool.get_size() == pool.get_max_size() and not pool.get_idle_size()


def _is_servers(error: BaseException) -> bool:
    """Whether only the database can have said it; an OSError may be another server's."""
    return isinstance(error, asyncpg.PostgresError | asyncpg.InternalClientError) or (
        isinstance(error, TimeoutError) and _is_asyncpgs(error)
    )


def _is_asyncpgs(error: BaseException) -> bool:
    """Whether asyncpg itself raised it: a query that took too long ends in a plain TimeoutError, and leaves the
    connection open.
    """
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(modules) and modules[-1].startswith("asyncpg.")


def _is_lost(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has taken it back already
        return True


@asynccontextmanager
async def connect(
    dsn: str, *, name: str = "CARRYOUT_DATABASE_URL"
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """One connection for a command. Raises ConfigurationError, naming the setting, if there is no such server, it goes
    away meanwhile, its role lacks a right, or it is a replica that should be written to.
    """
    async with _naming_bad_dsn(name):
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_SECONDS)
    try:
        yield connection
    except REFUSALS as error:  # their words name tables and schemas, never what is in them
        raise ConfigurationError(f"PostgreSQL refuses this: {error.args[0]} ({name})") from error
    except CONNECTION_LOST as error:
        if _is_servers(error) or connection.is_closed():
            raise ConfigurationError(f"PostgreSQL went away ({name})") from error
        raise
    finally:
        with suppress(*CONNECTION_LOST):
            await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)


@asynccontextmanager
async def _naming_bad_dsn(name: str) -> AsyncIterator[None]:
    try:
        yield
    except (*CONNECTION_LOST, asyncpg.PostgresError, ValueError) as error:
        raise ConfigurationError(f"PostgreSQL {describe_failure(error)} ({name})") from error


def describe_failure(error: BaseException) -> str:
    """What follows the server's name in a sentence. An error's own words may hold addresses and users."""
    return find_words(FAILURES, error) or f"can't be used: {type(error).__name__}"


async def migrate(dsn: str, *, user_id_type: str, directory: Path = SQL_DIR / "migrations") -> list[str]:
    """Apply what is new in `directory`, each file in a transaction of its own; returns the names applied.

    Several processes may call this at once: one applies, the others wait for it. Raises ConfigurationError if an
    applied file was edited since, or the database was made with another type of user ids.
    """
    async with connect(dsn) as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
        await connection.execute(QUERIES["create_schema_migrations"])
        applied = await _applied_migrations(connection)
        files = sorted(directory.glob("*.sql"))
        _refuse_edited(files, applied)
        fresh = [path for path in files if path.stem not in applied]
        for path in fresh:
            async with connection.transaction():
                await connection.execute("SELECT set_config('carryout.user_id_type', $1, true)", user_id_type)
                await connection.execute(path.read_text(encoding="utf-8"))
                await connection.execute(QUERIES["record_migration"], path.stem, _checksum(path))
        await check_user_id_type(connection, user_id_type)
    return [path.stem for path in fresh]


async def check_schema(connection: Connection, *, user_id_type: str) -> None:
    """Raise ConfigurationError unless the database is migrated to what this code needs."""
    migrated = await connection.fetchval("SELECT to_regclass('carryout.schema_migrations') IS NOT NULL")
    applied = await _applied_migrations(connection) if migrated else {}
    files = sorted((SQL_DIR / "migrations").glob("*.sql"))
    if missing := [path.stem for path in files if path.stem not in applied]:
        raise ConfigurationError(f"The database lacks migration {missing[0]}: run `carryout migrate`")
    _refuse_edited(files, applied)
    await check_user_id_type(connection, user_id_type)


async def check_user_id_type(connection: Connection, user_id_type: str) -> None:
    actual = await connection.fetchval(QUERIES["find_user_id_type"])
    if actual != user_id_type:
        raise ConfigurationError(
            f"CARRYOUT_USER_ID_TYPE is {user_id_type}, but this database was made with {actual}, which can't change"
        )


async def _applied_migrations(connection: Connection) -> dict[str, bytes]:
    return {row["name"]: row["sha256"] for row in await connection.fetch(QUERIES["list_migrations"])}


def _refuse_edited(files: Iterable[Path], applied: dict[str, bytes]) -> None:
    for path in files:
        if path.stem in applied and applied[path.stem] != _checksum(path):
            raise ConfigurationError(f"Migration {path.stem} was edited after it was applied: add a new one instead")


def _checksum(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()

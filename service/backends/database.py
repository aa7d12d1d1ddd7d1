"""Connections, the queries of `sql/queries/`, and the migrations of `sql/migrations/`."""

import asyncio
import datetime as dt
import hashlib
import math
import re
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction, TransactionState

from guard.text import printable
from service.backends.failures import BEHIND_POOLER, describe_postgresql
from service.backends.postgresql_url import Host, PostgresqlUrl, parse_postgresql_url
from service.errors import AWAY, NO_SUCH_USER, ConfigurationError, OutageError, SubjectNotFoundError
from service.settings import SQL_DIR

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
IsolationLevels: TypeAlias = Literal["read_committed", "read_uncommitted", "serializable", "repeatable_read"]


CLOSE_TIMEOUT_SECONDS = 5.0
# Azure's load balancer forgets a connection that was idle for four minutes, without a word to either side.
IDLE_SECONDS = 200.0
# For a server that vanished without a word; the queries of documents have a limit of their own.
COMMAND_TIMEOUT_SECONDS = 30.0
ROWS_AT_ONCE = 1_000
DATABASE_URL = "CARRYOUT_DATABASE_URL"
SOURCE_URL = "CARRYOUT_SOURCE_DATABASE_URL"
MIGRATION_URL = "CARRYOUT_MIGRATION_DATABASE_URL"
HOLD_EVERYTHING = {"UTF8", "SQL_ASCII"}  # encodings, as PostgreSQL calls them
# Only schemas in which a superuser alone can create functions, operators and types.
SAFE_SEARCH_PATH = "pg_catalog, pg_temp"
# A database's or a role's settings (ALTER DATABASE … SET) would otherwise change the meaning of our own queries.
OWN_SESSION = {
    "search_path": SAFE_SEARCH_PATH,
    "default_transaction_isolation": "read committed",  # a query that waited for a lock sees what its holder did
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",  # format_type() would name the type of users' ids in quotes
}
# These can't be set later; a pooler passes them on.
AT_THE_START = {"application_name", "options"}
# The time that `migrate` waits for another `migrate`, or for a session that locks one of its tables.
MIGRATION_LOCK_SECONDS = 30
RACE_SECONDS = 0.2
# The server, not the query, is at fault: the classes 08, 53, 57 and 58 of PostgreSQL's appendix A.
CONNECTION_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a query that meets the server's farewell half-way
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
)

# Raised where another timeout of the role or the database than statement_timeout ends a query, or its session.
CUT_SHORT = (asyncpg.LockNotAvailableError, asyncpg.IdleInTransactionSessionTimeoutError)
# Refusals because of the role's rights or the server's state, independent of the query.
REFUSALS = (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)


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

# After a quiet hour a standby looks an hour behind for the milliseconds that replaying the next change takes.
CATCH_UP_LOOKS = 10
CATCH_UP_PAUSE_SECONDS = 0.1


class _LocalTransaction(Transaction):
    """A transaction that begins with settings of its own, in the same round trip."""

    _connection: "_SourceConnection"

    def __init__(
        self,
        connection: "_SourceConnection",
        isolation: IsolationLevels | None,
        *,
        readonly: bool = False,
        deferrable: bool = False,
        settings: str = "",
    ) -> None:
        super().__init__(connection, isolation, readonly, deferrable)
        modes = [f"ISOLATION LEVEL {isolation.replace('_', ' ').upper()}"] if isolation else []
        modes += ["READ ONLY"] if readonly else []
        modes += ["DEFERRABLE"] if deferrable else []
        self._commands = f"BEGIN {', '.join(modes)};\n{settings}"

    async def start(self) -> None:
        connection = self._connection
        if connection._top_xact is not None:  # noqa: SLF001 (a savepoint begins as asyncpg's do)
            await super().start()
            return
        connection._top_xact = self  # noqa: SLF001 (as `start` does)
        try:
            await connection.execute(self._commands)
        except BaseException:
            connection._top_xact = None  # noqa: SLF001 (as in `rollback`, which an `async with` block forbids)
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
            raise
        self._state = TransactionState.STARTED


class _SourceConnection(asyncpg.Connection):
    """A connection that looks names up where its role's settings say, as the operators' SQL expects."""

    beginning: str = ""
    max_replica_lag_seconds: float = math.inf
    _top_xact: Transaction | None

    def snapshot(self) -> Transaction:
        settings = f"{self.beginning};\n" if self.beginning else ""
        settings += QUERIES["use_portable_formats"]
        return _LocalTransaction(self, "repeatable_read", readonly=True, settings=settings)

    async def look_at_replay(self) -> dt.datetime | None:
        if getattr(self.get_settings(), "in_hot_standby", "") == "off":  # known since PostgreSQL 14
            return None
        looks = CATCH_UP_LOOKS
        while (replay := await self._find_replay()) and replay["lag_seconds"] > self.max_replica_lag_seconds:
            if not looks:
                age = round(replay["lag_seconds"])
                raise OutageError(f"The replica of the application's database is {age} seconds behind", server="source")
            looks -= 1
            await asyncio.sleep(CATCH_UP_PAUSE_SECONDS)
        return replay["replayed_at"] if replay else None

    async def _find_replay(self) -> asyncpg.Record | None:
        """None unless this is a standby."""
        replay = await self.fetchrow(QUERIES["find_replay"])
        return replay if replay and replay["in_recovery"] else None

    async def _introspect_types(self, *arguments: Any) -> Any:
        """Asyncpg looks up unknown types by unqualified names, which another role could plant."""
        async with using_safe_search_path(self):
            types, _ = await super()._introspect_types(*arguments)  # type: ignore[misc]  # not in the stubs
        return types, _UNNAMED


# Has asyncpg prepare a statement without a name again, which the transaction's own commands have replaced.
_UNNAMED = SimpleNamespace(name="")


class _PooledConnection(_SourceConnection):
    """A connection to a pooler that gives each transaction another session of the server.

    So each statement runs in a transaction of its own or of the caller's, and none has a name: in the next session it
    would be unknown, or another client's. `beginning` are the settings that another connection's session would have
    been opened with.
    """

    isolation: IsolationLevels | None

    def transaction(
        self, *, isolation: IsolationLevels | None = None, readonly: bool = False, deferrable: bool = False
    ) -> Transaction:
        outermost = self.isolation if self._top_xact is None else None
        return _LocalTransaction(
            self, isolation or outermost, readonly=readonly, deferrable=deferrable, settings=self.beginning
        )

    async def execute(self, *arguments: Any, **options: Any) -> str:
        async with self._within_transaction():
            return await super().execute(*arguments, **options)

    async def _execute(self, *arguments: Any, **options: Any) -> Any:
        async with self._within_transaction():
            return await super()._execute(*arguments, **options)  # type: ignore[misc]  # not in the stubs

    async def _executemany(self, *arguments: Any, **options: Any) -> Any:
        async with self._within_transaction():
            return await super()._executemany(*arguments, **options)  # type: ignore[misc]  # not in the stubs

    async def _get_statement(self, *arguments: Any, **options: Any) -> Any:
        return await super()._get_statement(*arguments, **options | {"named": False})  # type: ignore[misc]  # not in the stubs

    def _within_transaction(self) -> AbstractAsyncContextManager[object]:
        """Commands that begin and end a transaction come here, too, when half of its state has changed."""
        within = self._top_xact is not None or self.is_in_transaction()
        return nullcontext() if within else self.transaction()


def _pooled(session: Mapping[str, str], isolation: IsolationLevels | None, limit: float) -> type[_PooledConnection]:
    """`session` are the settings of each transaction."""
    settings = [f"pg_catalog.set_config({_literal(name)}, {_literal(text)}, true)" for name, text in session.items()]

    class Pooled(_PooledConnection):
        max_replica_lag_seconds = limit

    Pooled.beginning = f"SELECT {', '.join(settings)}" if settings else ""
    Pooled.isolation = isolation
    return Pooled


def _reading(limit: float) -> type[_SourceConnection]:
    class Reading(_SourceConnection):
        max_replica_lag_seconds = limit

    return Reading


def _literal(text: str) -> str:
    """A literal in every setting of standard_conforming_strings."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _session(
    url: PostgresqlUrl,
    *,
    own_search_path: bool,
    application_name: str | None,
    max_replica_lag_seconds: float = math.inf,
) -> dict[str, Any]:
    """Arguments of asyncpg for the settings that a connection depends on beside its URL: the search path above all.

    PostgreSQL prefers a function or an operator of exactly the right types, wherever in the search path it is, to one
    of its own that needs a conversion. `own_search_path` is for the operators' SQL, which may count on the role's.
    """
    session = dict(url.session) if own_search_path else url.session | OWN_SESSION
    named = {"application_name": application_name} if application_name else {}
    named |= {name: session.pop(name) for name in AT_THE_START & session.keys()}
    if url.transaction_pooling:
        isolation: IsolationLevels | None = None if own_search_path else "read_committed"
        return {
            "connection_class": _pooled(session, isolation, max_replica_lag_seconds),
            "server_settings": named,
            "statement_cache_size": 0,
        }
    connection_class = _reading(max_replica_lag_seconds) if own_search_path else asyncpg.Connection
    return {
        "connection_class": connection_class,
        "server_settings": named | session,
        "max_cacheable_statement_size": 0,  # a document's survey is as long as its datasets are
    }


class _Connector:
    """Opens connections to the first of the URL's hosts that takes them; the one that did is asked first again."""

    def __init__(self, url: PostgresqlUrl, *, own_search_path: bool) -> None:
        self._url = url
        self._hosts = list(url.hosts)
        # Without another word, one of several servers can be written to; the source may be any of them.
        self._target = url.target or ("any" if own_search_path else "read-write")

    async def __call__(self, _dsn: str | None = None, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
        """`options` are those of asyncpg.connect."""
        options |= {"timeout": self._url.connect_timeout_seconds}
        if self._url.tls:
            options["ssl"] = self._url.tls
        found: asyncpg.Connection[asyncpg.Record]
        if not self._hosts:
            found = await asyncpg.connect(self._url.dsn, **options)
            return found
        error: Exception | None = None
        for host, target in self._candidates():
            options |= {"host": host[0], "port": host[1], "target_session_attrs": target}
            try:
                found = await asyncpg.connect(self._url.dsn, **options)
            except CONNECTION_LOST as refusal:
                error = error or refusal
            else:
                self._hosts.insert(0, self._hosts.pop(self._hosts.index(host)))
                return found
        assert error is not None
        raise error

    def _candidates(self) -> list[tuple[Host, str]]:
        targets = ["standby", "any"] if self._target == "prefer-standby" else [self._target]
        return [(host, target) for target in targets for host in tuple(self._hosts)]


@asynccontextmanager
async def open_pool(
    dsn: str,
    *,
    size: int,
    application_name: str,
    own_search_path: bool = False,
    max_replica_lag_seconds: float = math.inf,
) -> AsyncIterator[Pool]:
    """A pool that connects on demand, so that a process starts, and says why it isn't ready, without its database.

    Closing waits for running queries a few seconds, then cuts them. With `own_search_path`, all names but the
    operators' must be qualified.
    """
    url = parse_postgresql_url(dsn, SOURCE_URL if own_search_path else DATABASE_URL)
    connector: Any = _Connector(url, own_search_path=own_search_path)
    pool = asyncpg.create_pool(
        min_size=0,
        max_size=size,
        connect=connector,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        max_inactive_connection_lifetime=IDLE_SECONDS,
        reset=_leave_session,
        **_session(
            url,
            own_search_path=own_search_path,
            application_name=application_name,
            max_replica_lag_seconds=max_replica_lag_seconds,
        ),
    )
    await pool  # opens no connection yet
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
    """A connection of `pool`. Raises OutageError, of `server`, if none is free in time, PostgreSQL goes away, it has
    become a replica, or our own role has lost its rights.

    Raises SubjectNotFoundError for a character that the database's encoding lacks: of all texts only a user's id may
    have one in a query, and then there is no such user.

    What else the caller's block raises stays as it is, an OSError of another server, say.
    """
    try:
        connection = await pool.acquire(timeout=timeout_seconds)
    except (*CONNECTION_LOST, asyncpg.PostgresError) as error:  # the latter: it refused to connect
        if is_busy(pool):
            raise OutageError("All connections are in use", server=server) from None
        raise OutageError(AWAY, server=server) from error
    cut_short = () if server == "source" else CUT_SHORT  # there, it is the dataset that takes too long
    try:
        yield connection
    except (*CONNECTION_LOST, *cut_short) as error:
        if _is_servers(error) or _is_lost(connection):
            raise OutageError(AWAY, server=server) from error
        raise
    # asyncpg has forgotten all of the pool's statements by now; or what the query read is gone from a replica
    except (asyncpg.InvalidCachedStatementError, asyncpg.SerializationError) as error:
        raise OutageError(AWAY, server=server) from error
    except asyncpg.UntranslatableCharacterError as error:
        raise SubjectNotFoundError(NO_SUCH_USER) from error
    except REFUSALS as error:
        if server == "source":  # a dataset that writes, or reads what its role may not
            raise
        connection.terminate()  # the next one may lead to the primary
        raise OutageError(AWAY, server=server) from error
    finally:
        with suppress(*CONNECTION_LOST):
            await pool.release(connection)


class Autocommit:
    """A pool whose statements are transactions of their own, each on a connection of its own.

    Each raises what `acquire` does. `encoding` is the database's.
    """

    def __init__(self, pool: Pool, *, timeout_seconds: float, encoding: str) -> None:
        """`timeout_seconds` limits the wait for a connection."""
        self.encoding = encoding
        self._pool = pool
        self._timeout_seconds = timeout_seconds

    async def fetchrow(self, query: str, *arguments: object) -> asyncpg.Record | None:
        async with acquire(self._pool, timeout_seconds=self._timeout_seconds) as connection:
            return await connection.fetchrow(query, *arguments)

    async def execute(self, query: str, *arguments: object) -> str:
        async with acquire(self._pool, timeout_seconds=self._timeout_seconds) as connection:
            return await connection.execute(query, *arguments)

    async def fetchval(self, query: str, *arguments: object) -> Any:
        async with acquire(self._pool, timeout_seconds=self._timeout_seconds) as connection:
            return await connection.fetchval(query, *arguments)


Executor: TypeAlias = "Connection | Autocommit"


def encoding_of(executor: Executor) -> str:
    """The encoding of the database, as PostgreSQL calls it."""
    if isinstance(executor, Autocommit):
        return executor.encoding
    encoding: str = executor.get_settings().server_encoding
    return encoding


async def iterate(connection: Connection, query: str, *arguments: object) -> AsyncGenerator[asyncpg.Record]:
    """The rows of a read, a thousand in memory at a time. To be closed, which ends its transaction."""
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(query, *arguments, prefetch=ROWS_AT_ONCE):
            yield row


@asynccontextmanager
async def using_settings(connection: Connection, settings: str) -> AsyncIterator[list[str]]:
    """For reads with the settings that the statements `settings` make. They end here, also within a transaction.

    Yields a list for statements that clean up behind the settings. Each way takes one round trip if a transaction is
    open.
    """
    cleanup: list[str] = []
    async with within_transaction(connection):
        await connection.execute(f"SAVEPOINT carryout_settings;\n{settings}")
        try:
            yield cleanup
        finally:
            end = ["ROLLBACK TO SAVEPOINT carryout_settings", "RELEASE SAVEPOINT carryout_settings", *cleanup]
            await connection.execute("; ".join(end))


def within_transaction(connection: Connection) -> AbstractAsyncContextManager[object]:
    """The open transaction, or one for reads."""
    return nullcontext() if connection.is_in_transaction() else connection.transaction(readonly=True)


def using_safe_search_path(connection: Connection) -> AbstractAsyncContextManager[object]:
    """For queries of our own on a connection that has its role's search path."""
    return using_settings(connection, f"SET LOCAL search_path = {SAFE_SEARCH_PATH}")


def snapshot(connection: Connection) -> Transaction:
    """A REPEATABLE READ, READ ONLY transaction of a source's connection, with the settings that documents need."""
    transaction: Transaction = connection.snapshot()  # type: ignore[union-attr]  # of _SourceConnection, also through a pool's proxy
    return transaction


async def look_at_replay(connection: Connection) -> dt.datetime | None:
    """When the last commit was made that a standby has replayed; None on a primary.

    To be called before a snapshot is taken, which is then sure to have that commit. Raises OutageError if a standby's
    data is too old.
    """
    replayed_at: dt.datetime | None = await connection.look_at_replay()  # type: ignore[union-attr]  # likewise
    return replayed_at


def is_busy(pool: Pool) -> bool:
    return pool.get_size() == pool.get_max_size() and not pool.get_idle_size()


def _is_servers(error: BaseException) -> bool:
    """Whether the error certainly comes from the database. An OSError may come from another server."""
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
    dsn: str, *, name: str = DATABASE_URL, own_search_path: bool = False
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """One connection for a command. Raises ConfigurationError, naming the setting, if there is no such server, it goes
    away meanwhile, its role lacks a right, or it is a replica that should be written to.

    With `own_search_path`, all names but the operators' must be qualified, or used `using_safe_search_path`.
    """
    url = parse_postgresql_url(dsn, name)
    open_connection = _Connector(url, own_search_path=own_search_path)
    async with _naming_bad_dsn(name):
        connection = await open_connection(**_session(url, own_search_path=own_search_path, application_name=None))
    try:
        if url.transaction_pooling:
            async with _naming_bad_dsn(name):
                await connection.execute("SELECT")  # its transaction begins with the URL's parameters
        else:
            await _refuse_pooler(connection, name)
        yield connection
    except asyncpg.UntranslatableCharacterError as error:
        raise ConfigurationError(f"The database's encoding lacks a character of what was given ({name})") from error
    except REFUSALS as error:  # their words name tables and schemas, never what is in them
        raise ConfigurationError(f"PostgreSQL refuses this: {error.args[0]} ({name})") from error
    except CONNECTION_LOST as error:
        if _is_servers(error) or connection.is_closed():
            raise ConfigurationError(f"PostgreSQL went away ({name})") from error
        raise
    finally:
        with suppress(*CONNECTION_LOST):
            await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)


async def _refuse_pooler(connection: Connection, name: str) -> None:
    """Raise ConfigurationError if the server's session is not the one that the connection was opened with.

    Behind a pooler that no setting names, the safe search path may not hold.
    """
    try:
        own = await connection.fetchval("SELECT pg_catalog.pg_backend_pid()") == connection.get_server_pid()
    except (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError):
        own = False
    if not own:
        raise ConfigurationError(f"PostgreSQL {BEHIND_POOLER} ({name})")


@asynccontextmanager
async def _naming_bad_dsn(name: str) -> AsyncIterator[None]:
    try:
        yield
    except (*CONNECTION_LOST, asyncpg.PostgresError, ValueError) as error:
        words = describe_postgresql(error)
        code = error.sqlstate if isinstance(error, asyncpg.PostgresError) and words != BEHIND_POOLER else None
        raise ConfigurationError(f"PostgreSQL {words} ({name}{f'; {code}' if code else ''})") from error


async def migrate(
    dsn: str,
    *,
    user_id_type: str,
    owner: str = "",
    name: str = DATABASE_URL,
    directory: Path = SQL_DIR / "migrations",
) -> list[str]:
    """Apply what is new in `directory`, each file in a transaction of its own; returns the names it has applied.

    Several processes may call this at once: one applies a file, the others wait for it. Raises ConfigurationError if an
    applied file was edited since, the database was made with another type of user ids, another session holds a lock for
    MIGRATION_LOCK_SECONDS, or something in the schema belongs to another role than `owner`, by default the one that
    connects.
    """
    files = sorted(directory.glob("*.sql"))
    async with connect(dsn, name=name) as connection, _naming_locks():
        await _require_role(connection, owner, name)
        await _create_schema_migrations(connection, owner)
        async with _migrating(connection):
            applied = await _applied_migrations(connection)
        _refuse_edited(files, applied)
        fresh = [path for path in files if path.stem not in applied]
        done = [path.stem for path in fresh if await _apply(connection, path, user_id_type)]
        async with _migrating(connection):
            await check_user_id_type(connection, user_id_type)
    return done


@asynccontextmanager
async def _migrating(connection: Connection) -> AsyncIterator[None]:
    """A transaction that doesn't wait for a lock for ever."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_SECONDS}s'")
        yield


@asynccontextmanager
async def _naming_locks() -> AsyncIterator[None]:
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise ConfigurationError(
            f"Another session has held a lock that a migration needs for {MIGRATION_LOCK_SECONDS} seconds: end it, or "
            "wait for it (pg_stat_activity shows it), and run `carryout migrate` again"
        ) from error


async def _create_schema_migrations(connection: Connection, owner: str) -> None:
    """Retried in a new transaction when another process makes the schema or its table at the same moment."""
    for _ in range(4):
        with suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateSchemaError, asyncpg.DuplicateTableError):
            await _create_own_schema_migrations(connection, owner)
            return
        await asyncio.sleep(RACE_SECONDS)
    await _create_own_schema_migrations(connection, owner)


async def _create_own_schema_migrations(connection: Connection, owner: str) -> None:
    """The lock keeps what another process applies, half of which the check could see, out of it."""
    async with _migrating(connection):
        await _refuse_foreign_objects(connection, owner)
        await connection.execute(QUERIES["create_schema_migrations"])
        await connection.execute(QUERIES["lock_migrations"])
        await check_owner(connection, owner)


async def _apply(connection: Connection, path: Path, user_id_type: str) -> bool:
    """False if it was applied before. The lock is one that only roles with rights on the table can take."""
    async with _migrating(connection):
        await connection.execute(QUERIES["lock_migrations"])
        if path.stem in await _applied_migrations(connection):
            return False
        await connection.execute("SELECT set_config('carryout.user_id_type', $1, true)", user_id_type)
        await connection.execute(path.read_text(encoding="utf-8"))
        await connection.execute(QUERIES["record_migration"], path.stem, _checksum(path))
    return True


async def grant_serving_role(dsn: str, serving_dsn: str) -> None:
    """Let the role of `serving_dsn` use the schema, and no more; `dsn` is that of the schema's owner.

    Raises ConfigurationError if the two URLs lead to different servers or databases.
    """
    async with connect(serving_dsn) as serving:
        role, database = await serving.fetchrow("SELECT current_user, current_database()") or ("", "")
    async with connect(dsn, name=MIGRATION_URL) as connection, connection.transaction():
        if not await connection.fetchval(QUERIES["has_role_and_database"], role, database):
            raise ConfigurationError(f"{MIGRATION_URL} leads to another database than CARRYOUT_DATABASE_URL")
        # Two that grant the same at once are an error of PostgreSQL's.
        await connection.execute("LOCK TABLE carryout.schema_migrations IN EXCLUSIVE MODE")
        await connection.execute("SELECT pg_catalog.set_config('carryout.serving_role', $1, true)", role)
        await connection.execute(QUERIES["grant_serving_role"])


async def check_schema(connection: Connection, *, user_id_type: str, owner: str = "") -> None:
    """Raise ConfigurationError unless the database is migrated to what this code needs, by `owner`: by default, the
    role that connects.
    """
    try:
        await check_owner(connection, owner)
        await _check_durability(connection)
        migrated = await connection.fetchval("SELECT to_regclass('carryout.schema_migrations') IS NOT NULL")
        applied = await _applied_migrations(connection) if migrated else {}
    except asyncpg.InsufficientPrivilegeError as error:  # the migrations grant the serving role its rights
        raise ConfigurationError(
            "This role may not use Carryout's tables: run `carryout migrate`, which grants it what it needs"
        ) from error
    files = sorted((SQL_DIR / "migrations").glob("*.sql"))
    if missing := [path.stem for path in files if path.stem not in applied]:
        raise ConfigurationError(f"The database lacks migration {missing[0]}: run `carryout migrate`")
    _refuse_edited(files, applied)
    await check_user_id_type(connection, user_id_type)


async def _check_durability(connection: Connection) -> None:
    """Setting it ourselves would cost a round trip in each transaction, or a parameter that poolers refuse."""
    if await connection.fetchval("SELECT current_setting('synchronous_commit')") == "off":
        raise ConfigurationError(
            "synchronous_commit is off for this role or database: a crash of PostgreSQL would lose accepted exports. "
            "Set it to on (ALTER ROLE, ALTER DATABASE)"
        )


async def check_owner(connection: Connection, owner: str) -> None:
    """Raise ConfigurationError if another role has made the schema or something in it, or changed what is in it."""
    await _refuse_foreign_objects(connection, owner)
    if row := await connection.fetchrow(QUERIES["find_foreign_change"]):
        raise ConfigurationError(f"The {printable(row['found'])}, which no migration made: undo that")


async def _refuse_foreign_objects(connection: Connection, owner: str) -> None:
    expected = owner or await connection.fetchval("SELECT current_user")
    if row := await connection.fetchrow(QUERIES["find_foreign_object"], expected):
        found, other = printable(row["found"]), printable(row["owner"])
        raise ConfigurationError(
            f"The {found} belongs to {other}, not to {expected}: drop it, or set CARRYOUT_SCHEMA_OWNER if it is yours"
        )


async def may_change_trail(connection: Connection) -> bool:
    """Whether the role that connects may lift the audit trail's guard."""
    return bool(await connection.fetchval(QUERIES["may_change_trail"]))


async def _require_role(connection: Connection, owner: str, name: str) -> None:
    role = await connection.fetchval("SELECT current_user")
    if owner and role != owner:
        raise ConfigurationError(f"{name} connects as {role}, but CARRYOUT_SCHEMA_OWNER is {owner}")


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

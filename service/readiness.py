"""Checks of the servers that a process depends on, and log lines when a server becomes unavailable or available."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Literal, TypeAlias, get_args

import asyncpg

from service.backends.database import Connection, Pool, acquire, connect, is_busy
from service.errors import ConfigurationError, OutageError, ServiceError, find_cause
from service.resources import Resources
from service.telemetry.outages import OutageLog

CHECK_TIMEOUT_SECONDS = 2.0
FRESH_SECONDS = 1.0
WATCH_SECONDS = 5.0
Failure: TypeAlias = ServiceError | TimeoutError
Server = Literal["postgresql", "source", "redis", "s3"]
SERVERS: Final[tuple[Server, ...]] = get_args(Server)


class Servers:
    """Concurrent callers share one check per server, and its result is cached for FRESH_SECONDS.

    Otherwise unauthenticated probes could use up PostgreSQL's connections, including the application's.
    """

    def __init__(self, resources: Resources) -> None:
        self.reachable: Final = resources.metrics.server_reachable
        self._checks = {server: _Check(partial(_ask, resources, server)) for server in SERVERS}
        if resources.settings.source_database_url == resources.settings.database_url:
            self._checks["source"] = self._checks["postgresql"]

    async def check(self, server: Server) -> None:
        """Raise OutageError unless it answers within CHECK_TIMEOUT_SECONDS."""
        if failure := await self._checks[server].find_failure():
            raise OutageError(f"The server {server} is not available", server=server) from failure

    async def close(self) -> None:
        await asyncio.gather(*(check.close() for check in self._checks.values()))


class _Check:
    """A failure is cached and returned, not raised: each further raise would lengthen its traceback."""

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[Failure | None] | None = None
        self._fresh_until = 0.0

    async def find_failure(self) -> Failure | None:
        asking = self._asking
        if asking is None or (asking.done() and time.monotonic() >= self._fresh_until):
            asking = self._asking = asyncio.create_task(self._run())
        # Leaves the task to the others when this caller is cancelled; and a connection to a hanging server may take
        # longer to close than a probe waits.
        done, _ = await asyncio.wait({asking}, timeout=CHECK_TIMEOUT_SECONDS)
        return asking.result() if done else TimeoutError()

    async def close(self) -> None:
        if self._asking:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _run(self) -> Failure | None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await self._ask()
        except (ServiceError, TimeoutError) as error:
            return error
        else:
            return None
        finally:
            self._fresh_until = time.monotonic() + FRESH_SECONDS


@asynccontextmanager
async def watch_servers(servers: Servers) -> AsyncIterator[None]:
    """Log and measure the outages of every server, even while no request or probe uses it.

    Closes `servers` at the end.
    """
    watching = asyncio.create_task(_watch(servers))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        await servers.close()


async def _watch(servers: Servers) -> None:
    logs = {server: OutageLog("server_unavailable", "server_available", server=server) for server in SERVERS}
    while True:
        await asyncio.gather(*(_look(servers, server, outages) for server, outages in logs.items()))
        await asyncio.sleep(WATCH_SECONDS)


async def _look(servers: Servers, server: Server, outages: OutageLog) -> None:
    answered = False
    async with outages.catching(Exception):  # no failure may end the watch
        await servers.check(server)
        answered = True
    servers.reachable.labels(server).set(answered)


async def _ask(resources: Resources, server: Server) -> None:
    match server:
        case "postgresql":
            async with _connection(resources.database, resources.settings.database_url) as connection:
                await resources.clock.measure(connection)
            await _log_in(resources.settings.database_url)
        case "source":
            async with _connection(resources.source, resources.settings.source_database_url) as connection:
                await connection.execute("SELECT")
            await _log_in(resources.settings.source_database_url)
        case "redis":
            await resources.queue.check_writable()
        case "s3":
            await resources.storage.check()


@asynccontextmanager
async def _connection(pool: Pool, dsn: str) -> AsyncIterator[Connection]:
    """A separate connection if the pool is busy, because a busy pool says nothing about its server.

    Otherwise busy pods would be taken out of the load balancer, and their traffic would overload the others.
    """
    async with connect(dsn) if is_busy(pool) else acquire(pool, timeout_seconds=CHECK_TIMEOUT_SECONDS) as connection:
        yield connection


async def _log_in(dsn: str) -> None:
    """Raise ConfigurationError if the server refuses the role or its password.

    A pool's connections stay when the password is changed, but requests also need further ones. Other failures say
    nothing here: a server that has no connection left still serves the pool's.
    """
    try:
        async with connect(dsn):
            pass
    except ConfigurationError as error:
        if isinstance(find_cause(error), asyncpg.InvalidAuthorizationSpecificationError):
            raise

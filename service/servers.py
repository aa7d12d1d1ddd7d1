"""The servers a process depends on: whether each answers now, and a line in the log when one ceases or begins to."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Literal, TypeAlias, get_args

from service.bootstrap import Resources
from service.database import Pool, acquire, connect, is_busy
from service.errors import OutageError, ServiceError
from service.troubles import Trouble

CHECK_TIMEOUT_SECONDS = 2.0
FRESH_SECONDS = 1.0
WATCH_SECONDS = 5.0
Failure: TypeAlias = ServiceError | TimeoutError
Server = Literal["postgresql", "source", "redis", "s3"]
SERVERS: Final[tuple[Server, ...]] = get_args(Server)


class Servers:
    """However many ask at once, a server is asked once, and what it answers is good for FRESH_SECONDS.

    Otherwise probes, which anybody may send, could use up PostgreSQL's connections, the application's among them.
    """

    def __init__(self, resources: Resources) -> None:
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
    """A failure is kept and returned, not raised: whoever raised it again would lengthen its traceback."""

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[Failure | None] | None = None
        self._fresh_until = 0.0

    async def find_failure(self) -> Failure | None:
        asking = self._asking
        if asking is None or (asking.done() and time.monotonic() >= self._fresh_until):
            asking = self._asking = asyncio.create_task(self._run())
        # Leaves the task to the others when this caller is cancelled; and a connection to a server that hangs may take
        # longer to close than anybody has to wait.
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
    """Whether or not anybody needs a server just now, or a probe asks for it, the log says when it was away.

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
    troubles = {server: Trouble("server_unavailable", "server_available", server=server) for server in SERVERS}
    while True:
        await asyncio.gather(*(_look(servers, server, trouble) for server, trouble in troubles.items()))
        await asyncio.sleep(WATCH_SECONDS)


async def _look(servers: Servers, server: Server, trouble: Trouble) -> None:
    async with trouble.noting(Exception):  # whatever it is, the watch goes on
        await servers.check(server)


async def _ask(resources: Resources, server: Server) -> None:
    match server:
        case "postgresql":
            await _query(resources.database, resources.settings.database_url)
        case "source":
            await _query(resources.source, resources.settings.source_database_url)
        case "redis":
            await resources.queue.check()
        case "s3":
            await resources.storage.check()


async def _query(pool: Pool, dsn: str) -> None:
    """A busy pool says nothing about its server: then a connection of its own asks. Or busy pods would get no traffic,
    and what they leave would make the others busy.
    """
    async with connect(dsn) if is_busy(pool) else acquire(pool, timeout_seconds=CHECK_TIMEOUT_SECONDS) as connection:
        await connection.execute("SELECT")

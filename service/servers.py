"""The servers a process depends on: whether each answers now, and a line in the log when one ceases or begins to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal, get_args

from service.bootstrap import Resources
from service.database import Pool, acquire, connect
from service.errors import OutageError, ServiceError
from service.troubles import Trouble

CHECK_TIMEOUT_SECONDS = 2.0
WATCH_SECONDS = 5.0
Server = Literal["postgresql", "source", "redis", "s3"]
SERVERS: Final[tuple[Server, ...]] = get_args(Server)


async def check_server(resources: Resources, server: Server) -> None:
    """Raise OutageError unless it answers within CHECK_TIMEOUT_SECONDS."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            await _ask(resources, server)
    except (ServiceError, TimeoutError) as error:
        raise OutageError(f"The server {server} is not available", server=server) from error


@asynccontextmanager
async def watch_servers(resources: Resources) -> AsyncIterator[None]:
    """Whether or not anybody needs a server just now, or a probe asks for it, the log says when it was away."""
    watching = asyncio.create_task(_watch(resources))
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _watch(resources: Resources) -> None:
    troubles = {server: Trouble("server_unavailable", "server_available", server=server) for server in SERVERS}
    while True:
        await asyncio.gather(*(_look(resources, server, trouble) for server, trouble in troubles.items()))
        await asyncio.sleep(WATCH_SECONDS)


async def _look(resources: Resources, server: Server, trouble: Trouble) -> None:
    async with trouble.noting(Exception):  # whatever it is, the watch goes on
        await check_server(resources, server)


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
    busy = pool.get_size() == pool.get_max_size() and not pool.get_idle_size()
    async with connect(dsn) if busy else acquire(pool, timeout_seconds=CHECK_TIMEOUT_SECONDS) as connection:
        await connection.execute("SELECT")

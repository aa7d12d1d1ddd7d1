"""The operators' endpoints, a key for them, and what their lists leave in the trail."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from service.access.flags import Flag
from tests.api.serving import Served
from tests.conftest import patient_client
from tests.support.factories import Connection, list_actions, list_audit
from tests.support.operators import create_key

EXPORT = "/api/v1/users/export"
EXPORT_FULL = "/api/v1/users/export-full"
UNCOMPRESSED = {"Accept-Encoding": "identity"}
ALIVE = "/api/v1/users/export-alive"
SIMPLE = "/api/v1/users/export-simple"
FLAGS = {
    EXPORT: Flag.USERS_EXPORT,
    EXPORT_FULL: Flag.USERS_EXPORT_FULL,
    ALIVE: Flag.USERS_EXPORT_ALIVE,
    SIMPLE: Flag.USERS_EXPORT_SIMPLE,
}
SUBJECTS = {EXPORT: "users/export", EXPORT_FULL: "users/export_full"}


@pytest.fixture
async def key(database: Connection) -> str:
    return await create_key(database)


@pytest.fixture
async def operator(served: Served, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose key has every scope."""
    async with patient_client(served) as client:
        client.headers["X-API-Key"] = key
        yield client


async def export_events(database: Connection) -> list[tuple[str, str, int | None, str]]:
    return [
        (event["action"], event["subject"], event["records"], event["outcome"])
        for event in await list_audit(database)
        if event["action"].startswith("users:export")
    ]


async def until_exported(database: Connection) -> tuple[str, str, int | None, str]:
    """How the only export ended."""
    while "users:exported" not in await list_actions(database):
        await asyncio.sleep(0.02)
    return (await export_events(database))[-1]


async def download_while(
    operator: httpx.AsyncClient, database: Connection, statement: str, *, path: str = EXPORT
) -> bytes:
    """All of the list, with `statement` run once it has begun to arrive."""
    async with operator.stream("GET", path, headers=UNCOMPRESSED) as response:
        parts = response.aiter_bytes()
        body = await anext(parts)
        await database.execute(statement)
        return body + b"".join([part async for part in parts])

"""One fleet for all tests of this folder, and a client that knows of it what any HTTP client would."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest

from devstack.stack import Stack
from tests.conftest import OpenDatabase
from tests.fleet.fleet import PATIENCE_SECONDS, Fleet, open_fleet


class Keys(NamedTuple):
    """Headers with a key of each scope, and with one of both."""

    standard: dict[str, str]
    full: dict[str, str]
    both: dict[str, str]


@pytest.fixture(scope="package")
async def fleet(
    stack: Stack, open_database: OpenDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    async with open_database() as url, open_fleet(stack, url, tmp_path_factory.mktemp("fleet")) as opened:
        yield opened


@pytest.fixture(scope="package")
async def client(fleet: Fleet) -> AsyncIterator[httpx.AsyncClient]:
    """Connects anew for each request, so that one request after another goes to the other process."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=fleet.url, timeout=PATIENCE_SECONDS, limits=limits, trust_env=False
    ) as opened:
        yield opened


@pytest.fixture(scope="package")
async def keys(fleet: Fleet) -> Keys:
    standard, full = ["--scope", "users:export"], ["--scope", "users:export_full"]
    texts = await asyncio.gather(
        fleet.run("keys", "create", "standard", *standard),
        fleet.run("keys", "create", "full", *full),
        fleet.run("keys", "create", "both", *standard, *full),
    )
    return Keys(*({"X-API-Key": text.strip()} for text in texts))

"""One fleet for all tests of this folder, and a client that knows of it what any HTTP client would."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest

from devstack.stack import Stack
from tests.conftest import OpenDatabase
from tests.fleet.fleet import PATIENCE_SECONDS, Fleet, open_fleet
from tests.fleet.surroundings import SURROUNDINGS, Surrounding


class Keys(NamedTuple):
    """Headers with a key of each scope, and with one of both."""

    standard: dict[str, str]
    full: dict[str, str]
    both: dict[str, str]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "surrounding" in metafunc.fixturenames:
        names = metafunc.config.getoption("surroundings").split(",")
        metafunc.parametrize("surrounding", names, indirect=True, scope="package")


@pytest.fixture(scope="package")
async def surrounding(
    request: pytest.FixtureRequest,
    stack: Stack,
    open_database: OpenDatabase,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Surrounding]:
    name = request.param
    async with SURROUNDINGS[name](stack, open_database, tmp_path_factory.mktemp(name)) as opened:
        yield opened


@pytest.fixture(scope="package")
async def fleet(surrounding: Surrounding, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with open_fleet(surrounding, tmp_path_factory.mktemp("fleet")) as opened:
        yield opened


@pytest.fixture(scope="package")
async def client(fleet: Fleet) -> AsyncIterator[httpx.AsyncClient]:
    """Connects anew for each request, so that one request after another goes to the other process."""
    async with httpx.AsyncClient(
        base_url=fleet.url,
        timeout=PATIENCE_SECONDS,
        limits=httpx.Limits(max_keepalive_connections=0),
        mounts=fleet.surrounding.mounts,
        trust_env=False,
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

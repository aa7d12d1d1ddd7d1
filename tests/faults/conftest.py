from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack.stack import Stack, open_stack
from tests.faults.proxy import FaultProxy
from tests.faults.world import World, open_world
from tests.support.memory import keep_database_in_memory


@pytest.fixture(scope="session")
async def fragile_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Servers that these tests may stop and kill."""
    with keep_database_in_memory(tmp_path_factory.mktemp("fragile")) as folder:
        async with open_stack(folder, {}) as opened:
            yield opened


@pytest.fixture
async def world(fragile_stack: Stack, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(fragile_stack, tmp_path) as opened:
        yield opened


@pytest.fixture
async def s3_proxy(fragile_stack: Stack) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(fragile_stack.environ["CARRYOUT_S3_ENDPOINT_URL"]).open() as proxy:
        yield proxy


@pytest.fixture
async def proxied_world(fragile_stack: Stack, s3_proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[World]:
    """Its storage is reached by `s3_proxy`."""
    async with open_world(fragile_stack, tmp_path, CARRYOUT_S3_ENDPOINT_URL=s3_proxy.url) as opened:
        yield opened

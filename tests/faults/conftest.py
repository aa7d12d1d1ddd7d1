from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack.stack import Stack, open_stack
from tests.faults.world import World, open_world


@pytest.fixture(scope="session")
async def fragile_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Servers that these tests may stop and kill."""
    async with open_stack(tmp_path_factory.mktemp("fragile"), {}) as opened:
        yield opened


@pytest.fixture
async def world(fragile_stack: Stack, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(fragile_stack, tmp_path) as opened:
        yield opened

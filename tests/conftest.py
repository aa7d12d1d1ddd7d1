"""Fixtures for all tests: real servers, started once."""

from collections.abc import AsyncIterator

import pytest

from devstack.stack import Stack, open_stack


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with open_stack(tmp_path_factory.mktemp("stack"), {}) as opened:
        yield opened

"""Other people's servers, started once."""

from collections.abc import AsyncIterator

import pytest

from tests.compat.postfix import Postfix, open_postfix


@pytest.fixture(scope="session")
async def postfix() -> AsyncIterator[Postfix]:
    async with open_postfix() as opened:
        yield opened

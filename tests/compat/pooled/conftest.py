"""The tests of the API's contract, on databases behind PgBouncer in transaction mode."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from devstack.stack import Stack
from service.settings import Settings
from tests.api.conftest import create
from tests.compat.pgbouncer import open_pgbouncer, through
from tests.conftest import on_database
from tests.sql.databases import owner_url, reader_url

__all__ = ["create"]


@pytest.fixture(scope="session")
async def pooler(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    roles = [*stack.role_urls, reader_url(stack, stack.admin_url), owner_url(stack, stack.admin_url)]
    async with open_pgbouncer(tmp_path_factory.mktemp("pgbouncer"), stack.admin_url, roles) as port:
        yield port


@pytest.fixture(scope="session")
def common_settings(common_settings: Settings, pooler: int) -> Settings:
    return msgspec.structs.replace(
        common_settings,
        database_url=through(common_settings.database_url, pooler),
        source_database_url=through(common_settings.source_database_url, pooler),
        pooler="transaction",
    )


@pytest.fixture
def settings(common_settings: Settings, database_url: str) -> Settings:
    return on_database(common_settings, database_url)

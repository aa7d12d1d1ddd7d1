"""Fixtures for all tests: real servers, started once, and for each test a database of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import pytest
import structlog

from devstack.sample import SAMPLE_DIR
from devstack.stack import Stack, open_stack
from service.api.app import create_app
from service.auth import create_token
from service.bootstrap import Resources, open_resources
from service.database import Pool, UserId, migrate, open_pool
from service.datasets import Dataset, load_datasets
from service.settings import SQL_DIR, Settings, from_env
from tests import leaks
from tests.api.serving import Served, serve
from tests.documents import POOL_NAME
from tests.factories import Connection
from tests.sql.databases import with_database

PUBLIC_PATH = "/carryout"
PUBLIC_URL = f"https://exports.example.com{PUBLIC_PATH}"
TOKEN_TTL_SECONDS = 600
PATIENCE_SECONDS = 60.0

OpenDatabase = Callable[[], AbstractAsyncContextManager[str]]
Token = Callable[[UserId], str]


def pytest_configure(config: pytest.Config) -> None:
    """Show exceptions without local variables: structlog's default takes seconds for each."""
    config.pluginmanager.register(leaks)
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with open_stack(tmp_path_factory.mktemp("stack"), {}) as opened:
        yield opened


@pytest.fixture(scope="session")
async def open_database(stack: Stack) -> AsyncIterator[OpenDatabase]:
    """Opens copies of a migrated database that has the sample's tables without rows; gives their URLs."""
    server_url = stack.environ["CARRYOUT_DATABASE_URL"]
    server = await asyncpg.connect(server_url)
    template = f"template_{uuid4().hex}"
    await server.execute(f"CREATE DATABASE {template}")
    await _fill_template(with_database(server_url, template))

    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        name = f"test_{uuid4().hex}"
        await server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield with_database(server_url, name)
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")

    yield opened
    await server.close()


async def _fill_template(url: str) -> None:
    await migrate(url, user_id_type="uuid")
    connection = await asyncpg.connect(url)
    await connection.execute((SAMPLE_DIR / "schema.sql").read_text())
    await connection.close()


@pytest.fixture
async def database_url(open_database: OpenDatabase) -> AsyncIterator[str]:
    async with open_database() as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Connection]:
    """The test's own look at its database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """One connection to the test's database, as documents are made by."""
    async with open_pool(database_url, size=1, application_name=POOL_NAME) as opened:
        yield opened


@pytest.fixture
async def datasets(database: Connection) -> tuple[Dataset, ...]:
    """The sample's."""
    return await load_datasets(database, SQL_DIR / "datasets", user_id_type="uuid", forbidden=["*_hash"])


@pytest.fixture(scope="session")
def common_settings(stack: Stack) -> Settings:
    """What the settings of all tests have in common: all but the database."""
    return from_env(stack.environ | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL})


@pytest.fixture
def settings(common_settings: Settings, database_url: str) -> Settings:
    """For other values, override it in a class or a module with a `msgspec.structs.replace`d one."""
    return on_database(common_settings, database_url)


@pytest.fixture
async def resources(settings: Settings) -> AsyncIterator[Resources]:
    async with open_resources(settings) as opened:
        yield opened


@pytest.fixture
async def served(resources: Resources) -> AsyncIterator[Served]:
    """The API on a socket."""
    async with serve(create_app(resources)) as running:
        yield running


@pytest.fixture
async def api(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API that nobody has signed in; it follows no redirect."""
    async with patient_client(served) as client:
        yield client


@pytest.fixture(scope="session")
async def idle_api(common_settings: Settings, open_database: OpenDatabase) -> AsyncIterator[httpx.AsyncClient]:
    """One API for all tests whose requests it refuses: its database stays empty."""
    async with (
        open_database() as url,
        open_resources(on_database(common_settings, url)) as resources,
        serve(create_app(resources)) as served,
        patient_client(served) as client,
    ):
        yield client
        assert not await resources.database.fetchval("SELECT count(*) FROM carryout.export_jobs")
        assert not await resources.database.fetchval("SELECT count(*) FROM carryout.export_audit")


@pytest.fixture(scope="session")
def token(common_settings: Settings) -> Token:
    return lambda user_id: create_token(common_settings, str(user_id), TOKEN_TTL_SECONDS)


def on_database(settings: Settings, url: str) -> Settings:
    return msgspec.structs.replace(settings, database_url=url, source_database_url=url)


def patient_client(served: Served) -> httpx.AsyncClient:
    async def take_off_public_path(request: httpx.Request) -> None:
        """As the proxy does that serves the API at PUBLIC_URL; a redirect to the storage goes past it."""
        if str(request.url).startswith(f"{served.url}{PUBLIC_PATH}/"):
            request.url = request.url.copy_with(raw_path=request.url.raw_path.removeprefix(PUBLIC_PATH.encode()))

    hooks = {"request": [take_off_public_path]}
    return httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_SECONDS, trust_env=False, event_hooks=hooks)

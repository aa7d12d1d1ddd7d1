"""Fixtures for all tests: real servers, started once, and for each test a database of its own."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import hypothesis
import msgspec
import pytest
import structlog

from devstack.sample import SAMPLE_DIR, grant_reader
from devstack.stack import Stack, open_stack
from service.access.tokens import create_token
from service.api.app import create_app
from service.backends.authorities import create_tls_context
from service.backends.database import Pool, open_pool
from service.documents.datasets import Dataset, load_datasets
from service.exports import requests
from service.resources import Resources, open_resources
from service.settings import SQL_DIR, Settings, from_env
from service.user_ids import UserId
from tests.api.serving import Served, serve
from tests.sql.databases import create_database, database_environ, migrate_as_owner, with_database
from tests.sql.databases import open_database as open_empty_database
from tests.support import forking, heap, leaks, quick
from tests.support.documents import POOL_NAME
from tests.support.factories import Connection
from tests.support.memory import keep_database_in_memory
from tests.support.smtp import SmtpServer, open_smtp_server

PUBLIC_PATH = "/carryout"
PUBLIC_URL = f"https://exports.example.com{PUBLIC_PATH}"
TOKEN_TTL_SECONDS = 600
PATIENCE_SECONDS = 60.0
NOWHERE = {
    "CARRYOUT_REDIS_URL": "redis://127.0.0.1:1",
    "CARRYOUT_S3_ENDPOINT_URL": "http://127.0.0.1:1",
    "CARRYOUT_SMTP_URL": "smtp://127.0.0.1:1",
}

# A busy machine makes any example late, and its generation slow.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

OpenDatabase = Callable[[], AbstractAsyncContextManager[str]]
Token = Callable[[UserId], str]
Report = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only tests that need no server but PostgreSQL")
    parser.addoption("--surroundings", default="plain", help="servers around the fleet: tests/fleet/surroundings.py")


def pytest_configure(config: pytest.Config) -> None:
    """Show exceptions without local variables: structlog's default takes seconds for each."""
    config.pluginmanager.register(heap)
    config.pluginmanager.register(leaks)
    config.pluginmanager.register(quick)
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])


@pytest.fixture(autouse=True)
def _patient_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, counting may take longer than a user waits who prefers a queued export."""
    monkeypatch.setattr(requests, "ASYNC_COUNT_SECONDS", PATIENCE_SECONDS)


@pytest.fixture(scope="session", autouse=True)
def _forking() -> Iterator[None]:
    yield
    forking.stop()


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """PostgreSQL alone: tests that need no other server are the ones `make quick` runs."""
    with keep_database_in_memory(tmp_path_factory.mktemp("postgres")) as folder:
        async with open_stack(folder, NOWHERE) as opened:
            yield opened


@pytest.fixture(scope="session")
def server_url(postgres: Stack) -> str:
    """PostgreSQL's, of its superuser."""
    return postgres.admin_url


@pytest.fixture(scope="session")
async def stack(postgres: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """All servers, with the same PostgreSQL and its roles."""
    names = ("CARRYOUT_DATABASE_URL", "CARRYOUT_SCHEMA_OWNER")
    given = {name: postgres.environ[name] for name in names}
    async with open_stack(tmp_path_factory.mktemp("stack"), given) as opened:
        yield dataclasses.replace(
            opened,
            postgres=postgres.postgres,
            migration=postgres.migration,
            admin_url=postgres.admin_url,
            reader_password=postgres.reader_password,
        )


@pytest.fixture(scope="session")
async def open_database(postgres: Stack, server_url: str) -> AsyncIterator[OpenDatabase]:
    """Opens copies of a migrated database that has the sample's tables without rows; gives their administrator's URLs.

    The service has other roles there: `database_environ`, and the fixture `settings`.
    """
    server = await asyncpg.connect(server_url)
    template = f"template_{uuid4().hex}"
    await create_database(server, template)
    await _fill_template(postgres, with_database(server_url, template))

    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        name = f"test_{uuid4().hex}"
        await create_database(server, name, f"TEMPLATE {template}")
        yield with_database(server_url, name)
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")

    yield opened
    await server.close()


async def _fill_template(stack: Stack, url: str) -> None:
    await migrate_as_owner(stack, url)
    connection = await asyncpg.connect(url)
    await connection.execute((SAMPLE_DIR / "schema.sql").read_text())
    await connection.close()
    await grant_reader(url, stack.reader_password)


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
    async with open_pool(database_url, size=1, application_name=POOL_NAME, own_search_path=True) as opened:
        yield opened


@pytest.fixture
async def datasets(database: Connection) -> tuple[Dataset, ...]:
    """The sample's."""
    return await load_datasets(database, SQL_DIR / "datasets", user_id_type="uuid", forbidden=["*_hash"])


@pytest.fixture(scope="session")
def common_settings(stack: Stack) -> Settings:
    """The settings that all tests share: all but the database."""
    urls = database_environ(stack, stack.admin_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
    return from_env(stack.environ | urls)


@pytest.fixture
def settings(common_settings: Settings, database_url: str) -> Settings:
    """For other values, override it in a class or a module with a `msgspec.structs.replace`d one."""
    return on_database(common_settings, database_url)


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    """A database without anything in it; its administrator's URL."""
    async with open_empty_database(server_url) as url:
        yield url


@pytest.fixture
async def smtp() -> AsyncIterator[SmtpServer]:
    """A mail server whose answers a test can choose; the settings don't name it."""
    async with open_smtp_server(extensions=["SMTPUTF8", "8BITMIME"]) as server:
        yield server


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
    """A client of the API without a signed-in user. It does not follow redirects."""
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


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Prints a line of figures, also where the test passes."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"    {line}", flush=True)  # noqa: T201 (the figures are what such a test is run for)

    return say


def on_database(settings: Settings, url: str) -> Settings:
    """By the roles of `settings`, in the database of `url`."""
    name = urlsplit(url).path.removeprefix("/")
    return msgspec.structs.replace(
        settings,
        database_url=with_database(settings.database_url, name),
        source_database_url=with_database(settings.source_database_url, name),
    )


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client, as `api` is one, of an API with settings of its own."""
    async with (
        open_resources(settings) as resources,
        serve(create_app(resources)) as served,
        patient_client(served) as client,
    ):
        yield client


def patient_client(served: Served) -> httpx.AsyncClient:
    async def take_off_public_path(request: httpx.Request) -> None:
        """As the proxy does that serves the API at PUBLIC_URL; a redirect to the storage goes past it."""
        if str(request.url).startswith(f"{served.url}{PUBLIC_PATH}/"):
            request.url = request.url.copy_with(raw_path=request.url.raw_path.removeprefix(PUBLIC_PATH.encode()))

    hooks = {"request": [take_off_public_path]}
    shared = create_tls_context("")  # reading the machine's authorities again takes longer than many a test
    return httpx.AsyncClient(
        base_url=served.url, timeout=PATIENCE_SECONDS, trust_env=False, verify=shared, event_hooks=hooks
    )

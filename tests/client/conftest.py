"""The service as a client meets it: behind proxies that cut, both before the API and before S3.

One database for all tests: each test changes only its own users.
"""

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

import msgspec
import pytest
from yarl import URL

from client.api import Api, Export
from client.console import Console
from client.exports import request_export, wait_for
from client.http import open_session
from client.retries import Backoff
from service.api.app import create_app
from service.backends.database import connect
from service.resources import Resources, open_resources
from service.settings import Settings
from service.user_ids import UserId
from tests.api.problems import bearer
from tests.api.serving import Served, serve
from tests.client.cutting import CuttingProxy
from tests.conftest import OpenDatabase, Token, on_database
from tests.support.operators import create_key, create_users

USERS = 3_000
# Cuts are many here, and some come before anything new has arrived.
STUBBORN = Backoff(first_seconds=0.01, max_seconds=0.05, tries=50)

OpenApi = Callable[..., AbstractAsyncContextManager[Api]]
MakeExport = Callable[[Api], Awaitable[Export]]


class Doors(NamedTuple):
    api: CuttingProxy
    storage: CuttingProxy


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's language isn't the tests'."""
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
async def opened_doors(common_settings: Settings) -> AsyncIterator[Doors]:
    async with CuttingProxy().open() as api, CuttingProxy(common_settings.s3_endpoint_url).open() as storage:
        yield Doors(api, storage)


@pytest.fixture
def doors(opened_doors: Doors) -> Doors:
    for door in opened_doors:
        door.reset()
    return opened_doors


@pytest.fixture(scope="session")
async def database_url(open_database: OpenDatabase) -> AsyncIterator[str]:
    async with open_database() as url:
        yield url


@pytest.fixture(scope="session")
async def resources(common_settings: Settings, database_url: str, opened_doors: Doors) -> AsyncIterator[Resources]:
    settings = msgspec.structs.replace(
        on_database(common_settings, database_url),
        public_url=opened_doors.api.url,
        s3_public_url=opened_doors.storage.url,
    )
    async with open_resources(settings) as opened:
        yield opened


@pytest.fixture
def settings(resources: Resources) -> Settings:
    return resources.settings


@pytest.fixture
async def served(resources: Resources, settings: Settings, doors: Doors) -> AsyncIterator[Served]:
    """The API, with the test's settings."""
    async with serve(create_app(dataclasses.replace(resources, settings=settings))) as running:
        doors.api.target = running.port
        yield running


@pytest.fixture(scope="session")
async def key(database_url: str) -> str:
    """A list of some thousand users. Names differ, so that they don't compress away, and some contain line breaks."""
    async with connect(database_url) as connection:
        await create_users(connection, USERS)
        await connection.execute(
            """UPDATE public.users SET name = gen_random_uuid()
            || CASE WHEN internal_id % 10 = 0 THEN repeat(E'two\\r\\nlines, "', 30) || 'end' ELSE '' END"""
        )
        return await create_key(connection)


@pytest.fixture
def console() -> Console:
    return Console(quiet=True)


@pytest.fixture
def open_api(served: Served, doors: Doors, token: Token) -> OpenApi:
    """Opens the client's API for a user, or for other credentials, with connections of its own."""

    @asynccontextmanager
    async def opened(user_id: UserId = "", credentials: Mapping[str, str] | None = None) -> AsyncIterator[Api]:
        headers = bearer(token(user_id)) if credentials is None else credentials
        async with open_session() as session:
            yield Api(session, URL(doors.api.url), headers, backoff=STUBBORN, say=lambda _sentence: None)

    return opened


@pytest.fixture
def make_export(console: Console) -> MakeExport:
    async def made(api: Api) -> Export:
        return await wait_for(api, await request_export(api, "csv", console, wait=True), "csv", console)

    return made

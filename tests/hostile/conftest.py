from collections.abc import AsyncIterator

import pytest

from service.api.app import create_app
from service.backends.database import connect
from service.resources import open_resources
from service.settings import Settings
from tests.api.conftest import CSV
from tests.api.problems import bearer
from tests.api.serving import serve
from tests.conftest import PUBLIC_URL, OpenDatabase, Token, on_database, patient_client
from tests.hostile.siege import Siege
from tests.support.factories import create_user
from tests.support.operators import create_key


@pytest.fixture(scope="module")
async def siege(
    request: pytest.FixtureRequest, common_settings: Settings, open_database: OpenDatabase, token: Token
) -> AsyncIterator[Siege]:
    """One server for a module's attacks; at its end they are counted, and one that was let in by mistake would show."""
    async with (
        open_database() as url,
        open_resources(on_database(common_settings, url)) as resources,
        serve(create_app(resources)) as served,
        patient_client(served) as client,
        connect(url, own_search_path=True) as database,
    ):
        user_id = await create_user(database, activity=3, content=3)
        created = await client.post("/api/export", json=CSV, headers=bearer(token(user_id)))
        link = created.json()["download_url"].removeprefix(PUBLIC_URL)
        siege = Siege(served, resources, user_id, token(user_id), link, await create_key(database))
        yield siege
        assert await database.fetchval("SELECT count(*) FROM carryout.export_jobs") == 1
    report(request, siege.summary())


def report(request: pytest.FixtureRequest, text: str) -> None:
    """Show it, though the tests' own output is captured."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{request.module.__name__}: {text}")  # noqa: T201 (for the person who runs these tests)

"""An export's progress as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import msgspec
import pytest

from service.access.tokens import LEEWAY_SECONDS, create_token
from service.api import events
from service.api.app import create_app
from service.errors import UnavailableError
from service.resources import Resources, open_resources
from service.settings import Settings
from tests.api.conftest import ASYNC, UNKNOWN_ID, Create
from tests.api.problems import bearer, read_problem
from tests.api.serving import serve, until
from tests.conftest import PATIENCE_SECONDS, OpenDatabase, Token, on_database, patient_client
from tests.support.factories import Connection, create_user, create_user_with, list_actions
from worker.running import run_export

pytestmark = pytest.mark.usefixtures("_quick_polls")


class Watched(NamedTuple):
    """A pending export, and the request that watches it."""

    job_id: UUID
    path: str
    headers: dict[str, str]


Ending = Callable[[Watched, int], Awaitable[Watched]]


@pytest.fixture(scope="module")
async def database_url(open_database: OpenDatabase) -> AsyncIterator[str]:
    """One for all tests: each has a user of its own."""
    async with open_database() as url:
        yield url


@pytest.fixture(scope="module")
async def resources(common_settings: Settings, database_url: str) -> AsyncIterator[Resources]:
    async with open_resources(on_database(common_settings, database_url)) as opened:
        yield opened


@pytest.fixture
def _quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)


@pytest.fixture
async def pending(create: Create, database: Connection, token: Token) -> Watched:
    user_id = await create_user_with(database, 2_500)
    job_id = (await create(user_id, headers=ASYNC)).json()["job_id"]
    return Watched(UUID(job_id), f"/api/export/{job_id}/events", bearer(token(user_id)))


@pytest.fixture
def ending(resources: Resources, database: Connection) -> Ending:
    """The same, with a token that is valid for so many seconds."""

    async def make(watched: Watched, seconds: int) -> Watched:
        user_id = await database.fetchval("SELECT user_id FROM carryout.export_jobs WHERE id = $1", watched.job_id)
        token = create_token(resources.settings, str(user_id), seconds - LEEWAY_SECONDS)
        return watched._replace(headers=bearer(token))

    return make


@asynccontextmanager
async def open_events(api: httpx.AsyncClient, watched: Watched) -> AsyncIterator[AsyncIterator[dict[str, str]]]:
    """The stream's events as their fields; a comment has the name ''."""
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        api.stream("GET", watched.path, headers=watched.headers) as response,
    ):
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "private, no-store"
        assert response.headers["x-accel-buffering"] == "no"
        async with aclosing(read_events(response)) as read:
            yield read


async def read_events(response: httpx.Response) -> AsyncGenerator[dict[str, str], None]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            yield fields
            fields = {}


def data(event: dict[str, str]) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(event["data"])
    return decoded


async def next_progress(stream: AsyncIterator[dict[str, str]]) -> dict[str, Any]:
    async for event in stream:
        if event.get("event") == "progress":
            return data(event)
    raise AssertionError("the stream ended")


async def set_records_done(database: Connection, watched: Watched, done: int) -> None:
    await database.execute("UPDATE carryout.export_jobs SET records_done = $2 WHERE id = $1", watched.job_id, done)


class TestStream:
    async def test_follows_an_export_to_its_end(
        self, api: httpx.AsyncClient, pending: Watched, resources: Resources
    ) -> None:
        async with open_events(api, pending) as stream:
            assert await anext(stream) == {"retry": "2000"}
            first = await anext(stream)
            assert (first["event"], first["id"]) == ("progress", "pending-0")
            assert data(first)["progress"] == {"records_done": 0, "records_total": 2_500}
            await run_export(resources, pending.job_id)
            *changes, last, end = [event async for event in stream]
        assert all(data(change)["status"] == "processing" for change in changes)
        shown = (await api.get(pending.path.removesuffix("/events"), headers=pending.headers)).json()
        assert data(last) == shown
        assert (shown["status"], shown["record_count"]) == ("completed", 2_500)
        assert end == {"event": "end", "data": "{}"}

    async def test_shows_each_step(self, api: httpx.AsyncClient, pending: Watched, database: Connection) -> None:
        async with open_events(api, pending) as stream:
            assert (await next_progress(stream))["status"] == "pending"
            await database.execute(
                """UPDATE carryout.export_jobs
                SET status = 'processing', attempt = 1, lease_expires_at = now() + interval '1 hour'
                WHERE id = $1""",
                pending.job_id,
            )
            assert (await next_progress(stream))["status"] == "processing"
            for done in (1_000, 2_000):
                await set_records_done(database, pending, done)
                assert (await next_progress(stream))["progress"] == {"records_done": done, "records_total": 2_500}
            await api.delete(pending.path.removesuffix("/events"), headers=pending.headers)
            last = await next_progress(stream)
            assert (last["status"], last["error_message"]) == ("failed", "cancelled by user")
            assert [event["event"] async for event in stream] == ["end"]

    async def test_ends_at_once_for_an_ended_export(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        job_id = (await create(user_id)).json()["job_id"]
        headers = bearer(token(user_id)) | {"Last-Event-ID": "completed-1"}
        watched = Watched(UUID(job_id), f"/api/export/{job_id}/events", headers)
        async with open_events(api, watched) as stream:
            assert [event.get("event") async for event in stream] == [None, "progress", "end"]

    async def test_says_now_and_then_that_it_lives(
        self, api: httpx.AsyncClient, pending: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.1)
        async with open_events(api, pending) as stream:
            assert [(await anext(stream)).keys() for _ in range(4)] == [{"retry"}, {"id", "event", "data"}, {""}, {""}]

    async def test_ends_after_its_time(
        self, api: httpx.AsyncClient, pending: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events, "MAX_SECONDS", 0.5)
        async with open_events(api, pending) as stream:
            assert "end" not in [event.get("event") async for event in stream]

    async def test_ends_with_its_token(self, api: httpx.AsyncClient, pending: Watched, ending: Ending) -> None:
        watched = await ending(pending, 5)
        async with open_events(api, watched) as stream:
            assert (await next_progress(stream))["status"] == "pending"
            assert [event async for event in stream] == []
        read_problem(await api.get(watched.path, headers=watched.headers), 401)

    async def test_shows_nothing_that_it_read_too_late(
        self, api: httpx.AsyncClient, pending: Watched, database: Connection, ending: Ending
    ) -> None:
        """Such as the link of an export that became ready after the token's end."""
        watched = await ending(pending, 5)
        async with open_events(api, watched) as stream:
            await next_progress(stream)
            async with database.transaction():
                await database.execute("LOCK TABLE carryout.export_jobs")
                await set_records_done(database, watched, 7)
                while (await api.get("/api/export?unknown=1", headers=watched.headers)).status_code != 401:
                    await asyncio.sleep(0.05)
            assert [event async for event in stream] == []

    async def test_ends_when_the_server_stops(self, pending: Watched, resources: Resources) -> None:
        app = create_app(resources)
        async with serve(app) as served, patient_client(served) as client, open_events(client, pending) as stream:
            await next_progress(stream)
            app.state.draining = True
            assert [event async for event in stream] == []

    async def test_ends_when_an_operator_deletes_the_export(
        self, api: httpx.AsyncClient, pending: Watched, database: Connection
    ) -> None:
        async with open_events(api, pending) as stream:
            await next_progress(stream)
            await database.execute("DELETE FROM carryout.export_jobs WHERE id = $1", pending.job_id)
            assert [event async for event in stream] == []
        read_problem(await api.get(pending.path, headers=pending.headers), 404)

    async def test_outlasts_postgresql_s_absence(
        self, api: httpx.AsyncClient, pending: Watched, database: Connection
    ) -> None:
        async with open_events(api, pending) as stream:
            await next_progress(stream)
            await database.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'carryout'"""
            )
            await set_records_done(database, pending, 7)
            assert (await next_progress(stream))["progress"]["records_done"] == 7

    async def test_holds_no_connection(self, api: httpx.AsyncClient, pending: Watched, resources: Resources) -> None:
        async with open_events(api, pending) as stream:
            await next_progress(stream)
            await until(lambda: resources.database.get_idle_size() == resources.database.get_size())


class TestAccess:
    async def test_owner_only(
        self, api: httpx.AsyncClient, pending: Watched, database: Connection, token: Token
    ) -> None:
        read_problem(await api.get(pending.path), 401)
        for path in (pending.path, f"/api/export/{UNKNOWN_ID}/events", "/api/export/x/events"):
            read_problem(await api.get(path, headers=bearer(token(UNKNOWN_ID))), 404)
        assert (await list_actions(database))[-1] == "export:denied"

    async def test_takes_no_parameters(self, api: httpx.AsyncClient, pending: Watched) -> None:
        read_problem(await api.get(f"{pending.path}?token=x", headers=pending.headers), 400)

    async def test_head_watches_nothing(self, api: httpx.AsyncClient, pending: Watched) -> None:
        response = await api.head(pending.path, headers=pending.headers)
        assert (response.status_code, response.content) == (200, b"")


class TestBounds:
    @pytest.mark.parametrize(("name", "status"), [("MAX_WATCHERS", 503), ("MAX_WATCHERS_PER_USER", 429)])
    async def test_so_many_at_once(
        self, api: httpx.AsyncClient, pending: Watched, monkeypatch: pytest.MonkeyPatch, name: str, status: int
    ) -> None:
        monkeypatch.setattr(events, name, 2)
        async with AsyncExitStack() as open_ones:
            for _ in range(2):
                await next_progress(await open_ones.enter_async_context(open_events(api, pending)))
            refused = await api.get(pending.path, headers=pending.headers)
            read_problem(refused, status)
            assert refused.headers["retry-after"] == "10"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await self._admitted(api, pending):
                await asyncio.sleep(0.05)

    def test_few_users_cannot_hold_all_places(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user with fewer takes the oldest place of the user with the most."""
        monkeypatch.setattr(events, "MAX_WATCHERS", 2)
        watchers = events.Watchers()
        with ExitStack() as open_ones:
            first, second = (open_ones.enter_context(watchers.admit("greedy")) for _ in range(2))
            open_ones.enter_context(watchers.admit("other"))
            assert (first.is_lost, second.is_lost) == (True, False)
            for user in ("other", "third", "greedy"):  # one each by now
                with pytest.raises(UnavailableError), watchers.admit(user):
                    pass
        with watchers.admit("a"), watchers.admit("b"):
            pass

    async def test_a_stream_that_has_lost_its_place_ends(
        self, resources: Resources, pending: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events, "MAX_WATCHERS", 2)
        app = create_app(resources)
        async with (
            serve(app) as served,
            patient_client(served) as client,
            open_events(client, pending) as oldest,
            open_events(client, pending) as newer,
        ):
            await next_progress(oldest)
            await next_progress(newer)
            with app.state.watchers.admit("another user"):
                assert [event async for event in oldest] == []

    async def _admitted(self, api: httpx.AsyncClient, pending: Watched) -> bool:
        """Now that the others have gone, as the server notices."""
        async with api.stream("GET", pending.path, headers=pending.headers) as response:
            return response.status_code == 200

"""A scrape of the API after real requests. Clients can't make it grow."""

import asyncio

import httpx
import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service.resources import Resources
from service.settings import Settings
from tests.api.conftest import UNKNOWN_ID, Create
from tests.api.problems import bearer
from tests.api.serving import Served
from tests.conftest import Token
from tests.support.factories import Connection, create_user_with
from tests.support.operators import create_key, create_users
from tests.support.scraping import Scrape, scrape

REQUESTS = "carryout_http_request_duration_seconds_count"


async def test_a_small_export(api: httpx.AsyncClient, database: Connection, create: Create) -> None:
    response = await create(await create_user_with(database, 3))
    assert response.status_code == 201

    seen = await scrape(api)

    assert seen.value(REQUESTS, method="POST", route="/api/export", status="201") == 1
    assert seen.value("carryout_exports_total", outcome="completed", format="csv") == 1
    assert seen.value("carryout_export_duration_seconds_count", format="csv", queued="false") == 1
    assert seen.value("carryout_queue_exports") == 0


async def test_the_queue(api: httpx.AsyncClient, database: Connection, create: Create) -> None:
    for _ in range(2):
        await create(await create_user_with(database, 1), headers={"Prefer": "respond-async"})
    await database.execute("UPDATE carryout.export_jobs SET created_at = now() - interval '1 hour'")

    seen = await scrape(api)

    assert seen.value("carryout_queue_exports") == 2
    assert 3_600 <= seen.value("carryout_queue_oldest_age_seconds") < 4_000


async def test_an_overdue_file_and_a_waiting_mail(api: httpx.AsyncClient, database: Connection, create: Create) -> None:
    for _ in range(2):
        assert (await create(await create_user_with(database, 1))).status_code == 201
    seen = await scrape(api)
    assert seen.value("carryout_files_overdue_seconds") == seen.value("carryout_mails_oldest_age_seconds") == 0

    await database.execute(
        """UPDATE carryout.export_jobs SET completed_at = completed_at - interval '8 days',
        expires_at = now() - interval '1 hour'"""
    )
    await database.execute(
        """INSERT INTO carryout.export_notifications (job_id, kind, message_id, created_at)
        SELECT id, 'ready', id::text, now() - interval '2 hours' FROM carryout.export_jobs"""
    )
    seen = await scrape(api)

    assert 3_600 <= seen.value("carryout_files_overdue_seconds") < 4_000
    assert 7_200 <= seen.value("carryout_mails_oldest_age_seconds") < 7_600


async def test_cancelling(api: httpx.AsyncClient, database: Connection, create: Create, token: Token) -> None:
    user_id = await create_user_with(database, 1)
    created = await create(user_id, headers={"Prefer": "respond-async"})
    await api.delete(created.headers["location"], headers=bearer(token(user_id)))

    seen = await scrape(api)

    assert seen.value("carryout_exports_total", outcome="cancelled", format="csv") == 1
    assert seen.value("carryout_queue_exports") == 0


async def test_a_stream(api: httpx.AsyncClient, database: Connection, token: Token) -> None:
    user_id = await create_user_with(database, 5)
    streamed = await api.get("/api/export/stream?format=json", headers=bearer(token(user_id)))

    seen = await _scrape_after_stream(api, kind="user", format="json")

    labels = {"kind": "user", "format": "json"}
    assert seen.value("carryout_streamed_records_total", **labels) == 5
    assert seen.value("carryout_streamed_bytes_total", **labels) == len(streamed.content)
    assert seen.value("carryout_streams_total", outcome="complete", **labels) == 1
    assert seen.value("carryout_streams_open", kind="user") == 0


async def test_a_list(api: httpx.AsyncClient, database: Connection) -> None:
    await create_users(database, 7)
    listed = await api.get("/api/v1/users/export", headers={"X-API-Key": await create_key(database)})

    seen = await _scrape_after_stream(api, kind="list", format="csv")

    labels = {"kind": "list", "format": "csv"}
    assert seen.value("carryout_streamed_records_total", **labels) == 7
    assert seen.value("carryout_streamed_bytes_total", **labels) == len(listed.content)
    assert seen.value("carryout_streams_total", outcome="complete", **labels) == 1


async def _scrape_after_stream(api: httpx.AsyncClient, **labels: str) -> Scrape:
    """A stream's end is counted after its last byte."""
    while not (seen := await scrape(api)).value("carryout_streams_total", outcome="complete", **labels):
        await asyncio.sleep(0.02)
    return seen


async def test_refused_requests(api: httpx.AsyncClient) -> None:
    await api.post("/api/export", json={"format": "csv"})
    await api.put("/api/export/stream")

    seen = await scrape(api)

    assert seen.value(REQUESTS, method="POST", route="/api/export", status="401") == 1
    assert seen.value(REQUESTS, method="PUT", route="/api/export/stream", status="405") == 1
    assert seen.total("carryout_exports_total") == 0


async def test_strangers_make_no_labels(api: httpx.AsyncClient, served: Served, token: Token) -> None:
    for path in ("/no/such", "/api/export/../x", "/%2e%2e", '/"\\', f"/{UNKNOWN_ID}", "/metrics/"):
        await api.get(path)
    for job_id in (UNKNOWN_ID, "not-an-id", "\u00e9"):
        await api.get(f"/api/export/{job_id}", headers=bearer(token(UNKNOWN_ID)))
    await served.exchange("PROPFIND /api/export HTTP/1.1")
    await api.post("/nowhere", content=b"x" * 20_000)

    seen = await scrape(api)

    assert seen.label_values("route") == {"unmatched", "/api/export", "/api/export/{job_id}"}
    assert seen.label_values("method") == {"GET", "POST", "other"}
    assert str(UNKNOWN_ID) not in (await api.get("/metrics")).text


class TestPools:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, pool_size=3, stream_pool_size=5)

    async def test_each_is_told(self, api: httpx.AsyncClient, resources: Resources) -> None:
        async with resources.source.acquire(), resources.streams.acquire(), resources.streams.acquire():
            seen = await scrape(api)

        sizes = (("database", 3, 0, 1), ("source", 3, 1, 0), ("streams", 5, 2, 0), ("lists", 4, 0, 0))
        for pool, most, used, idle in sizes:
            assert seen.value("carryout_pool_max_connections", pool=pool) == most
            assert seen.value("carryout_pool_connections", pool=pool, state="used") == used
            assert seen.value("carryout_pool_connections", pool=pool, state="idle") == idle


async def test_open_metrics(api: httpx.AsyncClient) -> None:
    response = await api.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = text_string_to_metric_families(response.text)  # type: ignore[no-untyped-call] # the library has no types here
    assert "carryout_streams" in {family.name for family in families}


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=x", "application/openmetrics-text;version=1.x"])
async def test_any_accept_is_answered(api: httpx.AsyncClient, accept: str) -> None:
    response = await api.get("/metrics", headers={"Accept": accept})

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"

"""Pages of other sites, as browsers ask for them: https://fetch.spec.whatwg.org/#http-cors-protocol."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import msgspec
import pytest

from service.api.app import create_app
from service.resources import Resources
from tests.api.problems import bearer, read_problem
from tests.api.serving import serve
from tests.conftest import Token, patient_client
from tests.support.factories import Connection, create_user_with

APP = "https://app.example.org"
OTHER = "http://localhost:3000"
ORIGINS = (APP, OTHER)
STRANGERS = ["https://evil.example", "https://app.example.org.evil.example", "https://app.example.org:8443", "null"]


@pytest.fixture
async def shared(resources: Resources) -> AsyncIterator[httpx.AsyncClient]:
    settings = msgspec.structs.replace(resources.settings, cors_origins=ORIGINS)
    async with serve(create_app(replace(resources, settings=settings))) as served, patient_client(served) as client:
        yield client


def preflight(origin: str, method: str = "POST", headers: str = "authorization,content-type") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_listed_site_may_ask(shared: httpx.AsyncClient, origin: str, method: str) -> None:
    wanted = "authorization,content-type,idempotency-key,prefer,traceparent,baggage,sentry-trace"
    answer = await shared.options("/api/export", headers=preflight(origin, method, wanted))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    assert answer.headers["access-control-allow-headers"] == wanted
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("origin", STRANGERS)
async def test_others_may_not(shared: httpx.AsyncClient, origin: str) -> None:
    asked = await shared.options("/api/export", headers=preflight(origin))
    assert (asked.status_code, "access-control-allow-origin" in asked.headers) == (400, False)
    answer = await shared.get("/livez", headers={"Origin": origin})
    assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (200, False)


async def test_a_listed_site_reads_all_it_needs(shared: httpx.AsyncClient, database: Connection, token: Token) -> None:
    user = bearer(token(await create_user_with(database, 1)))
    headers = user | {"Origin": APP, "Prefer": "respond-async"}
    answer = await shared.post("/api/export", json={"format": "csv"}, headers=headers)
    assert answer.status_code == 202
    assert answer.headers["access-control-allow-origin"] == APP
    exposed = {name.lower() for name in answer.headers["access-control-expose-headers"].split(", ")}
    assert {"location", "retry-after", "preference-applied", "x-request-id"} <= exposed & answer.headers.keys()


@pytest.mark.parametrize(
    ("path", "status", "content"),
    [
        ("/api/export", 401, b"{}"),
        ("/api/export", 413, b" " * 20_000),
        ("/%61pi/export", 400, b"{}"),
        ("/nowhere", 404, b"{}"),
    ],
)
async def test_it_reads_every_error(shared: httpx.AsyncClient, path: str, status: int, content: bytes) -> None:
    """Also of those that come before the routes: a page would see a failure of the network otherwise."""
    answer = await shared.post(path, content=content, headers={"Origin": APP})
    read_problem(answer, status)
    assert answer.headers["access-control-allow-origin"] == APP


async def test_none_is_listed_by_default(idle_api: httpx.AsyncClient) -> None:
    assert (await idle_api.options("/api/export", headers=preflight(APP))).status_code == 405
    assert "access-control-allow-origin" not in (await idle_api.get("/livez", headers={"Origin": APP})).headers

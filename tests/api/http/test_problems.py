"""Every failure as one shape of problem, which says what is wrong and nothing else."""

import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs
from structlog.typing import EventDict

from service import errors
from service.api.http.problems import PROBLEMS
from tests.api.serving import Served, create_edge, serve

CANARY = "postgresql://carryout:canary@db/rows"
JOB = UUID("0190b8a4-7c1e-7def-8000-0123456789ab")

RAISED: dict[str, Exception] = {
    "in-progress": errors.ExportInProgressError(
        "Export already in progress",
        job_id=JOB,
        estimated_completion=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        status="pending",
    ),
    "authentication": errors.AuthenticationError("Invalid or missing API key"),
    "rate": errors.RateLimitedError("Too many exports", retry_after_seconds=60),
    "unavailable": errors.UnavailableError("The database doesn't answer"),
    "range": errors.RangeNotSatisfiableError(1234),
    "not-found": errors.ExportNotFoundError(),
    "unknown": ValueError(CANARY),
    "group": ExceptionGroup(CANARY, [ValueError(CANARY)]),
}


async def fail(request: Request) -> Response:
    raise RAISED[request.path_params["name"]]


async def answer(_request: Request) -> Response:
    return Response("fine")


ROUTES = [
    Route("/fail/{name}", fail, methods=["GET", "POST"]),
    Route("/answer", answer),
    Route("/answer", answer, methods=["POST"]),
]


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve(create_edge(ROUTES)) as running:
        yield running


async def get(served: Served, path: str, method: str = "GET") -> httpx.Response:
    async with served.client() as client:
        return await client.request(method, path)


def test_every_error_of_the_service_has_its_problem() -> None:
    """Kinds of a kind share its problem."""
    classes = {
        value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__base__ is errors.ServiceError
    }
    assert set(PROBLEMS) == {errors.ServiceError, *classes}


def test_problem_types_are_told_apart() -> None:
    types = [problem.type for problem in PROBLEMS.values()]
    assert len(set(types)) == len(types)


async def test_members_and_fields(served: Served) -> None:
    response = await get(served, "/fail/in-progress")
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "urn:carryout:problem:export-in-progress",
        "title": "Export in progress",
        "status": 409,
        "detail": "Export already in progress",
        "status_code": 409,
        "request_id": response.headers["x-request-id"],
        "job_id": str(JOB),
        "estimated_completion": "2026-01-02T03:04:05Z",
    }


@pytest.mark.parametrize(
    ("name", "status", "header", "value"),
    [
        ("authentication", 401, "www-authenticate", "Bearer"),
        ("rate", 429, "retry-after", "60"),
        ("unavailable", 503, "retry-after", "5"),
        ("range", 416, "content-range", "bytes */1234"),
    ],
)
async def test_headers_of_their_own(served: Served, name: str, status: int, header: str, value: str) -> None:
    response = await get(served, f"/fail/{name}")
    assert (response.status_code, response.headers[header]) == (status, value)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/%00%ff/x", 400),
        ("DELETE", "/answer", 405),
        ("GET", "/fail/not-found", 404),
        ("GET", "/fail/unknown", 500),
    ],
)
async def test_shape_and_safety_headers(served: Served, method: str, path: str, status: int) -> None:
    response = await get(served, path, method)
    problem = response.json()
    assert (response.status_code, problem["status"], problem["status_code"]) == (status, status, status)
    assert problem.keys() == {"type", "title", "status", "detail", "status_code", "request_id"}
    assert problem["request_id"] == response.headers["x-request-id"]
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_405_says_what_is_allowed(served: Served) -> None:
    response = await get(served, "/answer", "DELETE")
    assert response.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("name", ["unknown", "group"])
async def test_the_text_of_an_unknown_exception_stays_inside(served: Served, name: str) -> None:
    response = await get(served, f"/fail/{name}")
    assert response.status_code == 500
    assert response.json()["title"] == "Internal Server Error"  # RFC 9457, 4.2.1
    assert "canary" not in response.text


@pytest.mark.parametrize("path", ["/fail/unknown", "/fail/not-found", "/nowhere"])
async def test_head_has_no_body(served: Served, path: str) -> None:
    raw = await served.exchange(f"HEAD {path} HTTP/1.1")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert body == b""


async def test_only_our_own_failures_are_logged_as_such() -> None:
    events: list[EventDict]
    with capture_logs() as events:
        async with serve(create_edge(ROUTES)) as served:
            await get(served, "/fail/not-found")
            await get(served, "/fail/unknown")
            await get(served, "/fail/unavailable")
    failures = [(event["status"], event["exc_info"]) for event in events if event["event"] == "request_failed"]
    assert failures == [(500, RAISED["unknown"]), (503, RAISED["unavailable"])]

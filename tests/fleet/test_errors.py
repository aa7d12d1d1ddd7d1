"""Refused requests get the same problem+json from every process."""

import json
import time
import uuid
from typing import Any

import httpx
import jwt
import pytest

from tests.api.problems import read_problem
from tests.fleet.fleet import Fleet

CREATE = "/api/export"
NEEDS_TOKEN = [
    ("POST", CREATE),
    ("GET", CREATE),
    ("GET", f"{CREATE}/stream?format=csv"),
    *((method, f"{CREATE}/{uuid.UUID(int=1)}") for method in ("GET", "DELETE")),
    *(("GET", f"{CREATE}/{uuid.UUID(int=1)}/{name}") for name in ("download", "downloads", "events")),
]
ANOTHER_SECRET = "another secret of at least 64 bytes, which is as many as HS512 wants"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
BODIES: list[tuple[bytes, dict[str, str], int]] = [
    (b'{"format":"csv"}', FORM, 415),
    (b'{"format":"csv"}', {}, 415),
    (b'{"format":"' + b"x" * 16_384 + b'"}', JSON, 413),
    (b"", JSON, 400),
    (b'{"format":', JSON, 400),
    (b'{"format":"csv","format":"json"}', JSON, 400),
    (b"\xff", JSON, 400),
    (b"[" * 10_000, JSON, 400),
    (b"{}", JSON, 422),
    (b"[]", JSON, 422),
    (b'{"format":"pdf"}', JSON, 422),
    (b'{"format":1}', JSON, 422),
    (b'{"format":"csv","since":"2026-01-01"}', JSON, 422),
]
STREAM_QUERIES = ["", "format=pdf", "format=csv&bom=2", "format=json&bom=1", "format=csv&limit=1", "format=csv%00"]


@pytest.mark.parametrize(("body", "headers", "status"), BODIES, ids=range(len(BODIES)))
async def test_bodies(
    fleet: Fleet, client: httpx.AsyncClient, body: bytes, headers: dict[str, str], status: int
) -> None:
    stranger = await fleet.sign_in(uuid.uuid4())
    response = await client.post(CREATE, content=body, headers=stranger.headers | headers)
    problem = read_problem(response, status)
    assert "Traceback" not in response.text
    assert problem["type"].startswith("urn:carryout:problem:") or status == 413


async def test_the_faulty_field_is_named(fleet: Fleet, client: httpx.AsyncClient) -> None:
    stranger = await fleet.sign_in(uuid.uuid4())
    for body, named in (({"format": "pdf"}, "$.format"), ({"format": "csv", "since": 1}, "since"), ({}, "format")):
        response = await client.post(CREATE, json=body, headers=stranger.headers)
        assert named in read_problem(response, 422)["detail"]


@pytest.mark.parametrize("query", STREAM_QUERIES)
async def test_streams(fleet: Fleet, client: httpx.AsyncClient, query: str) -> None:
    read_problem(await client.get(f"{CREATE}/stream?{query}", headers=(await fleet.sign_in(uuid.uuid4())).headers), 400)


@pytest.mark.parametrize(("method", "path"), NEEDS_TOKEN)
async def test_a_request_without_a_token_is_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path)
    assert read_problem(response, 401)["detail"] == "Missing or invalid token"
    assert response.headers["www-authenticate"] == "Bearer"


async def test_wrong_tokens(fleet: Fleet, client: httpx.AsyncClient) -> None:
    # Where a provider signs, tokens of another secret are wrong by their signature, too.
    secret, now = fleet.environ["CARRYOUT_JWT_SECRET"] or ANOTHER_SECRET, int(time.time())
    good: dict[str, Any] = {"sub": str(uuid.uuid4()), "exp": now + 600}
    token = (await fleet.sign_in(uuid.uuid4())).headers["Authorization"].removeprefix("Bearer ")
    header, payload, signature = token.split(".")
    wrong = [
        jwt.encode({**good, "exp": now - 600}, secret, "HS256"),
        jwt.encode({"sub": good["sub"]}, secret, "HS256"),
        jwt.encode({"exp": good["exp"]}, secret, "HS256"),
        jwt.encode({**good, "sub": "ada"}, secret, "HS256"),
        jwt.encode({**good, "nbf": now + 600}, secret, "HS256"),
        jwt.encode(good, ANOTHER_SECRET[::-1], "HS256"),
        jwt.encode(good, secret, "HS512"),
        jwt.encode(good, "", "none"),
        f"{header}.{payload}.",
        f"{header}.{payload[:-1]}.{signature}",
        "x",
    ]
    for token in wrong:
        response = await client.get(CREATE, headers={"Authorization": f"Bearer {token}"})
        assert read_problem(response, 401)["detail"] == "Missing or invalid token"
    accepted = await client.get(CREATE, headers={"Authorization": f"Bearer {header}.{payload}.{signature}"})
    assert accepted.status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/api/export/", "/api/v1/users", f"{CREATE}/1/2/3"])
async def test_unknown_paths(client: httpx.AsyncClient, path: str) -> None:
    read_problem(await client.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", CREATE, "GET, HEAD, POST"),
        ("DELETE", CREATE, "GET, HEAD, POST"),
        ("POST", f"{CREATE}/{uuid.UUID(int=1)}", "DELETE, GET, HEAD"),
        ("POST", "/api/v1/users/export", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
    ],
)
async def test_other_methods(client: httpx.AsyncClient, method: str, path: str, allow: str) -> None:
    response = await client.request(method, path)
    read_problem(response, 405)
    assert response.headers["allow"] == allow


async def test_the_callers_request_id_comes_back(client: httpx.AsyncClient) -> None:
    response = await client.get("/nothing", headers={"X-Request-ID": "mine.1"})
    assert read_problem(response, 404)["request_id"] == "mine.1"
    assert json.loads(response.content)["type"] == "about:blank"

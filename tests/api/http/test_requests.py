"""Requests read strictly: what is wrong is named, and nothing is guessed."""

import json
from collections.abc import AsyncIterator
from typing import Literal

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.api.http.requests import bearer_token, client_ip, query_params, read_json, weights
from tests.api.serving import Served, create_edge, serve

JSON = "application/json"


class Order(msgspec.Struct, forbid_unknown_fields=True):
    format: Literal["csv", "json"]
    note: str = ""


async def order(request: Request) -> Response:
    given = await read_json(request, Order, wanted="send an order")
    return JSONResponse(msgspec.to_builtins(given))


async def search(request: Request) -> Response:
    return JSONResponse({"params": query_params(request, {"format", "email"}), "ip": client_ip(request)})


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve(create_edge([Route("/order", order, methods=["POST"]), Route("/search", search)])) as running:
        yield running


async def post(served: Served, content: bytes, media_type: str | None = JSON) -> httpx.Response:
    headers = {} if media_type is None else {"Content-Type": media_type}
    async with served.client() as client:
        return await client.post("/order", content=content, headers=headers)


@pytest.mark.parametrize("media_type", [JSON, "application/json; charset=utf-8", "Application/JSON ;x=y"])
async def test_json_is_read(served: Served, media_type: str) -> None:
    response = await post(served, '{"format": "csv", "note": "naïve"}'.encode(), media_type)
    assert (response.status_code, response.json()) == (200, {"format": "csv", "note": "naïve"})


@pytest.mark.parametrize(
    "media_type", [None, "", "text/plain", "application/jsonp", "application/x-www-form-urlencoded"]
)
async def test_other_media_types_are_refused(served: Served, media_type: str | None) -> None:
    response = await post(served, b'{"format": "csv"}', media_type)
    assert (response.status_code, response.json()["status"]) == (415, 415)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"format": "csv"} trailing',
        b'{"format": "\xff"}',
        '{"format": "csv"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"format": "csv"}',
        b'{"format": "csv", "note": "\\ud800"}',
        b'{"format": NaN}',
        b'{"format": 1, "note":',
        b"[" * 8_000,
        b"9" * 10_000,
        b'{"format": "csv", "format": "json"}',
        b'{"format": "csv", "note": {"a": 1, "a": 2}}',
    ],
)
async def test_a_body_that_is_not_json_is_malformed(served: Served, body: bytes) -> None:
    response = await post(served, body)
    assert (response.status_code, response.json()["status"]) == (400, 400)


async def test_deep_nesting_is_refused(served: Served) -> None:
    """How deep JSON may be is Python's to say: a fault of syntax up to 3.11, else of the unknown field."""
    response = await post(served, b'{"note":' * 1_500 + b"1" + b"}" * 1_500)
    assert response.status_code == response.json()["status"]
    assert response.status_code in {400, 422}


async def test_a_duplicate_key_is_named(served: Served) -> None:
    response = await post(served, b'{"format": "csv", "format": "json"}')
    assert response.json()["detail"] == "The body has a duplicate key: format"


async def test_a_duplicate_key_that_is_not_valid_text_is_refused(served: Served) -> None:
    response = await post(served, b'{"\\ud800": 1, "\\ud800": 2}')
    assert (response.status_code, response.json()["detail"]) == (400, "The body has a duplicate key: ?")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"format": "csv", "colour": 1}', "colour"),
        (b'{"format": 1}', "$.format"),
        (b'{"format": null}', "$.format"),
        (b'{"format": "xml"}', "$.format"),
        (b'{"format": "csv", "note": 1}', "$.note"),
        (b"{}", "format"),
        (b"[]", "object"),
        (b'{"format": "csv", "note": "a\\u0000b"}', "NUL"),
    ],
)
async def test_a_wrong_value_is_named(served: Served, body: bytes, named: str) -> None:
    response = await post(served, body)
    assert response.status_code == 422
    assert named in response.json()["detail"]


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("", {}),
        ("format=csv", {"format": "csv"}),
        ("format=&email=", {"format": "", "email": ""}),
        ("email=a%2Bb%40x.org&format=CSV", {"email": "a+b@x.org", "format": "CSV"}),
        ("email=na%C3%AFve", {"email": "naïve"}),
        ("email=100%25", {"email": "100%"}),
        ("email=';DROP--", {"email": "';DROP--"}),
    ],
)
async def test_known_parameters_are_read(served: Served, query: str, params: dict[str, str]) -> None:
    raw = await served.exchange(f"GET /search?{query} HTTP/1.1")
    assert json.loads(raw.partition(b"\r\n\r\n")[2]) == {"params": params, "ip": "127.0.0.1"}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("colour=red", "colour"),
        ("Format=csv", "Format"),
        ("format=csv&format=json", "format"),
        ("format=csv&f%6Frmat=csv", "format"),
        ("format=%", "percent"),
        ("format=%zz", "percent"),
        ("format=%c", "percent"),
        ("format=%FF", "UTF-8"),
        ("format=a%00b", "NUL"),
        ("%00=a", "NUL"),
        ("x" * 5_000, "x" * 64),
    ],
)
async def test_other_parameters_are_refused(served: Served, query: str, named: str) -> None:
    raw = await served.exchange(f"GET /search?{query} HTTP/1.1")
    problem = json.loads(raw.partition(b"\r\n\r\n")[2])
    assert problem["status"] == 400
    assert named in problem["detail"]
    assert len(problem["detail"]) < 200


@pytest.mark.parametrize(
    ("authorization", "token"),
    [
        (None, ""),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Bearer x.y.z", "x.y.z"),
        ("bEARER x.y.z", "x.y.z"),
        ("Bearer  x.y.z", " x.y.z"),
        ("Basic x.y.z", ""),
        ("x.y.z", ""),
    ],
)
def test_a_token_is_what_follows_bearer(authorization: str | None, token: str) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    assert bearer_token(Request({"type": "http", "headers": headers})) == token


@pytest.mark.parametrize(
    ("accepted", "weighed"),
    [
        ("text/html", {"text/html": 1}),
        ("text/html, */*;q=0.8", {"text/html": 1, "*/*": 0.8}),
        ("Text/HTML ; Level=1 ; Q=0.5", {"text/html": 0.5}),
        ("text/html; q=.2", {"text/html": 0.2}),  # as Java's HttpURLConnection has it
        ("text/html;q=0.4;q=0.2", {"text/html": 0.2}),
        ("text/html;seq=0.5", {"text/html": 1}),
        ("text/html;q=1.001", {"text/html": 0}),
        ("text/html;q=-1", {"text/html": 0}),
        ("text/html;q=nan", {"text/html": 0}),
        ("text/html;q=", {"text/html": 0}),
        ("text/html;q", {"text/html": 0}),
    ],
)
def test_an_accept_header_is_read_with_its_weights(accepted: str, weighed: dict[str, float]) -> None:
    request = Request({"type": "http", "headers": [(b"accept", accepted.encode())]})
    assert weights(request, "Accept") == weighed


async def test_a_proxy_header_is_not_believed(served: Served) -> None:
    async with served.client() as client:
        response = await client.get("/search", headers={"X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6"})
    assert response.json()["ip"] == "127.0.0.1"

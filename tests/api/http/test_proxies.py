"""Behind proxies the client's own address is audited, even if the client forges X-Forwarded-For."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.api.http.proxies import MAX_PROXIES, ProxyMiddleware
from service.api.http.requests import client_ip
from service.api.server import listen
from service.settings import Settings
from tests.api.conftest import CSV
from tests.api.problems import bearer
from tests.api.serving import Served, serve
from tests.conftest import PUBLIC_URL, Token, open_client
from tests.support.factories import Connection, create_user_with, list_audit

PEER = "127.0.0.1"
INGRESS = ("127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32")
CLIENT = "203.0.113.7"


async def show(request: Request) -> Response:
    return JSONResponse({"ip": client_ip(request), "scheme": request.url.scheme})


def create_behind(*trusted: str) -> ProxyMiddleware:
    return ProxyMiddleware(Starlette(routes=[Route("/", show)]), trusted)


@pytest.fixture(scope="module")
async def behind_ingress() -> AsyncIterator[Served]:
    async with serve(create_behind(*INGRESS)) as running:
        yield running


async def ask(served: Served, *forwarded: str) -> dict[str, Any]:
    async with served.client() as client:
        response = await client.get("/", headers=[("X-Forwarded-For", text) for text in forwarded])
    assert response.status_code == 200
    seen: dict[str, Any] = response.json()
    return seen


async def test_ipv4_on_a_socket_for_both_families() -> None:
    """Its peers are mapped addresses, also where no proxy is trusted."""
    with listen("::", 0) as listener:
        config = uvicorn.Config(create_behind(), lifespan="off", log_config=None, proxy_headers=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).json()["ip"] == PEER
            assert (await client.get(f"http://[::1]:{port}/")).json()["ip"] == "::1"
        server.should_exit = True
        await serving


@pytest.mark.parametrize(
    ("forwarded", "ip"),
    [
        ([], PEER),
        ([CLIENT], CLIENT),
        ([f"{CLIENT}\t , 10.0.0.9"], CLIENT),
        ([f"6.6.6.6, {CLIENT}, 10.0.0.9"], CLIENT),
        (["6.6.6.6", f"{CLIENT}, 10.0.0.9"], CLIENT),
        ([CLIENT, "10.0.0.9"], CLIENT),
        ([f"{CLIENT}:4711"], CLIENT),
        (["2001:0DB9::0001"], "2001:db9::1"),
        (["[2001:db9::1]"], "2001:db9::1"),
        (["[2001:db9::1]:443, 2001:db8::5"], "2001:db9::1"),
        ([f"::ffff:{CLIENT}, ::ffff:10.0.0.9"], CLIENT),
        (["10.0.0.8, 10.0.0.9"], "10.0.0.8"),
    ],
)
async def test_the_nearest_stranger_is_the_client(behind_ingress: Served, forwarded: list[str], ip: str) -> None:
    assert (await ask(behind_ingress, *forwarded))["ip"] == ip


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        ",,,",
        "unknown",
        "_hidden",
        "203.0.113.256",
        "203.0.113.07",
        "203.0.113.7:",
        "203.0.113.7:999999",
        "203.0.113.7 6.6.6.6",
        "203.0.113.0/24",
        "[203.0.113.7",
        "2001:db9::1]:443",
        "fe80::1%<script>",
        "'; DROP TABLE x; --",
        "for=203.0.113.7",
        "3405803783",
        "x" * 10_000,
    ],
)
async def test_garbage_ends_what_is_known(behind_ingress: Served, garbage: str) -> None:
    assert (await ask(behind_ingress, garbage))["ip"] == PEER
    assert (await ask(behind_ingress, f"{CLIENT}, {garbage}, 10.0.0.9"))["ip"] == "10.0.0.9"


async def test_a_long_list_is_read_from_its_end(behind_ingress: Served) -> None:
    assert (await ask(behind_ingress, ",".join(["6.6.6.6"] * 400), CLIENT))["ip"] == CLIENT
    assert (await ask(behind_ingress, ",".join(["10.0.0.1"] * 400)))["ip"] == "10.0.0.1"
    assert (await ask(behind_ingress, ",".join([CLIENT] + ["10.0.0.1"] * MAX_PROXIES)))["ip"] == "10.0.0.1"


async def test_other_headers_are_not_believed(behind_ingress: Served) -> None:
    lines = [f"X-Real-IP: {CLIENT}", f"Forwarded: for={CLIENT}", "X-Forwarded-Proto: https"]
    raw = await behind_ingress.exchange("GET / HTTP/1.1", *lines)
    assert raw.endswith(b'{"ip":"127.0.0.1","scheme":"http"}')


@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8", "::/0")])
async def test_a_strange_peer_is_the_client(trusted: tuple[str, ...]) -> None:
    async with serve(create_behind(*trusted)) as served:
        assert (await ask(served, CLIENT))["ip"] == PEER


async def test_the_audit_names_the_client_and_links_keep_their_base(
    settings: Settings, database: Connection, token: Token
) -> None:
    user_id = await create_user_with(database, 2)
    forwarded = {"X-Forwarded-For": f"6.6.6.6, {CLIENT}", "X-Forwarded-Host": "evil.example", "Host": "evil.example"}
    async with open_client(msgspec.structs.replace(settings, trusted_proxies=("127.0.0.1",))) as api:
        created = await api.post("/api/export", json=CSV, headers=bearer(token(user_id)) | forwarded)

    assert created.json()["download_url"].startswith(f"{PUBLIC_URL}/")
    (requested,) = [event for event in await list_audit(database) if event["action"] == "export:requested"]
    assert str(requested["ip"]) == CLIENT

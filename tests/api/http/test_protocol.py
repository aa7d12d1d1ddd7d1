"""Bytes that never become a request are refused with a message, and limited in size and time."""

import asyncio
import socket
from contextlib import suppress

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.api.http import protocol
from tests.api.serving import create_edge, serve, until

MEGABYTE = 1024 * 1024


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


ROUTES = [Route("/", echo, methods=["GET", "POST"])]


def split(raw: bytes) -> tuple[int, dict[str, object]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head
    assert b"Connection: close" in head
    problem = msgspec.json.decode(body, type=dict[str, object])
    status = int(head.split()[1])
    assert problem["status"] == problem["status_code"] == status
    assert str(problem["request_id"]).encode() in head
    return status, problem


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"GET / HTTP/9.9",
        b"G\0T / HTTP/1.1",
        b"GET / HTTP/1.1\r\nX: a\0b",
        b"GET / HTTP/1.1\r\n: nameless",
        b"CONNECT x:443 HTTP/1.1\r\nUpgrade: h2c\r\nConnection: upgrade",
        b"CONNECT / HTTP/1.1",
        b"CONNECT http://x/ HTTP/1.1",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"GET /",
        b"GET / HTTP/0.9",
        b"GET / HTTP/2.0",
        b"GET / RTSP/1.0",
        b"DESCRIBE rtsp://x/ RTSP/1.0",
        b"SOURCE / ICE/1.0",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: identity",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET  / HTTP/1.1\r\nHost: x",
        b"GET /  HTTP/1.1\r\nHost: x",
        b"GET / HTTP/1.1 \r\nHost: x",
        b"GET\t/ HTTP/1.1\r\nHost: x",
        b" GET / HTTP/1.1\r\nHost: x",
        b"GET / HTTP/1.1\r\nHost: x y",
        b"GET / HTTP/1.1\r\nHost: x, y",
        b"GET / HTTP/1.1\r\nHost: a@x",
        b"GET / HTTP/1.1\r\nHost: x/y",
        b"GET / HTTP/1.1\r\nHost: x?y",
        b"GET / HTTP/1.1\r\nHost: x:http",
        b"GET / HTTP/1.1\r\nHost: \xc3\xa4",
        b'GET / HTTP/1.1\r\nHost: "x"',
        b"GET / HTTP/1.1\r\nHost: <x>",
        b"GET / HTTP/1.1\r\nHost: [::1",
        b"GET http://y/ HTTP/1.1\r\nHost: x",
        b"GET http://x:80/ HTTP/1.1\r\nHost: x",
        b"GET http://a@x/ HTTP/1.1\r\nHost: x",
        b"GET ftp://x/ HTTP/1.1\r\nHost: x",
    ],
)
async def test_bytes_that_are_not_a_request_are_refused(line: bytes) -> None:
    async with serve(create_edge(ROUTES)) as served:
        status, problem = split(await served.exchange(line))
    assert (status, problem["detail"]) == (400, "This is not a valid HTTP/1.1 request")


@pytest.mark.parametrize(
    "begin",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\na\n\r\nbc\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 7, 1_000])
@pytest.mark.parametrize(("line", "is_valid"), [(b"GET / HTTP/1.1", True), (b"GET  / HTTP/1.1", False)])
async def test_each_request_line_is_checked(begin: bytes, piece_bytes: int, line: bytes, *, is_valid: bool) -> None:
    async with serve(create_edge(ROUTES)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(begin)
        first = await reader.readuntil(b"\r\n\r\n")
        raw = begin + line + b"\r\nHost: x\r\nConnection: close\r\n\r\n"
        for at in range(0, len(raw), piece_bytes):
            writer.write(raw[at : at + piece_bytes])
            await asyncio.sleep(0)
        with suppress(ConnectionResetError):  # where the first of the two was still being answered
            first += await reader.read()
        writer.close()
    assert (first.count(b"HTTP/1.1 200 ") == 3) is is_valid


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"/", b"x"),
        (b"/", b""),
        (b"/", b"x_y.example.:8000"),
        (b"/", b"[::1]:80"),
        (b"/", b"%7ex"),
        (b"http://x.example:80/", b"X.example:80"),
        (b"https://x/", b"x"),
    ],
)
async def test_a_host_may_be_any_host(target: bytes, host: bytes) -> None:
    async with serve(create_edge(ROUTES)) as served:
        raw = await served.exchange(b"\r\nGET %b HTTP/1.1" % target, b"Host: %b" % host)
    assert raw.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "line",
    [
        b"GET /?" + b"a" * MEGABYTE + b" HTTP/1.1",
        b"GET / HTTP/1.1\r\nX: " + b"a" * MEGABYTE,
        b"GET / HTTP/1.1" + b"\r\nX: " * 20_000 + b"a",
        b"GET / HTTP/1.1" + b"".join(b"\r\nX-%d: a" % number for number in range(5_000)),
        b"GET / HTTP/1.1" + b"\r\nX: " * (protocol.MAX_HEAD_PARTS + 1),
        b"GET / HTTP/1.1\r\nAccept: " + b"a," * protocol.MAX_HEAD_PARTS + b"\r\nX",
        b"GET / HTTP/1.1\r\nAccept: a" + b";q=1" * protocol.MAX_HEAD_PARTS + b"\r\nX",
        b"GET /?" + b"a&" * protocol.MAX_HEAD_PARTS + b" HTTP/1.1\r\n",
    ],
)
async def test_a_head_too_large_is_refused(line: bytes) -> None:
    async with serve(create_edge(ROUTES)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(line)  # and never a line's end
        status, problem = split(await reader.readuntil(b"}"))
        writer.close()
    assert (status, problem["title"]) == (431, "Request Header Fields Too Large")


@pytest.mark.parametrize(
    "line", [b"X: " + b"a" * (protocol.MAX_HEAD_BYTES - 100), b"X: " + b"a," * (protocol.MAX_HEAD_PARTS - 10)]
)
async def test_a_head_below_the_limit_is_read(line: bytes) -> None:
    async with serve(create_edge(ROUTES)) as served:
        raw = await served.exchange("GET / HTTP/1.1", line)
    assert raw.startswith(b"HTTP/1.1 200 ")


async def test_a_trailer_after_the_body_is_not_a_header() -> None:
    async def show(request: Request) -> Response:
        return PlainTextResponse(f"{await request.body()!r} {request.headers.getlist('x')}")

    async with serve(create_edge([Route("/", show)])) as served:
        head = ("GET / HTTP/1.1", "X: head", "Transfer-Encoding: chunked")
        raw = await served.exchange(*head, body=b"1\r\na\r\n0\r\nX: trailer\r\n\r\n")
    assert raw.endswith(b"b'a' ['head']")


async def test_few_requests_wait_for_the_one_before() -> None:
    answering = asyncio.Event()

    async def endpoint(_request: Request) -> Response:
        await answering.wait()
        return PlainTextResponse("x")

    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serve(create_edge([Route("/", endpoint)])) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(request * (1 + protocol.MAX_WAITING))
        _, greedy = await asyncio.open_connection(served.host, served.port)
        greedy.write(request * (2 + protocol.MAX_WAITING))
        await until(lambda: len(served.server.server_state.connections) == 2)
        await until(lambda: len(served.server.server_state.connections) == 1)
        answering.set()
        for _ in range(1 + protocol.MAX_WAITING):
            assert (await reader.readuntil(b"\r\n\r\nx")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        greedy.close()


OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    "websocket": b"Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
}
BODIES = {
    "length": b"Content-Length: 5\r\n\r\nhello",
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("piece_bytes", [1, 1_000_000])
async def test_an_offer_of_another_protocol_costs_no_body(offer: bytes, body: bytes, piece_bytes: int) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\n" + offer + body
    async with serve(create_edge(ROUTES)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, 3 * len(request), piece_bytes):  # the second and third wait on the same connection
            writer.write((3 * request)[at : at + piece_bytes])
            await asyncio.sleep(0)
        for _ in range(3):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(5) == b"hello"
        writer.close()


@pytest.mark.parametrize(("version", "connection"), [("1.1", "Upgrade, close"), ("1.0", "Upgrade")])
async def test_an_offer_on_a_connection_that_closes_is_answered(version: str, connection: str) -> None:
    async with serve(create_edge(ROUTES)) as served:
        head = (f"POST / HTTP/{version}", f"Connection: {connection}", "Upgrade: h2c", "Content-Length: 5")
        raw = await served.exchange(*head, body=b"hello")
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert raw.endswith(b"hello")


async def test_a_body_after_an_offer_has_to_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.3)
    async with serve(create_edge(ROUTES)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + OFFERS["h2c"] + b"Content-Length: 5\r\n\r\nab")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key", "Idempotency-Key", "Range"])
async def test_whitespace_around_a_header_value_is_removed(name: str) -> None:
    async def show(request: Request) -> Response:
        return PlainTextResponse(f"[{request.headers[name]}]")

    async with serve(create_edge([Route("/", show)])) as served:
        raw = await served.exchange("GET / HTTP/1.1", f"{name}: \t a b \t ")
    assert raw.endswith(b"[a b]")


@pytest.mark.parametrize("begun", [b"", b"\r\n\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: "])
async def test_a_request_that_does_not_arrive_is_given_up(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.3)
    async with serve(create_edge(ROUTES)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(begun)
        raw = await reader.read()
        writer.close()
    assert split(raw)[0] == 408


async def test_a_body_that_does_not_arrive_breaks_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.3)
    async with serve(create_edge(ROUTES)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@pytest.mark.slow
async def test_requests_one_after_the_other_have_their_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 2)
    async with serve(create_edge(ROUTES)) as served, served.client() as client:
        for _ in range(6):
            assert (await client.post("/", content=b"x")).text == "x"
            await asyncio.sleep(0.5)


@pytest.mark.slow
async def test_rubbish_behind_a_running_request_breaks_it_off() -> None:
    running = asyncio.Event()

    async def endpoint(_request: Request) -> Response:
        running.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async with serve(create_edge([Route("/", endpoint)])) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await running.wait()
        writer.write(b"rubbish\r\n\r\n")
        with suppress(ConnectionResetError):
            assert not await reader.read()
        writer.close()


@pytest.mark.parametrize("requests", [1, protocol.MAX_WAITING])
@pytest.mark.slow
async def test_a_client_that_takes_nothing_is_cut(requests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def large(_request: Request) -> Response:
        return PlainTextResponse(b"x" * MEGABYTE)

    monkeypatch.setattr(protocol, "STALLED_SECONDS", 1.0)
    async with serve(create_edge([Route("/", large)])) as served:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (served.host, served.port))
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * requests)
            connections = served.server.server_state.connections
            async with asyncio.timeout(60):
                await until(lambda: connections)
                await until(lambda: not connections)

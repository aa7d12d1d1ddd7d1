"""Every request gets an id, safe headers, a size limit and one line in the log."""

import asyncio
import dataclasses
import subprocess
from collections.abc import AsyncIterator

import msgspec
import pytest
import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Message
from structlog.testing import capture_logs

from service.api.app import create_app
from service.api.http.body_limit import MAX_BODY_BYTES
from service.api.http.middleware import NOT_PLAIN
from service.resources import Resources
from tests.api.serving import Served, create_edge, serve, until

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


async def show(request: Request) -> Response:
    state = {"request_id": request.state.request_id, "traceparent": request.state.traceparent}
    return JSONResponse({"state": state, "context": structlog.contextvars.get_contextvars()})


async def read(request: Request) -> Response:
    return JSONResponse({"size": len(await request.body())})


async def page(_request: Request) -> Response:
    return Response("page", headers={"Content-Security-Policy": "default-src 'self'", "Cache-Control": "max-age=60"})


async def break_off(_request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        raise ValueError

    return StreamingResponse(chunks())


ROUTES = [
    Route("/show", show),
    Route("/read", read, methods=["POST"]),
    Route("/page", page),
    Route("/break", break_off),
    Mount("/nested", routes=[Route("/{name}", show)]),
]


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[Served]:
    async with serve(create_edge(ROUTES)) as running:
        yield running


async def test_a_good_request_id_is_kept(served: Served) -> None:
    async with served.client() as client:
        response = await client.get("/show", headers={"X-Request-ID": "Order-1_a.b"})
    assert response.headers["x-request-id"] == "Order-1_a.b"
    assert response.json()["state"]["request_id"] == response.json()["context"]["request_id"] == "Order-1_a.b"


@pytest.mark.parametrize(
    "given", [b"", b"a" * 65, b"a b", b'"quoted"', b"{json}", b"\xc3\xa9", b"a\tb", b"${jndi:x}", b"<script>"]
)
async def test_a_hostile_request_id_is_replaced(served: Served, given: bytes) -> None:
    raw = await served.exchange("GET /show HTTP/1.1", b"X-Request-ID: " + given)
    (header,) = [line for line in raw.split(b"\r\n") if line.startswith(b"x-request-id: ")]
    assert len(bytes.fromhex(header.removeprefix(b"x-request-id: ").decode())) == 16


async def test_a_valid_trace_is_kept(served: Served) -> None:
    async with served.client() as client:
        seen = (await client.get("/show", headers={"traceparent": TRACEPARENT})).json()
    assert (seen["state"]["traceparent"], seen["context"]["trace_id"]) == (TRACEPARENT, TRACE_ID)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [TRACEPARENT.upper()],
        [TRACEPARENT.replace("00-", "ff-", 1)],
        [f"00-{'0' * 32}-00f067aa0ba902b7-01"],
        [f"00-{TRACE_ID}-{'0' * 16}-01"],
        [TRACEPARENT + "-more"],
        [TRACEPARENT, TRACEPARENT],
    ],
)
async def test_an_invalid_trace_is_dropped(served: Served, given: list[str]) -> None:
    async with served.client() as client:
        response = await client.get("/show", headers=[("traceparent", value) for value in given])
    assert response.json()["state"]["traceparent"] is None
    assert "trace_id" not in response.json()["context"]


async def test_a_pipelined_request_inherits_nothing(served: Served) -> None:
    first = f"GET /show HTTP/1.1\r\nHost: x\r\ntraceparent: {TRACEPARENT}\r\n\r\n"
    raw = await served.exchange(first + "GET /show HTTP/1.1")
    assert raw.count(b"HTTP/1.1 200") == 2
    assert raw.count(TRACE_ID.encode()) == 2  # state and context of the first alone


async def test_default_headers(served: Served) -> None:
    async with served.client() as client:
        headers = (await client.get("/show")).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "private, no-store"


async def test_a_response_may_set_its_own(served: Served) -> None:
    async with served.client() as client:
        headers = (await client.get("/page")).headers
    assert headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert headers.get_list("cache-control") == ["max-age=60"]


async def test_the_largest_body_passes(served: Served) -> None:
    async with served.client() as client:
        assert (await client.post("/read", content=b"x" * MAX_BODY_BYTES)).json() == {"size": MAX_BODY_BYTES}


@pytest.mark.parametrize("framing", ["declared", "chunked"])
async def test_a_larger_body_is_refused(served: Served, framing: str) -> None:
    body = b"x" * (MAX_BODY_BYTES + 1)
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    header, content = {
        "declared": (f"Content-Length: {len(body)}", body),
        "chunked": ("Transfer-Encoding: chunked", chunked),
    }[framing]
    raw = await served.exchange("POST /read HTTP/1.1", header, body=content)
    assert raw.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in raw
    assert b'"status_code":413' in raw


async def test_a_large_declared_body_is_refused_unread(served: Served) -> None:
    raw = await served.exchange("POST /read HTTP/1.1", "Content-Length: 64000000", "Expect: 100-continue")
    assert raw.startswith(b"HTTP/1.1 413 ")


async def test_one_line_a_request() -> None:
    with capture_logs() as events:
        async with serve(create_edge(ROUTES)) as served, served.client() as client:
            await client.get("/nested/alice?signature=canary")
            await client.get("/nowhere?signature=canary")
            await client.head("/page")
            await client.post("/read", content=b"x")
    lines = [event for event in events if event["event"] == "request"]
    assert [(line["method"], line["path"], line["status"], line["outcome"]) for line in lines] == [
        ("GET", "/nested/{name}", 200, "complete"),
        ("GET", "(unmatched)", 404, "complete"),
        ("HEAD", "/page", 200, "complete"),
        ("POST", "/read", 200, "complete"),
    ]
    assert [line["bytes_sent"] for line in lines[2:]] == [0, len('{"size":1}')]
    assert all(line["client_ip"] == "127.0.0.1" and line["duration_ms"] >= 0 for line in lines)
    assert "canary" not in str(events)


async def test_good_probes_can_be_left_out_of_the_log(resources: Resources) -> None:
    quiet = dataclasses.replace(resources, settings=msgspec.structs.replace(resources.settings, log_probes=False))
    app = create_app(quiet)
    with capture_logs() as events:
        async with serve(app) as served, served.client() as client:
            for path in ("/livez", "/readyz", "/metrics", "/readyz?exclude=mail", "/docs"):
                await client.get(path)
            app.state.draining = True
            await client.get("/readyz")
    lines = [(event["path"], event["status"]) for event in events if event["event"] == "request"]
    assert lines == [
        ("/readyz", 400),
        ("/docs", 200),
        ("/readyz", 503),
    ]


async def test_a_failure_after_the_start_breaks_the_connection() -> None:
    with capture_logs() as events:
        async with serve(create_edge(ROUTES)) as served:
            curl = await asyncio.to_thread(
                subprocess.run, ["curl", "-s", f"{served.url}/break"], capture_output=True, check=False
            )
    assert (curl.returncode, curl.stdout) == (18, b"half")
    (line,) = [event for event in events if event["event"] == "request"]
    assert (line["status"], line["bytes_sent"], line["outcome"]) == (200, 4, "aborted")


async def test_a_client_that_leaves_during_its_upload_is_logged_as_aborted() -> None:
    with capture_logs() as events:
        async with serve(create_edge(ROUTES)) as served:
            _, writer = await asyncio.open_connection(served.host, served.port)
            writer.write(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
            await writer.drain()
            await until(lambda: served.server.server_state.tasks)
            writer.close()
    (line,) = [event for event in events if event["log_level"] in {"info", "error"}]
    assert (line["event"], line["status"], line["outcome"]) == ("request", None, "aborted")


async def test_other_protocols_pass_through() -> None:
    seen: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup" if not seen else "lifespan.shutdown"}

    async def send(message: Message) -> None:
        seen.append(message)

    await create_edge(ROUTES)({"type": "lifespan", "state": {}}, receive, send)
    assert [message["type"] for message in seen] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.slow
async def test_a_stopping_server_says_so_to_whom_it_keeps_waiting() -> None:
    asked = asyncio.Event()

    async def hang(_request: Request) -> Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serve(create_edge([Route("/", hang)])) as served, served.client() as client:
        waiting = asyncio.create_task(client.get("/", timeout=30))
        await asked.wait()
        served.server.stop()
        response = await waiting
    assert (response.status_code, response.json()["detail"]) == (503, "Shutting down")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (("GET /show HTTP/1.1", "Host: x", "Host: x"), "A request must have exactly one Host header"),
        (("GET /show HTTP/1.1", "Host: x", "host: y"), "A request must have exactly one Host header"),
        (
            ("GET /show HTTP/1.1", "Authorization: Bearer a", "Authorization: Bearer b"),
            "A request must have at most one Authorization header",
        ),
        (("GET /show HTTP/1.1", "X-API-Key: a", "x-api-key: b"), "A request must have at most one X-API-Key header"),
    ],
)
async def test_an_ambiguous_request_head_is_refused(head: tuple[str, ...], detail: str) -> None:
    async with serve(create_edge(ROUTES)) as served:
        answer = await served.exchange(*head)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["detail"] == detail


@pytest.mark.parametrize(("version", "status"), [("1.1", 400), ("1.0", 200)])
async def test_only_old_clients_may_leave_out_the_host(version: str, status: int) -> None:
    async with serve(create_edge(ROUTES)) as served:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(f"GET /show HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
    assert int(answer.split()[1]) == status


SPELLINGS = [
    "/sho%77",
    "/%73how",
    "/%53HOW",
    "/show%20",
    "/show%00",
    "/show%0a",
    "/show%",
    "/show;x",
    "/show;",
    "/;/show",
    "/show,x",
    "//show",
    "/show//",
    "/./show",
    "/show/.",
    "/show/..",
    "/x/../show",
    "/x/..;/show",
    "/%2e/show",
    "/x/%2e%2e/show",
    "/x%2f..%2fshow",
    "%2fshow",
    "/%2fshow",
    "/nested%2falice",
    "/nested/%61lice",
    "/nested\\alice",
    "/nested%5calice",
    "/%c0%af/show",
    "/%c1%b3how",
    "/%e2%80%8bshow",
    "/%u0073how",
    "/show:80",
    "/@show",
    "http://x/%73how",
    "http://x//show",
]


@pytest.mark.parametrize("path", SPELLINGS)
async def test_an_ambiguous_path_is_refused(served: Served, path: str) -> None:
    """It would pass a proxy that keeps /show off."""
    answer = await served.exchange(f"GET {path} HTTP/1.1")
    assert answer.startswith(b"HTTP/1.1 400 ")
    problem = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])
    if path.startswith("%"):  # which the parser refuses
        assert problem["detail"] == "This is not a valid HTTP/1.1 request"
    else:
        assert (problem["type"], problem["detail"]) == ("urn:carryout:problem:invalid-request", NOT_PLAIN)


@pytest.mark.parametrize("path", ["/SHOW", "/shoW", "/.show", "/...", "/show.", "/~show", "/a/b/c/"])
async def test_another_plain_path_leads_nowhere(served: Served, path: str) -> None:
    assert (await served.exchange(f"GET {path} HTTP/1.1")).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "target",
    ["/show", "/show?", "/show?a=//..;%2f%61", "http://x/show", "http://x/show?a", "/nested/0Aa-b._~c"],
)
async def test_plain_paths_are_answered(served: Served, target: str) -> None:
    assert (await served.exchange(f"GET {target} HTTP/1.1")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("target", ["/show#", "/show#x", "/#/../show", "http://x/show#x", "/show?a#x"])
async def test_a_target_has_no_fragment(served: Served, target: str) -> None:
    """The parser would cut it off, and serve /show to a request that a proxy took for another."""
    assert (await served.exchange(f"GET {target} HTTP/1.1")).startswith(b"HTTP/1.1 400 ")

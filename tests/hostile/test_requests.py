"""Requests that mean no good: bodies, headers, paths and texts. Each is told what is wrong, and none gets a 5xx."""

import asyncio
import json
from contextlib import suppress
from urllib.parse import quote

import pytest

from tests.hostile.siege import Siege, status_of
from tests.telemetry.test_logs import run

MEGABYTE = 1024 * 1024
POST = "POST /api/export HTTP/1.1"
JSON_TYPE = "Content-Type: application/json"
NAMES = [
    "../../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "a\r\nSet-Cookie: evil=1",
    "a\r\n\r\n<script>alert(1)</script>",
    'a"; filename="evil.exe',
    "' OR '1'='1",
    "'; DROP TABLE public.users; --",
    "1) UNION SELECT password_hash FROM public.users --",
    "%",
    "_",
    "%25%5F",
    "\0",
    "a\0b",
    "x" * 300,
    "\N{ROCKET}" * 300,
    "=HYPERLINK(1)",
    "${jndi:ldap://127.0.0.1/a}",
    "{{7*7}}",
    "<img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
    "\ufeff",
    "null",
    "NaN",
    "-0",
    "1e400",
]
HEADERS = [
    "Range",
    "If-Range",
    "If-None-Match",
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Content-Type",
    "Prefer",
    "Idempotency-Key",
    "Last-Event-ID",
    "User-Agent",
    "X-Request-ID",
    "X-Forwarded-For",
    "traceparent",
    "tracestate",
    "Cookie",
    "Expect",
    "Upgrade",
]
VALUES = [
    "",
    ",",
    ";;;,,;q=",
    "\xff\xfe\x80",
    "*",
    "*/*;q=nan",
    "gzip;q=1e999, zstd;q=-1, identity;q=inf",
    "text/html;q=0.\xd9\xa0",
    "application/openmetrics-text; version=9.x; escaping=evil",
    "text/plain; version=; charset=",
    "bytes=99999999999999999999999999-",
    "bytes=-99999999999999999999",
    "bytes=1-0,0-1",
    "bytes=\xb2-\xb3",
    "bytes=0-0" + ",0-0" * 3_000,
    '"' + "\\" * 300,
    "00-" + "g" * 32 + "-" + "0" * 16 + "-01",
    "ff-" + "1" * 32 + "-" + "1" * 16 + "-ff",
    "1.2.3.4," * 2_000,
    "::ffff:1.2.3.4%eth0, [::1]:99999, 0x7f.1",
    "'; DROP TABLE carryout.export_audit; --",
    "x" * 20_000,
    "100-continue",
    "websocket",
]


async def test_an_error_is_short_however_long_the_request(siege: Siege) -> None:
    """Paths of many parts, and names that are sent back, each character of them escaped."""
    for path in ("/" * 32_000, "/x" * 16_000, "/api/export/stream?" + "%22" * 10_000 + "=1", "/?" + "%1B" * 10_000):
        for accepted in ("text/html", "application/json"):
            raw = await siege.send(f"GET {path} HTTP/1.1", siege.bearer, f"Accept: {accepted}")
            assert len(raw) < 16 * 1024


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "statuses"),
        [
            # How deep JSON may be differs between versions of Python.
            (b"[" * 8_000 + b"]" * 8_000, {400, 422}),
            (b'{"format":' * 1_400 + b"1" + b"}" * 1_400, {400, 422}),
            (b"[" * 100_000, {413}),
            (b'{"format":"csv"' + b" " * 64_000 + b"}", {413}),
            (b'{"format":"\xc3\x28"}', {400}),
            (b'{"format":"\xed\xa0\x80"}', {400}),
            (b'{"format":"\\ud800"}', {400, 422}),
            (b'{"format":"csv\\u0000"}', {422}),
            (b'\xef\xbb\xbf{"format":"csv"}', {400}),
            ('{"format":"csv"}'.encode("utf-16"), {400}),
            (b'{"format":1e9999}', {400, 422}),
            (b'{"format":' + b"9" * 10_000 + b"}", {400, 422}),
            (b'{"format":null}', {422}),
            (b'{"format":{"csv":1}}', {422}),
            (b'{"format":true}', {422}),
            (b'"csv"', {422}),
            (b'{"__proto__":{"format":"csv"}}', {422}),
            (b'{"format":"csv","user_id":"00000000-0000-0000-0000-000000000000"}', {422}),
            (b"format=csv", {400}),
            (b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>", {400}),
            (b"\0" * 1_000, {400}),
        ],
        ids=lambda value: repr(value)[:40],
    )
    async def test_says_what_is_wrong(self, siege: Siege, body: bytes, statuses: set[int]) -> None:
        raw = await siege.send(POST, siege.bearer, JSON_TYPE, f"Content-Length: {len(body)}", body=body)
        assert status_of(raw) in statuses
        assert json.loads(raw.partition(b"\r\n\r\n")[2])["detail"]

    async def test_64_megabytes_as_declared_are_not_waited_for(self, siege: Siege) -> None:
        raw = await siege.send(POST, siege.bearer, JSON_TYPE, f"Content-Length: {64 * MEGABYTE}", body=b"{")
        assert status_of(raw) == 413

    async def test_64_megabytes_in_chunks_are_not_kept(self, siege: Siege) -> None:
        reader, writer = await asyncio.open_connection(siege.served.host, siege.served.port)
        head = (POST, "Host: x", siege.bearer, JSON_TYPE, "Transfer-Encoding: chunked")
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n")
        answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        with suppress(ConnectionError):  # it may hang up
            for _ in range(64):
                writer.write(b"100000\r\n" + b" " * MEGABYTE + b"\r\n")
                await writer.drain()
        raw = await answer
        siege.count(raw, head)
        writer.transport.abort()
        assert status_of(raw) == 413

    @pytest.mark.parametrize("door", ["GET /api/export", "GET /livez", "DELETE /api/export/x", "GET /", "PUT /docs"])
    async def test_where_none_is_expected(self, siege: Siege, door: str) -> None:
        body = b"[" * 20_000
        raw = await siege.send(f"{door} HTTP/1.1", siege.bearer, f"Content-Length: {len(body)}", body=body)
        assert status_of(raw) == 413

    @pytest.mark.parametrize(
        "lengths",
        [
            ("Content-Length: -1",),
            ("Content-Length: +5",),
            ("Content-Length: 0x10",),
            ("Content-Length: 1_0",),
            ("Content-Length: 5, 5",),
            ("Content-Length: " + "9" * 400,),
            ("Content-Length: 18446744073709551616",),
            ("Transfer-Encoding: chunked, identity",),
            ("Transfer-Encoding : chunked",),
            ("Transfer-Encoding: chunked", "Content-Length: 4"),
        ],
    )
    async def test_lengths_that_smuggle(self, siege: Siege, lengths: tuple[str, ...]) -> None:
        smuggled = b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        raw = await siege.send(POST, siege.bearer, JSON_TYPE, *lengths, body=smuggled)
        assert status_of(raw) in {400, 413}
        assert b"HTTP/1.1 200" not in raw

    async def test_an_unknown_coding_is_refused(self, siege: Siege) -> None:
        smuggled = b"0\r\n\r\nGET /livez HTTP/1.1\r\n\r\n"
        raw = await siege.send(POST, siege.bearer, "Transfer-Encoding: xchunked", body=smuggled)
        assert status_of(raw) == 400
        assert b"HTTP/1.1 200" not in raw


class TestTexts:
    async def test_in_paths_and_queries(self, siege: Siege) -> None:
        job = siege.link.split("/")[3]
        texts = [quote(name, safe="") for name in NAMES]
        places = [
            "GET /api/export/{}",
            "DELETE /api/export/{}",
            "GET /api/export/{}/download",
            f"GET /api/export/{job}/download?expires={{}}&signature={{}}",
            "GET /api/export?after={}",
            "GET /api/export?limit={}",
            "GET /api/export?{}=1",
            "GET /api/export/stream?format={}",
            "GET /assets/{}",
            "GET /docs/{}",
            "GET /{}",
        ]
        requests = [(f"{place.replace('{}', text)} HTTP/1.1", siege.bearer) for place in places for text in texts]
        assert set(await siege.send_all(requests)) <= {400, 404}

    @pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/api/export"])
    @pytest.mark.parametrize("more", ["%0a", "%0A", "%0d", "%00", "%20", ";x", "%2f", "/", "#", "#x", "/.", "\\"])
    async def test_more_than_a_path_is_another(self, siege: Siege, path: str, more: str) -> None:
        """Else it would pass a proxy that keeps the path itself off."""
        raw = await siege.send(f"GET {path}{more} HTTP/1.1", siege.bearer)
        assert status_of(raw) == (404 if more == "/" and path != "/" else 400)

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/api/export"])
    async def test_a_path_has_one_spelling(self, siege: Siege, path: str) -> None:
        """Each escape, slash and dot segment that RFC 3986 or a careless reader takes for the same path."""
        spellings = [f"{path[:at]}%{ord(path[at]):02x}{path[at + 1 :]}" for at in range(1, len(path))]
        spellings += [f"/{path}", f"/.{path}", f"/x/..{path}", f"/%2e{path}", f"/;{path}", path.replace("/", "\\")]
        for spelling in spellings:
            for target in (spelling, f"http://x{spelling}"):
                assert status_of(await siege.send(f"GET {target} HTTP/1.1", siege.bearer)) == 400, target
        assert status_of(await siege.send(f"GET {path.upper()} HTTP/1.1", siege.bearer)) == 404

    async def test_in_filters(self, siege: Siege) -> None:
        """They are compared, never run, and match no user."""
        for name in NAMES:
            target = f"/api/v1/users/export?email={quote(name, safe='')}"
            raw = await siege.send(f"GET {target} HTTP/1.1", siege.api_key)
            if "\0" in name or " " in name:
                assert status_of(raw) == 400
            else:
                assert status_of(raw) == 200
                assert raw.count(b"@") == 0

    async def test_in_headers(self, siege: Siege) -> None:
        job = siege.link.split("/")[3]
        requests = [
            (f"GET {path} HTTP/1.1", siege.bearer, f"{header}: {value}")
            for path, read in {
                siege.link: ["User-Agent", "X-Forwarded-For", "X-Request-ID", "Accept", "Range", "If-Range"],
                "/nowhere": HEADERS,
                f"/api/export/{job}/events": ["Last-Event-ID", "Accept", "traceparent"],
                "/api/export/stream?format=json": ["Accept-Encoding", "Accept"],
                "/metrics": ["Accept"],
            }.items()
            for header in read
            for value in VALUES
        ]
        # 409 and 429: one stream and five watchers at a time; 400 and 431: what the parser of HTTP refuses.
        assert set(await siege.send_all(requests)) <= {200, 302, 400, 404, 409, 429, 431}

    async def test_no_header_of_ours_is_theirs(self, siege: Siege) -> None:
        for name in (
            NAMES[2],
            NAMES[3],
            "x%0d%0aSet-Cookie: evil=1",
            "x\r\n Set-Cookie: evil=1",
            "x\rSet-Cookie: evil=1",
        ):
            spelt = quote(name, safe="%")
            for line in (
                f"GET /{spelt}",
                f"GET /api/export/{spelt}",
                f"GET /api/export?{spelt}",
                f"GET {siege.link}&x={spelt}",
            ):
                head = (await siege.send(f"{line} HTTP/1.1", siege.bearer)).partition(b"\r\n\r\n")[0]
                assert b"set-cookie" not in head.lower()
        echoed = await siege.send("GET /livez HTTP/1.1", 'X-Request-ID: a"><script>')
        assert b"<script>" not in echoed


def test_a_log_line_stays_one_event() -> None:
    """A client's text can't begin a line, hide one or colour a terminal."""
    lines = run(
        r"""
        from urllib.parse import quote
        from starlette.routing import Route
        from tests.api.serving import create_edge, serve

        RAW = [
            b'\x1b[31m', b'\x85', b'\xe2\x80\xa8', b'a\r\n {"event": "forged"}', b'\x7f', b'"\\', b'", "event": "forged'
        ]

        async def show(request):
            log.warning("seen", given=request.query_params["given"], agent=request.headers.get("user-agent"))
            raise ValueError(request.headers.get("user-agent"))

        async def main():
            async with serve(create_edge([Route("/", show)])) as served:
                for raw in RAW:
                    path = f"GET /?given={quote(raw)}%0a HTTP/1.1"
                    await served.exchange(path, b"X-Request-ID: " + raw, b"User-Agent: " + raw, b"traceparent: " + raw)

        asyncio.run(main())
        """
    )
    events = [line["event"] for line in lines]
    assert "forged" not in events
    assert events.count("request") + events.count("request_refused") == 7
    assert events.count("seen") == events.count("request_failed") == events.count("request") > 3

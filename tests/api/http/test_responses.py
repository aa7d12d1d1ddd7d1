"""A stream is complete or visibly broken. In both cases it is closed and accounted for."""

import asyncio
import logging
import subprocess
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from email.message import EmailMessage

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from service.api.http.responses import ChunkedStream, StreamEnd, attachment_headers
from service.api.http.slow_clients import BUFFERED_BYTES, DEFAULT_PATIENCE, Patience
from service.errors import DocumentError
from tests.api.serving import Served, create_edge, serve, until

CHUNK = b"x" * 65_536
HASTY = Patience(initial_seconds=0.5, max_seconds=0.5)


class Source:
    """Chunks that remember how they were treated."""

    def __init__(self, *chunks: bytes, error: Exception | None = None, endless: bool = False) -> None:
        self._given = chunks
        self._error = error
        self._endless = endless
        self.started = False
        self.size = 0
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.closed = asyncio.Event()
        self.ends: list[StreamEnd] = []

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        self.started = True
        task = asyncio.current_task()
        try:
            for chunk in self._given:
                yield chunk
            while self._endless:
                await asyncio.sleep(0)
                self.size += len(CHUNK)
                yield CHUNK
            if self._error:
                raise self._error
        finally:
            self.closing.set()
            await self.may_close.wait()
            for _ in range(3):  # as a transaction that is rolled back, a connection that is released
                await asyncio.sleep(0.01)
            assert asyncio.current_task() is task
            self.closed.set()

    async def on_end(self, end: StreamEnd) -> None:
        await asyncio.sleep(0)
        assert self.closed.is_set() or not self.started
        self.ends.append(end)


def stream(source: Source, *, patience: Patience = DEFAULT_PATIENCE, is_crowded: bool = False) -> Route:
    async def endpoint(_request: Request) -> Response:
        return ChunkedStream(
            source.chunks(),
            media_type="text/csv",
            headers=attachment_headers("users_export.csv"),
            on_end=source.on_end,
            patience=patience,
            is_crowded=lambda: is_crowded,
        )

    return Route("/", endpoint)


async def connect(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that asked, and reads no more than a small buffer unless told to."""
    reader, writer = await asyncio.open_connection(served.host, served.port, limit=4_096)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return reader, writer


async def test_a_complete_stream() -> None:
    source = Source(b"a,b\r\n", b"", b"1,2\r\n")
    async with serve(create_edge([stream(source)])) as served, served.client() as client:
        response = await client.get("/")
    assert (response.status_code, response.content) == (200, b"a,b\r\n1,2\r\n")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="users_export.csv"'
    assert source.ends == [StreamEnd.COMPLETE]


async def test_a_stream_without_chunks_is_empty() -> None:
    source = Source()
    async with serve(create_edge([stream(source)])) as served, served.client() as client:
        assert (await client.get("/")).content == b""
    assert source.ends == [StreamEnd.COMPLETE]


async def test_a_failure_before_the_first_chunk_is_a_problem() -> None:
    source = Source(error=DocumentError("The count doesn't match"))
    async with serve(create_edge([stream(source)])) as served, served.client() as client:
        response = await client.get("/")
    assert (response.status_code, response.json()["detail"]) == (500, "The count doesn't match")
    assert "content-disposition" not in response.headers
    assert source.ends == [StreamEnd.FAILED]


@pytest.mark.parametrize("error", [ValueError("canary"), DocumentError("canary")])
async def test_a_later_failure_breaks_the_connection(error: Exception) -> None:
    source = Source(b"first,", b"second", error=error)
    received: list[bytes] = []

    async def download(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/") as response:
            async for chunk in response.aiter_raw():
                received.append(chunk)  # noqa: PERF401 (what came before the break counts)

    async with serve(create_edge([stream(source)])) as served, served.client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await download(client)
    assert b"".join(received) == b"first,second"
    assert source.ends == [StreamEnd.FAILED]


async def test_curl_sees_the_break() -> None:
    source = Source(CHUNK, error=ValueError())
    async with serve(create_edge([stream(source)])) as served:
        curl = await asyncio.to_thread(subprocess.run, ["curl", "-s", served.url], capture_output=True, check=False)
    assert (curl.returncode, curl.stdout) == (18, CHUNK)


async def test_a_client_that_leaves_closes_the_chunks() -> None:
    source = Source(endless=True)
    async with serve(create_edge([stream(source)])) as served:
        reader, writer = await connect(served)
        await reader.readexactly(1_000)
        writer.close()
        await source.closed.wait()
    assert source.ends == [StreamEnd.CLIENT_GONE]


async def test_a_client_that_leaves_before_the_first_chunk_closes_the_chunks() -> None:
    source = Source()
    waiting = asyncio.Event()

    async def never() -> AsyncGenerator[bytes, None]:
        source.started = True
        try:
            waiting.set()
            await asyncio.Event().wait()
            yield b""
        finally:
            await asyncio.sleep(0.01)
            source.closed.set()

    async def endpoint(_request: Request) -> Response:
        return ChunkedStream(never(), media_type="text/csv", on_end=source.on_end)

    async with serve(create_edge([Route("/", endpoint)])) as served:
        _, writer = await connect(served)
        await waiting.wait()
        writer.close()
        await source.closed.wait()
    assert source.ends == [StreamEnd.CLIENT_GONE]


@pytest.mark.slow
async def test_a_stalled_client_is_cut() -> None:
    source = Source(endless=True)
    async with serve(create_edge([stream(source, patience=HASTY)])) as served:
        reader, writer = await connect(served)
        await source.closed.wait()
        await until(lambda: not served.server.server_state.connections)  # uvicorn alone waits for the client to read
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
    assert source.ends == [StreamEnd.TOO_SLOW]
    assert source.size < 1024 * 1024  # the kernel alone would take 4 MiB before the service noticed


@pytest.mark.slow
async def test_a_stalled_client_is_not_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(endless=True)
    with capture_logs() as events:
        async with serve(create_edge([stream(source, patience=HASTY)])) as served:
            _, writer = await connect(served)
            await until(lambda: any(event["event"] == "request" for event in events))
            await until(lambda: not served.server.server_state.tasks)
            writer.close()
    assert [(event["log_level"], event["outcome"]) for event in events] == [("info", "aborted")]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.slow
async def test_a_stalled_client_that_pipelines_is_not_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(endless=True)
    async with serve(create_edge([stream(source, patience=HASTY)])) as served:
        _, writer = await connect(served)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await source.closed.wait()
        await until(lambda: not served.server.server_state.tasks)
        writer.close()
    assert source.ends == [StreamEnd.TOO_SLOW]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_client_that_pipelines_and_leaves_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(endless=True)
    async with serve(create_edge([stream(source)])) as served:
        reader, writer = await connect(served)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.read(1)
        writer.transport.abort()
        await source.closed.wait()
        await until(lambda: not served.server.server_state.tasks)
    assert source.ends == [StreamEnd.CLIENT_GONE]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.slow
async def test_a_stalled_client_that_leaves_while_it_is_cut_disturbs_nothing() -> None:
    source = Source(endless=True)
    source.may_close.clear()
    async with serve(create_edge([stream(source, patience=HASTY)])) as served:
        _, writer = await connect(served)
        await source.closing.wait()
        writer.close()
        await until(lambda: not served.server.server_state.connections)
        source.may_close.set()
        await source.closed.wait()
    assert source.ends == [StreamEnd.TOO_SLOW]


async def read_slowly(reader: asyncio.StreamReader) -> bytes:
    """The last that comes of a stream, read at 600 kB/s."""
    last = b""
    while part := await reader.read(30_000):
        last = part
        if last.endswith(b"0\r\n\r\n"):
            break
        await asyncio.sleep(0.05)
    return last


@pytest.mark.slow
async def test_a_slow_but_living_client_is_served() -> None:
    source = Source(*[CHUNK] * 48)
    patience = Patience(initial_seconds=2, max_seconds=2, bytes_per_second=20_000)
    async with serve(create_edge([stream(source, patience=patience)])) as served:
        reader, writer = await connect(served)
        assert (await read_slowly(reader)).endswith(b"0\r\n\r\n")
        writer.close()
    assert source.ends == [StreamEnd.COMPLETE]


@pytest.mark.slow
async def test_a_client_below_the_rate_is_cut() -> None:
    source = Source(endless=True)
    patience = Patience(initial_seconds=2, max_seconds=2, bytes_per_second=10_000_000)
    async with serve(create_edge([stream(source, patience=patience)])) as served:
        reader, writer = await connect(served)
        with pytest.raises(ConnectionResetError):
            await read_slowly(reader)
        writer.close()
    assert source.ends == [StreamEnd.TOO_SLOW]


@pytest.mark.parametrize("is_crowded", [False, True])
@pytest.mark.slow
async def test_a_slow_client_is_cut_while_all_places_are_taken(*, is_crowded: bool) -> None:
    source = Source(*[CHUNK] * 48)
    patience = Patience(initial_seconds=2, max_seconds=2, bytes_per_second=20_000, crowded_bytes_per_second=10_000_000)
    async with serve(create_edge([stream(source, patience=patience, is_crowded=is_crowded)])) as served:
        reader, writer = await connect(served)
        with pytest.raises(ConnectionResetError) if is_crowded else nullcontext():
            await read_slowly(reader)
        writer.close()
    assert source.ends == [StreamEnd.TOO_SLOW if is_crowded else StreamEnd.COMPLETE]


@pytest.mark.slow
async def test_a_client_that_has_read_much_may_pause() -> None:
    source = Source(*[CHUNK] * 48)
    patience = Patience(initial_seconds=2, max_seconds=30, bytes_per_second=20_000)
    async with serve(create_edge([stream(source, patience=patience)])) as served:
        reader, writer = await connect(served)
        await reader.readexactly(3 * BUFFERED_BYTES // 2)
        await asyncio.sleep(3)
        assert (await read_slowly(reader)).endswith(b"0\r\n\r\n")
        writer.close()
    assert source.ends == [StreamEnd.COMPLETE]


@pytest.mark.slow
async def test_bytes_that_only_reached_buffers_earn_no_pause() -> None:
    source = Source(endless=True)
    patience = Patience(initial_seconds=0.5, max_seconds=600, bytes_per_second=1)
    async with serve(create_edge([stream(source, patience=patience)])) as served:
        _, writer = await connect(served)
        await source.closed.wait()
        writer.close()
    assert source.ends == [StreamEnd.TOO_SLOW]


async def test_head_reads_nothing() -> None:
    source = Source(CHUNK)
    async with serve(create_edge([stream(source)])) as served:
        raw = await served.exchange("HEAD / HTTP/1.1")
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert b'content-disposition: attachment; filename="users_export.csv"' in raw
    assert raw.endswith(b"\r\n\r\n")
    assert not source.started
    assert source.ends == []


async def test_clean_up_survives_repeated_cancellation() -> None:
    """An anyio scope, once cancelled, cancels again at every await."""
    source = Source(endless=True)

    def limited(app: ASGIApp) -> ASGIApp:
        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            with anyio.move_on_after(0.2):
                await app(scope, receive, send)

        return run

    async with serve(limited(create_edge([stream(source)]))) as served:
        with pytest.raises(httpx.RemoteProtocolError):
            async with served.client() as client:
                await client.get("/")
    assert source.closed.is_set()
    assert source.ends == [StreamEnd.FAILED]


@pytest.mark.slow
async def test_a_stopping_server_ends_a_stream_as_failed() -> None:
    source = Source(endless=True)
    async with serve(create_edge([stream(source)])) as served:
        reader, writer = await connect(served)
        await reader.readexactly(1_000)
    writer.close()
    assert source.ends == [StreamEnd.FAILED]


@pytest.mark.parametrize(
    ("filename", "disposition"),
    [
        ("users_export.csv", 'attachment; filename="users_export.csv"'),
        ("my export.csv", 'attachment; filename="my export.csv"'),
        ("naïve.csv", "attachment; filename=\"na_ve.csv\"; filename*=UTF-8''na%C3%AFve.csv"),
        ('a";x="b.csv', "attachment; filename=\"a__x__b.csv\"; filename*=UTF-8''a%22%3Bx%3D%22b.csv"),
        ("a\r\nSet-Cookie: b", "attachment; filename=\"a__Set-Cookie_ b\"; filename*=UTF-8''a__Set-Cookie%3A%20b"),
        ("../../etc/passwd", 'attachment; filename=".._.._etc_passwd"'),
        ("100%.csv", "attachment; filename=\"100_.csv\"; filename*=UTF-8''100%25.csv"),
    ],
)
def test_attachment_names(filename: str, disposition: str) -> None:
    assert attachment_headers(filename) == {"Content-Disposition": disposition}


@given(st.text())
def test_no_name_leaves_its_parameter(filename: str) -> None:
    disposition = attachment_headers(filename)["Content-Disposition"]
    message = EmailMessage()
    message["Content-Disposition"] = disposition
    assert disposition.isascii()
    assert disposition.isprintable()
    assert message.get_content_disposition() == "attachment"
    assert disposition.count('"') == 2

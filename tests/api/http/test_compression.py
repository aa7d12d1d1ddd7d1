"""Compressed streams: what a client asks for, still in time, and never whole when broken."""

import asyncio
import gzip
import subprocess
import sys
import zlib
from collections.abc import AsyncGenerator, Callable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.http.compression import negotiate
from service.api.http.responses import StreamEnd, compressible_stream
from tests.api.serving import Served, create_edge, serve

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROWS = b"".join(b"%d,somebody%d@example.com,2026-01-01T00:00:00Z\r\n" % (n, n) for n in range(20_000))
CHUNKS = [ROWS[start : start + 65_536] for start in range(0, len(ROWS), 65_536)]


def request(*accepted: str) -> Request:
    headers = [(b"accept-encoding", value.encode("latin-1")) for value in accepted]
    return Request({"type": "http", "headers": headers})


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", None),
        ("identity", None),
        ("br", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("zstd", "zstd"),
        ("gzip, zstd", "zstd"),
        ("deflate, gzip, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("gzip ; q=0.5 , zstd;q=0.1", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0, *", "zstd"),
        ("zstd;q=0, *;q=0.1", "gzip"),
        ("*", "zstd"),
        ("*;q=0", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity;q=0", None),
        ("gzip;q=x", None),
        ("gzip;q=nan", None),
        ("gzip;q=2", None),
        ("gzip;q=-1", None),
        (",;,=;q", None),
    ],
)
def test_the_preferred_encoding(accepted: str, encoding: str | None) -> None:
    assert negotiate(request(accepted)) == encoding


def test_a_repeated_header_is_one_list() -> None:
    assert negotiate(request("br", "gzip")) == "gzip"
    assert negotiate(request()) is None


@given(st.text(alphabet=st.characters(max_codepoint=255)))
def test_any_header_gets_an_answer(accepted: str) -> None:
    assert negotiate(request(accepted)) in {None, "gzip", "zstd"}


def route(chunks: AsyncGenerator[bytes, None], ends: list[StreamEnd]) -> Route:
    async def on_end(end: StreamEnd) -> None:
        ends.append(end)

    async def endpoint(request: Request) -> Response:
        return compressible_stream(request, chunks, filename="x.csv", media_type="text/csv", on_end=on_end)

    return Route("/", endpoint)


async def give(*chunks: bytes, error: Exception | None = None) -> AsyncGenerator[bytes, None]:
    for chunk in chunks:
        yield chunk
    if error:
        raise error


async def ask(served: Served, encoding: str) -> tuple[httpx.Headers, bytes]:
    headers = {"Accept-Encoding": encoding}
    async with served.client() as client, client.stream("GET", "/", headers=headers) as response:
        return response.headers, b"".join([part async for part in response.aiter_raw()])


@pytest.mark.parametrize(("encoding", "unpack"), [("gzip", gzip.decompress), ("zstd", zstd.decompress)])
@pytest.mark.parametrize("chunks", [CHUNKS, [b"a,b\r\n"], [b"", b"1"], []])
async def test_a_compressed_stream(encoding: str, unpack: Callable[[bytes], bytes], chunks: list[bytes]) -> None:
    ends: list[StreamEnd] = []
    async with serve(create_edge([route(give(*chunks), ends)])) as served:
        headers, packed = await ask(served, encoding)
    assert headers["content-encoding"] == encoding
    assert headers["vary"] == "Accept-Encoding"
    assert headers["content-type"] == "text/csv; charset=utf-8"
    assert unpack(packed) == b"".join(chunks)
    assert ends == [StreamEnd.COMPLETE]
    if chunks is CHUNKS:
        assert len(packed) < len(ROWS) / 5


async def test_without_being_asked_nothing_is_compressed() -> None:
    async with serve(create_edge([route(give(*CHUNKS), [])])) as served:
        headers, plain = await ask(served, "identity")
    assert "content-encoding" not in headers
    assert headers["vary"] == "Accept-Encoding"
    assert plain == ROWS


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_the_first_chunk_leaves_at_once(encoding: str) -> None:
    async def wait_for_ever() -> AsyncGenerator[bytes, None]:
        yield CHUNKS[0]
        await asyncio.Event().wait()

    unpacker = zstd.ZstdDecompressor() if encoding == "zstd" else zlib.decompressobj(31)
    async with (
        serve(create_edge([route(wait_for_ever(), [])])) as served,
        served.client() as client,
        client.stream("GET", "/", headers={"Accept-Encoding": encoding}) as response,
    ):
        received = b""
        parts = response.aiter_raw()
        while len(received) < len(CHUNKS[0]):
            received += unpacker.decompress(await anext(parts))
    assert received == CHUNKS[0]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_failure_before_the_first_chunk_is_not_compressed(encoding: str) -> None:
    async with serve(create_edge([route(give(error=ValueError()), [])])) as served:
        headers, body = await ask(served, encoding)
    assert headers["content-type"] == "application/problem+json"
    assert "content-encoding" not in headers
    assert b'"status":500' in body


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_broken_stream_is_broken_for_the_decompressor_too(encoding: str) -> None:
    ends: list[StreamEnd] = []
    async with serve(create_edge([route(give(*CHUNKS, error=ValueError()), ends)])) as served:
        curl = await asyncio.to_thread(
            subprocess.run,
            ["curl", "-s", "-H", f"Accept-Encoding: {encoding}", served.url],
            capture_output=True,
            check=False,
        )
    assert curl.returncode == 18
    if encoding == "gzip":
        with pytest.raises(EOFError):
            gzip.decompress(curl.stdout)
    else:
        unpacker = zstd.ZstdDecompressor()
        assert ROWS.startswith(unpacker.decompress(curl.stdout))
        assert not unpacker.eof
    assert ends == [StreamEnd.FAILED]

"""No beginning of an answer looks like the whole of it: cut anywhere, every client notices."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import pytest

from service.settings import Settings
from tests.api.conftest import CSV
from tests.api.problems import bearer
from tests.api.serving import Served
from tests.conftest import PUBLIC_URL, Token
from tests.support.factories import Connection, create_user
from tests.support.operators import create_key, create_users

CUTS = 100
CURLS = 5
CURL_SAYS_CUT = {18, 52, 56}  # partial file, nothing at all, reset
KINDS = ["CSV stream", "JSON stream", "NDJSON stream", "gzip stream", "zstd stream", "operators' list", "download"]


class Target(NamedTuple):
    path: str
    headers: list[str]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, download_mode="proxy")


@pytest.fixture
async def targets(api: httpx.AsyncClient, database: Connection, token: Token) -> dict[str, Target]:
    """By kind: the path, and the headers, of an answer of some hundred kilobytes."""
    user_id = await create_user(database, activity=400, content=400, body_bytes=300)
    created = await api.post("/api/export", json=CSV, headers=bearer(token(user_id)))
    link = created.json()["download_url"].removeprefix(PUBLIC_URL)
    await create_users(database, 2_000)
    owner = f"Authorization: Bearer {token(user_id)}"
    stream = "/api/export/stream?format="
    return {
        "CSV stream": Target(f"{stream}csv", [owner]),
        "JSON stream": Target(f"{stream}json", [owner]),
        "NDJSON stream": Target(f"{stream}ndjson", [owner]),
        "gzip stream": Target(f"{stream}csv", [owner, "Accept-Encoding: gzip"]),
        "zstd stream": Target(f"{stream}json", [owner, "Accept-Encoding: zstd"]),
        "operators' list": Target("/api/v1/users/export", [f"X-API-Key: {await create_key(database)}"]),
        "download": Target(link, []),
    }


@asynccontextmanager
async def replaying(content: bytes) -> AsyncIterator[str]:
    """A server that answers every request with these bytes, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(content)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def curl(url: str, output: Path) -> int:
    process = await asyncio.create_subprocess_exec("curl", "--fail", "--silent", "--output", output, url)
    return await process.wait()


@pytest.mark.parametrize("kind", KINDS)
async def test_every_cut_shows(served: Served, targets: dict[str, Target], kind: str, tmp_path: Path) -> None:
    path, headers = targets[kind]
    whole = await served.exchange(f"GET {path} HTTP/1.1", *headers)
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    # The last five bytes close a chunked answer. The other cuts are random.
    cuts = [len(whole) - 1, len(whole) - 5, 1, 0]
    cuts += random.Random(kind).sample(range(2, len(whole) - 5), CUTS - len(cuts))  # noqa: S311 (no secret)
    async with httpx.AsyncClient(trust_env=False) as client:
        async with replaying(whole) as url:
            assert (await client.get(url)).content
            assert await curl(url, tmp_path / "whole") == 0
        for cut in cuts:
            async with replaying(whole[:cut]) as url:
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.get(url)
    # To curl a document is whole as soon as its closing chunk has begun: nothing of it is missing then.
    for cut in cuts[1 : 1 + CURLS]:
        async with replaying(whole[:cut]) as url:
            assert await curl(url, tmp_path / "cut") in CURL_SAYS_CUT

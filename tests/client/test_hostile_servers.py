"""Servers whose answers go on and on: the client stops by itself, soon, and keeps nothing."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from yarl import URL

from client.api import Api, Export, Progress
from client.console import Console
from client.errors import ChecksumError, RefusedError
from client.exports import download_export
from client.http import Problem, decode, open_session
from client.outputs import open_output
from client.retries import Backoff
from tests.api.serving import create_edge, serve

ANNOUNCED = b"0123456789"
CHUNK = b"a" * 2**16
CHUNKS = 1_000
"""Far more than the client takes, and the sockets on the way to it."""


class Flow:
    """The answers of a server; `taken` if a client read all of one."""

    def __init__(self) -> None:
        self.taken = False

    async def file(self, _request: Request) -> Response:
        return StreamingResponse(self._chunks())

    async def error(self, _request: Request) -> Response:
        return StreamingResponse(self._chunks(), 500, media_type="application/problem+json")

    async def answer(self, _request: Request) -> Response:
        return StreamingResponse(self._chunks(), media_type="application/json")

    async def _chunks(self) -> AsyncIterator[bytes]:
        for _ in range(CHUNKS):
            yield CHUNK
            await asyncio.sleep(0)  # a task that never waits can't notice that the client has gone
        self.taken = True


@pytest.fixture
def flow() -> Flow:
    return Flow()


@pytest.fixture
async def api(flow: Flow) -> AsyncIterator[Api]:
    edge = create_edge(
        [
            Route("/file", flow.file),
            Route("/api/export", flow.error, methods=["POST"]),
            Route("/api/export/{job_id}", flow.answer),
        ]
    )
    async with serve(edge) as served, open_session() as session:
        yield Api(session, URL(served.url), {}, backoff=Backoff(tries=1), say=lambda _sentence: None)


@pytest.mark.parametrize("left", [b"", ANNOUNCED[:5], ANNOUNCED * 2])
async def test_a_file_longer_than_announced(api: Api, flow: Flow, tmp_path: Path, left: bytes) -> None:
    export = Export(
        job_id="x",
        status="completed",
        format="csv",
        progress=Progress(1, 1),
        download_url=str(api.url / "file"),
        size_bytes=len(ANNOUNCED),
        sha256=hashlib.sha256(ANNOUNCED).hexdigest(),
    )
    (tmp_path / "data.csv.part").write_bytes(left)
    with (
        open_output(tmp_path / "data.csv", force=False, resume=True) as output,
        pytest.raises(ChecksumError, match="longer than 10 bytes"),
    ):
        await download_export(api, export, output, Console(quiet=True))
    assert list(tmp_path.iterdir()) == []
    assert not flow.taken


async def test_an_error(api: Api, flow: Flow) -> None:
    with pytest.raises(RefusedError, match="not Carryout's"):
        await api.create_export("csv")
    assert not flow.taken


async def test_an_answer(api: Api, flow: Flow) -> None:
    with pytest.raises(RefusedError, match="not Carryout's"):
        await api.show_export("x")
    assert not flow.taken


def test_a_count_that_no_language_writes() -> None:
    with pytest.raises(RefusedError, match="not Carryout's"):
        decode(b'{"records_done":1,"records_total":1' + b"0" * 30 + b"}", Progress)


@pytest.mark.parametrize(
    "body", [b'{"detail":"\xff"}', b'{"detail":"","more":' + b"[" * 20_000 + b"]" * 20_000 + b"}", b"\xff"]
)
def test_json_that_no_text_can_be_made_of(body: bytes) -> None:
    with pytest.raises(RefusedError, match="not Carryout's"):
        decode(body, Problem)

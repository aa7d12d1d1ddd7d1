"""Log lines that stdout doesn't take: a full disk, a log collector that has died or reads no more, a process that was
started without stdout.
"""

import fcntl
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from devstack.ports import keep_port
from service.bookkeeping.exports import ExportStatus
from tests.faults.oracle import assert_healed
from tests.faults.world import World
from tests.support import processes
from tests.support.processes import CARRYOUT
from tests.support.scraping import scrape
from tests.support.waiting import until

LOST = "carryout_log_lines_lost_total"
NO_STDOUT = ["sh", "-c", 'exec "$0" "$@" >&-']


@contextmanager
def open_stdout(kind: str) -> Iterator[IO[Any] | int]:
    if kind == "full disk":
        with Path("/dev/full").open("wb") as full:
            yield full
    elif kind == "dead collector":
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            yield pipe
    elif kind == "stuck collector":
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0) as pipe:
            pipe.write(bytes(fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)))
            yield pipe
    else:
        yield DEVNULL


@asynccontextmanager
async def running(world: World, kind: str, *arguments: str, **environ: str) -> AsyncIterator[Process]:
    program = [*NO_STDOUT, *CARRYOUT] if kind == "none" else CARRYOUT
    with open_stdout(kind) as stdout:
        process = await processes.start(world.environ | environ, *arguments, program=program, stdout=stdout)
        try:
            yield process
        finally:
            await processes.kill(process)


async def is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(params=["full disk", "dead collector", "stuck collector", "none"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_worker_makes_its_exports(world: World, kind: str) -> None:
    port = keep_port(world.folder / "worker.port")
    export = await world.ask(await world.create_user(records=1_500))
    async with (
        running(world, kind, "worker", CARRYOUT_WORKER_METRICS_PORT=str(port)) as worker,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        ended = await world.ended(export)
        assert (ended.status, ended.attempt, ended.failures) == (ExportStatus.COMPLETED, 1, 0)
        assert (await scrape(client)).value(LOST) > 0
        await assert_healed(world)
        worker.send_signal(signal.SIGTERM)
        _, stderr = await worker.communicate()
        assert (worker.returncode, stderr) == (0, b"")


async def test_an_api_answers_and_drains(world: World, kind: str) -> None:
    port = keep_port(world.folder / "api.port")
    async with (
        running(world, kind, "serve", "--port", str(port)) as api,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        await until(lambda: is_ready(client))
        assert (await client.get("/api/export")).status_code == 401
        assert (await scrape(client)).value(LOST) > 0
        api.send_signal(signal.SIGTERM)
        _, stderr = await api.communicate()
        assert (api.returncode, stderr) == (0, b"")


async def test_a_command_says_so(world: World) -> None:
    with open_stdout("full disk") as stdout:
        process = await processes.start(world.environ, "features", "list", stdout=stdout, stderr=PIPE)
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert stderr == b"carryout: The output can't be written: No space left on device\n"


async def test_a_reader_that_has_enough_is_told_nothing(world: World) -> None:
    with open_stdout("dead collector") as stdout:
        process = await processes.start(world.environ, "features", "list", stdout=stdout, stderr=PIPE)
    _, stderr = await process.communicate()
    assert (process.returncode, stderr) == (1, b"")

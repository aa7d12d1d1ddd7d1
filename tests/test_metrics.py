"""The numbers without a database, and those of a real worker process."""

import math
import socket
from pathlib import Path

import asyncpg
import httpx
import msgspec
import pytest

from devstack.stack import Stack
from service.bootstrap import open_resources
from service.metrics import Metrics
from service.settings import Settings
from tests.faults.world import open_world
from tests.scraping import Scrape, scrape
from worker.main import MAX_SILENCE_SECONDS, _Worker
from worker.probes import serve_probes


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def test_without_postgresql_the_rest_is_told(unused_port: int) -> None:
    metrics = Metrics()
    metrics.mails.labels("sent").inc()
    pool = asyncpg.create_pool(f"postgresql://127.0.0.1:{unused_port}/none", min_size=0)
    async with pool:
        content, _ = await metrics.render(pool, "")

    seen = Scrape(content.decode())
    assert math.isnan(seen.value("carryout_queue_exports"))
    assert math.isnan(seen.value("carryout_queue_oldest_age_seconds"))
    assert seen.value("carryout_mails_total", outcome="sent") == 1


async def test_a_worker(stack: Stack, tmp_path: Path, unused_port: int) -> None:
    async with (
        open_world(stack, tmp_path) as world,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_port}", trust_env=False) as client,
    ):
        await world.start_worker(CARRYOUT_WORKER_METRICS_PORT=str(unused_port))
        await world.ended(await world.ask(await world.create_user(records=4)))

        async def mailed_and_swept() -> bool:
            seen = await scrape(client)
            return (
                seen.value("carryout_mails_total", outcome="sent") == 1
                and seen.value("carryout_sweep_last_success_timestamp_seconds") > 0
            )

        await world.until(mailed_and_swept, "the mail and the sweep to be counted")
        seen = await scrape(client)
        alive = await client.get("/livez")

    assert seen.value("carryout_exports_total", outcome="completed", format="csv") == 1
    assert seen.value("carryout_export_duration_seconds_count", format="csv", queued="true") == 1
    assert seen.value("carryout_queue_exports") == 0
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})


async def test_a_taken_port_is_named(stack: Stack, tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        async with open_world(stack, tmp_path) as world:
            worker = await world.start_worker(CARRYOUT_WORKER_METRICS_PORT=str(port))
            assert await worker.ended() == 2
            assert "CARRYOUT_WORKER_METRICS_PORT" in worker.log


async def test_a_silent_loop_is_told(settings: Settings, unused_port: int) -> None:
    async with open_resources(msgspec.structs.replace(settings, worker_metrics_port=unused_port)) as resources:
        worker = _Worker(resources)
        async with (
            serve_probes(resources, worker.is_alive),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_port}", trust_env=False) as client,
        ):
            assert (await client.get("/livez")).status_code == 200
            worker._beaten_at["mails"] -= MAX_SILENCE_SECONDS
            silent = await client.get("/livez")

    assert (silent.status_code, silent.json()) == (503, {"status": "stuck"})

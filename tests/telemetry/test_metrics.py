"""The numbers without a database, and those of a real worker process."""

import math
import socket
import sys
from pathlib import Path

import asyncpg
import httpx
import pytest

from devstack.ports import keep_port
from devstack.stack import Stack
from service.telemetry.metrics import Metrics
from tests.faults.world import Process, World, open_world
from tests.support.processes import start
from tests.support.scraping import Scrape, scrape
from tests.support.smtp import HANG, open_smtp_server


@pytest.fixture
def unused_port(tmp_path: Path) -> int:
    return keep_port(tmp_path / "port")


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


async def test_a_loop_that_fails_again_and_again_is_counted(stack: Stack, tmp_path: Path, unused_port: int) -> None:
    async with (
        open_world(stack, tmp_path, CARRYOUT_WORKER_METRICS_PORT=str(unused_port)) as world,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_port}", trust_env=False) as client,
        world.database() as connection,
    ):
        await connection.execute("ALTER TABLE carryout.export_notifications RENAME next_attempt_at TO gone")
        await world.start_worker()

        async def value(name: str, **labels: str) -> float:
            return (await scrape(client)).value(name, **labels)

        async def failed_twice() -> bool:
            return await value("carryout_worker_loop_failures_total", loop="mails") >= 2

        async def mailed() -> bool:
            return await value("carryout_mails_total", outcome="sent") == 1

        await world.until(failed_twice, "the loop to fail again")
        await connection.execute("ALTER TABLE carryout.export_notifications RENAME gone TO next_attempt_at")
        await world.ask(await world.create_user(records=4))
        await world.until(mailed, "the mail")
        assert await value("carryout_worker_loop_failures_total", loop="repair") == 0


async def test_a_loop_that_hangs_is_told(stack: Stack, tmp_path: Path, unused_port: int) -> None:
    async with open_smtp_server() as mail_server:
        environ = {"CARRYOUT_SMTP_URL": mail_server.url, "CARRYOUT_WORKER_METRICS_PORT": str(unused_port)}
        async with (
            open_world(stack, tmp_path, **environ) as world,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_port}", trust_env=False) as client,
        ):

            async def answers(status: int, text: str) -> bool:
                try:
                    answer = await client.get("/livez")
                except httpx.TransportError:  # not listening yet
                    return False
                return (answer.status_code, answer.json()) == (status, {"status": text})

            await _start_impatient_worker(world)
            await world.until(lambda: answers(200, "alive"), "every loop to come round")
            mail_server.replies["MESSAGE"] = HANG
            await world.ask(await world.create_user(records=4))
            await mail_server.hanging.wait()
            await world.until(lambda: answers(503, "stuck"), "the loop to be missed")
            mail_server.go_on.set()
            await world.until(lambda: answers(200, "alive"), "the loop to be back")


async def _start_impatient_worker(world: World) -> None:
    """One that misses a loop after 3 seconds instead of a minute."""
    code = "import service.cli.main, worker.main; worker.main.MAX_SILENCE_SECONDS = 3.0; service.cli.main.main()"
    log_path = world.folder / "impatient.log"
    with log_path.open("wb") as log:
        child = await start(world.environ, "worker", program=[sys.executable, "-c", code], stdout=log, stderr=log)
    world.processes.append(Process(child, log_path))

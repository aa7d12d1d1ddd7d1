"""`carryout purge` of an old trail beside small exports: their p99 while it runs, against that before.

`python -m bench.purge` measures this alone.
"""

import asyncio
import statistics
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import asyncpg

from bench.data import FULL, SMALL_RECORDS, SMALL_USERS, small_user
from bench.report import Report, Table, render
from bench.small_exports import post_small
from bench.world import World, open_world
from devstack.dev import CARRYOUT
from service.errors import ConfigurationError

FILL_ROWS = 50_000
# A steady load that leaves the machine some room: at saturation, any further work costs as much as it takes.
CLIENTS = 8
PAUSE_SECONDS = 0.4
P99_BY_BEFORE = 2.0
FILL = """
INSERT INTO carryout.export_audit
  (occurred_at, actor_type, actor, action, user_id, job_id, format, records, outcome, ip, user_agent, request_id)
SELECT now() - interval '400 days' + n * interval '1 second', 'user', gen_random_uuid(), 'export:started',
       gen_random_uuid(), gen_random_uuid(), 'csv', n % 1000, 'of an old trail', '203.0.113.7',
       'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0', gen_random_uuid()
FROM generate_series($1::int, $2::int) AS n
"""


class Latencies(NamedTuple):
    """Seconds of each small export, and how long the measurement took."""

    seconds: list[float]
    lasted_seconds: float

    def percentile(self, number: int) -> float:
        return statistics.quantiles(self.seconds, n=100)[number - 1]


async def measure_purge(world: World, report: Report) -> None:
    rows = world.size.trail_rows
    await _fill(world, rows)
    before = await _measure(world, _pausing(world.size.load_seconds), "before the purge")
    during = await _measure(world, lambda: _purge(world), "beside the purge")
    after = await _measure(world, _pausing(world.size.load_seconds), "after the purge")
    work = f"p99 of small exports beside a purge of {rows:,} rows of the trail, by that before"
    report.limit(work, during.percentile(99) / before.percentile(99), P99_BY_BEFORE)
    report.tables.append(
        Table(
            f"Purge of {rows:,} rows of the trail",
            f"`carryout purge`, beside {CLIENTS} clients that each make an export of {SMALL_RECORDS} records every"
            f" {PAUSE_SECONDS} s. It deletes 1,000 rows at a time, with pauses.",
            ("when", "lasted", "exports", "p50", "p99"),
            [
                _cells(name, each)
                for name, each in {"before": before, "beside the purge": during, "after": after}.items()
            ],
        )
    )


async def _fill(world: World, rows: int) -> None:
    connection = await asyncpg.connect(world.stack.admin_url)
    try:
        for first in range(1, rows + 1, FILL_ROWS):
            world.meter.say(f"old trail: {first - 1:,} of {rows:,} rows")
            await connection.execute(FILL, first, min(first + FILL_ROWS - 1, rows))
        await connection.execute("VACUUM ANALYZE carryout.export_audit")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _measure(world: World, wait: Callable[[], Awaitable[None]], title: str) -> Latencies:
    """Make small exports until `wait` returns."""
    world.meter.say(f"small exports {title}")
    seconds: list[float] = []
    over = asyncio.Event()

    async def client(number: int) -> None:
        await asyncio.sleep(number * PAUSE_SECONDS / CLIENTS)
        users = [world.user(small_user(user)) for user in range(number, SMALL_USERS, CLIENTS)]
        for turn in range(10**9):
            if over.is_set():
                return
            started = time.perf_counter()
            await post_small(world, number, users[turn % len(users)])
            took = time.perf_counter() - started
            seconds.append(took)
            await asyncio.sleep(max(0.0, PAUSE_SECONDS - took))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(client(number))
        await wait()
        over.set()
    return Latencies(seconds, time.perf_counter() - started)


def _pausing(seconds: float) -> Callable[[], Awaitable[None]]:
    return lambda: asyncio.sleep(seconds)


async def _purge(world: World) -> None:
    given = ["--older-than", "60d", "--env-file", world.stack.data_dir / "env"]
    process = await asyncio.create_subprocess_exec(*CARRYOUT, "purge", *given, stdin=DEVNULL, stdout=PIPE)
    output, _ = await process.communicate()
    said = output.decode().strip()
    if process.returncode or f"{world.size.trail_rows} events" not in said:
        raise SystemExit(f"carryout purge ended with status {process.returncode}: {said}")


def _cells(name: str, each: Latencies) -> tuple[str, ...]:
    p50, p99 = (f"{1_000 * each.percentile(number):.0f} ms" for number in (50, 99))
    return name, f"{each.lasted_seconds:.0f} s", f"{len(each.seconds):,}", p50, p99


async def _measure_alone() -> Report:
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder), SIZE) as world:
            await measure_purge(world, report)
    return report


SIZE = FULL._replace(users=1_000, histories=(1_000,), drained_users=1)

if __name__ == "__main__":
    try:
        print("\n" + render(asyncio.run(_measure_alone()), SIZE, charts=False))
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None

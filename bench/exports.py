"""Stored exports of 100,000 records, which a worker makes."""

import asyncio
from functools import partial
from uuid import UUID

import asyncpg

from bench.clients import curl
from bench.data import history_user
from bench.measure import Contender, Measured, Spread, Transfer, ratio, resident_mib, watch_memory
from bench.report import Report, Table
from bench.streams import FORMATS, RECORDS
from bench.world import World, stream_url
from devstack.sample import USER_100000
from service.formats import Format

CLIENTS = 16
POLL_SECONDS = 0.02
TIMEOUT_SECONDS = 300
ALLOWANCE_SECONDS = 0.5
PICK_UP_SECONDS = 0.3
WORKER_MIB = 48
PACKAGE = f"queued {Format.ZIP}"
PACKAGE_BY_CSV = 2.5


async def measure_queued(world: World, report: Report) -> None:
    idle = resident_mib(world.worker_pid)
    picked_up: list[float] = []
    contenders = [
        contender
        for format_ in FORMATS
        for contender in (
            Contender(
                f"stream {format_}",
                world.api.pid,
                partial(curl, stream_url(world.api, format_), world.user(USER_100000)),
            ),
            Contender(
                f"queued {format_}", world.worker_pid, partial(queue_export, world, USER_100000, format_, picked_up)
            ),
        )
    ]
    contenders.append(
        Contender(PACKAGE, world.worker_pid, partial(queue_export, world, USER_100000, Format.ZIP, picked_up))
    )
    measured = await world.meter.interleave(f"queued exports of {RECORDS:,} records", contenders, world.size.rounds)
    for format_ in FORMATS:
        seconds = measured[f"queued {format_}"].seconds.median
        goal = 1.5 * measured[f"stream {format_}"].seconds.median + ALLOWANCE_SECONDS
        work = f"queued export of {RECORDS:,} records as {format_}, POST to completed (1.5 x its live stream + 0.5 s)"
        report.limit(work, seconds, round(goal, 2), "s")
    work = f"queued package of {RECORDS:,} records, by a queued csv"
    report.limit(work, ratio(measured, PACKAGE, f"queued {Format.CSV}"), PACKAGE_BY_CSV)
    report.limit("picked up by the worker after the POST", Spread.of(picked_up).median, PICK_UP_SECONDS, "s")
    report.tables.append(_queued_table(measured))
    grown = await _worker_growth(world, idle)
    work = f"worker's memory above a fresh one's, queued exports of up to {world.size.histories[-1]:,} records"
    report.limit(work, grown, WORKER_MIB, "MiB", digits=1)


def _queued_table(measured: dict[str, Measured]) -> Table:
    rows = [
        (name, each.seconds.text("s", digits=3), f"{each.cpu_seconds:.2f} s", f"{each.postgres_seconds:.2f} s")
        for name, each in measured.items()
    ]
    note = "Queued: from the insert of the row to `completed`, by the database's clock; CPU is the worker's."
    return Table(f"Queued exports, {RECORDS:,} records", note, ("what", "time", "CPU", "PostgreSQL's CPU"), rows)


async def _worker_growth(world: World, idle_mib: float) -> float:
    async with watch_memory(world.worker_pid) as samples:
        for format_ in FORMATS:
            world.meter.say(f"queued export of {world.size.histories[-1]:,} records as {format_}")
            await queue_export(world, history_user(world.size.histories[-1]), format_, [])
    return max(mib for _, mib in samples) - idle_mib


async def queue_export(world: World, user_id: UUID, format_: str, picked_up: list[float]) -> Transfer:
    url = f"{world.api.url}/api/export"
    headers = world.user(user_id)
    async with world.session.post(url, headers=headers, json={"format": format_}) as response:
        job_id = (await response.json())["job_id"]
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while (view := await _view(world, f"{url}/{job_id}", headers))["status"] not in {"completed", "failed"}:
            await asyncio.sleep(POLL_SECONDS)
    if view["status"] == "failed":
        raise SystemExit(f"The export failed: {view['error_message']}")
    connection = await asyncpg.connect(world.stack.admin_url)
    times = await connection.fetchrow(
        """SELECT extract(epoch FROM started_at - created_at)::float,
                  extract(epoch FROM completed_at - created_at)::float
        FROM carryout.export_jobs WHERE id = $1""",
        UUID(job_id),
    )
    await connection.close()
    assert times is not None
    picked_up.append(times[0])
    return Transfer(times[1])


async def _view(world: World, url: str, headers: dict[str, str]) -> dict[str, str]:
    async with world.session.get(url, headers=headers) as response:
        view: dict[str, str] = await response.json()
        return view

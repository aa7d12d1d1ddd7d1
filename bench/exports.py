"""Stored exports: queued ones, made by the worker, and small ones, made by the API."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID, uuid4

import asyncpg

from bench.clients import curl
from bench.data import SMALL_RECORDS, SMALL_USERS, history_user, small_user
from bench.measure import Contender, Measured, Spread, Transfer, ratio, resident_mib, watch_memory
from bench.report import Report, Table
from bench.streams import FORMATS, RECORDS, load_documents
from bench.world import World, stream_url
from devstack.sample import USER_100000
from service.backends.database import Pool
from service.backends.storage import ObjectStorage, open_storage
from service.documents.encoders import create_encoder
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
            Contender(f"queued {format_}", world.worker_pid, partial(_queue, world, USER_100000, format_, picked_up)),
        )
    ]
    contenders.append(Contender(PACKAGE, world.worker_pid, partial(_queue, world, USER_100000, Format.ZIP, picked_up)))
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
            await _queue(world, history_user(world.size.histories[-1]), format_, [])
    return max(mib for _, mib in samples) - idle_mib


async def _queue(world: World, user_id: UUID, format_: str, picked_up: list[float]) -> Transfer:
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


async def measure_small(world: World, report: Report) -> None:
    async with _open_bare_loop(world) as bare:
        users = [(number, world.user(small_user(number))) for number in range(SMALL_USERS)]
        contenders = [
            Contender("POST to 201", world.api.pid, partial(_hammer, world, partial(_post, world), users)),
            Contender("its I/O alone", None, partial(_hammer, world, bare, users)),
        ]
        measured = await world.meter.interleave(f"small exports, {CLIENTS} clients", contenders, world.size.rounds)
    rates = {name: Spread.of([1 / cost.transfer.seconds for cost in each.costs]) for name, each in measured.items()}
    work = f"small exports ({SMALL_RECORDS} records, stored) at {CLIENTS} clients, by a bare loop of their I/O"
    report.reach(work, rates["POST to 201"].median / rates["its I/O alone"].median, 0.5)
    report.tables.append(
        Table(
            f"Small exports, {SMALL_RECORDS} records, {CLIENTS} clients",
            "The bare loop runs in the client: one snapshot read, two commits, one S3 PUT; no HTTP, token or audit.",
            ("what", "a second"),
            [(name, rate.text("", digits=0)) for name, rate in rates.items()],
        )
    )


Export = Callable[[int, dict[str, str]], Awaitable[None]]


async def _hammer(world: World, export: Export, users: list[tuple[int, dict[str, str]]]) -> Transfer:
    """CLIENTS loops, each with its own users, because a user may make one export at a time. `seconds` is per export."""
    started = time.perf_counter()
    done = 0

    async def loop(own: list[tuple[int, dict[str, str]]]) -> None:
        nonlocal done
        for number, headers in itertools.cycle(own):
            if time.perf_counter() - started > world.size.small_seconds:
                return
            await export(number, headers)
            done += 1

    await asyncio.gather(*(loop(users[client::CLIENTS]) for client in range(CLIENTS)))
    return Transfer((time.perf_counter() - started) / done)


async def post_small(world: World, headers: dict[str, str]) -> None:
    """Make a small export. Raises SystemExit unless it is complete."""
    url = f"{world.api.url}/api/export"
    async with world.session.post(url, headers=headers, json={"format": "csv"}) as response:
        if response.status != 201:
            raise SystemExit(f"A small export was answered with {response.status}: {await response.text()}")
        await response.read()


async def _post(world: World, _number: int, headers: dict[str, str]) -> None:
    await post_small(world, headers)


@asynccontextmanager
async def _open_bare_loop(world: World) -> AsyncIterator[Export]:
    url = world.stack.admin_url
    datasets = await load_documents(world)
    async with asyncpg.create_pool(url, min_size=CLIENTS, max_size=CLIENTS) as pool, open_storage(world.settings) as s3:
        await pool.execute("CREATE TABLE IF NOT EXISTS public.bare_jobs (id uuid PRIMARY KEY, done bool)")
        queries = [create_encoder(Format.CSV).row_text(dataset) for dataset in datasets]
        yield partial(_bare_export, pool, s3, queries)


async def _bare_export(
    pool: Pool, storage: ObjectStorage, queries: list[str], number: int, _headers: dict[str, str]
) -> None:
    job_id = uuid4()
    async with pool.acquire() as connection:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            lines = [row[0] for query in queries for row in await connection.fetch(query, small_user(number))]
        await connection.execute("INSERT INTO public.bare_jobs VALUES ($1, false)", job_id)
    await storage.upload(f"bare/{job_id}.csv", _chunks("\r\n".join(lines).encode()), content_type="text/csv")
    await pool.execute("UPDATE public.bare_jobs SET done = true WHERE id = $1", job_id)


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content

"""Small exports, made by the API, and many queued ones, made by one worker."""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from uuid import UUID, uuid4

import aiohttp
import aiosmtplib
import asyncpg

from bench.data import DRAINED_RECORDS, SMALL_RECORDS, SMALL_USERS, drained_user, small_user
from bench.measure import Contender, Measured, Spread, Transfer
from bench.peers import SMALL_EXPORTS
from bench.report import Report, Table
from bench.streams import load_documents
from bench.world import Server, World, open_peer
from service.backends.database import Pool
from service.backends.smtp import MailServer, parse_smtp_url
from service.backends.storage import ObjectStorage, open_storage
from service.documents.encoders import create_encoder
from service.formats import Format

CLIENTS = 16
TAIL_BY_MEDIAN = 3
BY_BARE_LOOP = 0.8
BY_USUAL_WAY = 4.5
DRAIN_BY_BARE_LOOP = 0.6
JOBS = 4  # a worker's at once
POLL_SECONDS = 0.2
DRAIN_SECONDS = 900
MAIL = (
    b"Subject: Your data export is ready\r\n\r\n" + 80 * b"A line of text, as long as lines of mails are on average\r\n"
)
SMALL = "Carryout, POST to 201"
BARE = "its I/O alone"

Export = Callable[[int, dict[str, str]], Awaitable[None]]


async def measure_small(world: World, report: Report) -> None:
    async with _open_bare_loop(world, small_user) as bare, open_peer(world, SMALL_EXPORTS) as peer:
        users = _users(world, SMALL_USERS, small_user)
        contenders = [
            Contender(SMALL, world.api.pid, partial(make_small, world)),
            Contender(BARE, None, partial(_hammer, world, bare, users)),
            Contender(
                SMALL_EXPORTS.name, peer.pid, partial(_hammer, world, partial(_post_to_peer, world, peer), users)
            ),
        ]
        measured = await world.meter.interleave(f"small exports, {CLIENTS} clients", contenders, world.size.rounds)
    rates = {name: Spread.of([1 / cost.transfer.seconds for cost in each.costs]) for name, each in measured.items()}
    work = f"small exports ({SMALL_RECORDS} records, stored) at {CLIENTS} clients, by a bare loop of their I/O"
    report.reach(work, rates[SMALL].median / rates[BARE].median, BY_BARE_LOOP)
    report.reach(
        f"the same, by {SMALL_EXPORTS.name}", rates[SMALL].median / rates[SMALL_EXPORTS.name].median, BY_USUAL_WAY
    )
    report.export_rates |= {name: rate.median for name, rate in rates.items()}
    report.tables.append(
        Table(
            f"Small exports, {SMALL_RECORDS} records, {CLIENTS} clients",
            "The bare loop runs in the client: one snapshot read, two commits, one S3 PUT; no HTTP, token or audit.",
            ("what", "a second", "CPU of each", "PostgreSQL's"),
            [(name, rate.text("", digits=0), *_cpu_milliseconds(measured[name])) for name, rate in rates.items()],
        )
    )
    await _measure_tail(world, report)


async def _measure_tail(world: World, report: Report) -> None:
    """The slowest of a hundred at half the clients."""
    seconds: list[float] = []

    async def timed(number: int, headers: dict[str, str]) -> None:
        started = time.perf_counter()
        await post_small(world, number, headers)
        seconds.append(time.perf_counter() - started)

    for turn in range(world.size.rounds):
        world.meter.say(f"small exports, {CLIENTS // 2} clients: round {turn + 1} of {world.size.rounds}")
        await _hammer(world, timed, _users(world, SMALL_USERS, small_user), clients=CLIENTS // 2)
    slowest = statistics.quantiles(seconds, n=100)[98]
    work = f"small exports at {CLIENTS // 2} clients: the slowest of a hundred, by the median"
    report.limit(work, slowest / statistics.median(seconds), TAIL_BY_MEDIAN)


def _cpu_milliseconds(measured: Measured) -> tuple[str, str]:
    """The contender's and PostgreSQL's for one export; a client's isn't measured."""
    exports = statistics.fmean(cost.transfer.count for cost in measured.costs)
    own, postgres = measured.cpu_seconds / exports, measured.postgres_seconds / exports
    return f"{own * 1_000:.1f} ms" if own else "-", f"{postgres * 1_000:.1f} ms"


async def make_small(world: World) -> Transfer:
    """A round of small exports by CLIENTS clients at once."""
    return await _hammer(world, partial(post_small, world), _users(world, SMALL_USERS, small_user))


def _users(world: World, count: int, user: Callable[[int], UUID]) -> list[tuple[int, dict[str, str]]]:
    return [(number, world.user(user(number))) for number in range(count)]


async def _hammer(
    world: World, export: Export, users: Sequence[tuple[int, dict[str, str]]], clients: int = CLIENTS
) -> Transfer:
    """Loops, each with its own users, because a user may make one export at a time. `seconds` is per export."""
    started = time.perf_counter()
    done = 0

    async def loop(own: Sequence[tuple[int, dict[str, str]]]) -> None:
        nonlocal done
        for number, headers in itertools.cycle(own):
            if time.perf_counter() - started > world.size.small_seconds:
                return
            await export(number, headers)
            done += 1

    await asyncio.gather(*(loop(users[client::clients]) for client in range(clients)))
    return Transfer((time.perf_counter() - started) / done, count=done)


async def post_small(world: World, _number: int, headers: dict[str, str], status: int = 201) -> None:
    """Raises SystemExit if the export isn't answered with this status."""
    request = world.session.post(f"{world.api.url}/api/export", headers=headers, json={"format": "csv"})
    await _require_status(request, status)


async def _post_to_peer(world: World, peer: Server, number: int, _headers: dict[str, str]) -> None:
    await _require_status(world.session.post(f"{peer.url}exports/{small_user(number)}"), 201)


async def _require_status(request: AbstractAsyncContextManager[aiohttp.ClientResponse], status: int) -> None:
    async with request as response:
        if response.status != status:
            raise SystemExit(f"A small export was answered with {response.status}: {await response.text()}")
        await response.read()


async def measure_drain(world: World, report: Report) -> None:
    """Many users' queued exports at once, made by one worker."""
    users = _users(world, world.size.drained_users, drained_user)
    world.meter.say(f"queued exports of {len(users):,} users at once")
    made = await _drain(world, users)
    world.meter.say("the same, their I/O alone")
    async with _open_bare_loop(world, drained_user) as bare:
        send = partial(_send_bare_mail, parse_smtp_url(world.settings.smtp_url))
        started = time.perf_counter()
        await asyncio.gather(*(_make_all(bare, send, users[job::JOBS]) for job in range(JOBS)))
        alone = len(users) / (time.perf_counter() - started)
    work = f"queued exports ({DRAINED_RECORDS:,} records), {len(users):,} users at once, by a bare loop of their I/O"
    report.reach(work, made / alone, DRAIN_BY_BARE_LOOP)
    report.tables.append(
        Table(
            f"Queued exports, {DRAINED_RECORDS:,} records, {len(users):,} users at once",
            "Drained by one worker after the last was accepted, with their mails. The bare loop makes as many at a"
            " time, and sends a mail for each.",
            ("what", "a second"),
            [("one worker", f"{made:.0f}"), (BARE, f"{alone:.0f}")],
        )
    )


async def _drain(world: World, users: Sequence[tuple[int, dict[str, str]]]) -> float:
    """The exports a second that one worker makes after the last was accepted."""
    waiting = iter(users)

    async def accept() -> None:
        for number, headers in waiting:
            await post_small(world, number, headers, status=202)

    await asyncio.gather(*(accept() for _ in range(CLIENTS)))
    connection = await asyncpg.connect(world.stack.admin_url)
    try:
        accepted = await connection.fetchval("SELECT clock_timestamp()")
        ids = [drained_user(number) for number, _ in users]
        async with asyncio.timeout(DRAIN_SECONDS):
            while await connection.fetchval(_UNFINISHED, ids):
                await asyncio.sleep(POLL_SECONDS)
        rate: float = await connection.fetchval(_DRAINED, ids, accepted)
    finally:
        await connection.close()
    return rate


_UNFINISHED = """SELECT count(*) FROM carryout.export_jobs
WHERE user_id = ANY ($1::uuid[]) AND status IN ('pending', 'processing')"""
_DRAINED = """SELECT count(*) / extract(epoch FROM max(completed_at) - $2)::float FROM carryout.export_jobs
WHERE user_id = ANY ($1::uuid[]) AND completed_at > $2"""


async def _make_all(
    export: Export, send: Callable[[], Awaitable[None]], users: Sequence[tuple[int, dict[str, str]]]
) -> None:
    for number, headers in users:
        await export(number, headers)
        await send()


async def _send_bare_mail(server: MailServer) -> None:
    await aiosmtplib.send(
        MAIL,
        sender="exports@example.com",
        recipients=["user@example.com"],
        hostname=server.host,
        port=server.port,
        start_tls=False,
    )


@asynccontextmanager
async def _open_bare_loop(world: World, user: Callable[[int], UUID]) -> AsyncIterator[Export]:
    url = world.stack.admin_url
    datasets = await load_documents(world)
    async with asyncpg.create_pool(url, min_size=CLIENTS, max_size=CLIENTS) as pool, open_storage(world.settings) as s3:
        await pool.execute("CREATE TABLE IF NOT EXISTS public.bare_jobs (id uuid PRIMARY KEY, done bool)")
        queries = [create_encoder(Format.CSV).row_text(dataset) for dataset in datasets]
        yield partial(_bare_export, pool, s3, queries, user)


async def _bare_export(
    pool: Pool,
    storage: ObjectStorage,
    queries: list[str],
    user: Callable[[int], UUID],
    number: int,
    _headers: dict[str, str],
) -> None:
    job_id = uuid4()
    async with pool.acquire() as connection:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            lines = [row[0] for query in queries for row in await connection.fetch(query, user(number))]
        await connection.execute("INSERT INTO public.bare_jobs VALUES ($1, false)", job_id)
    await storage.upload(f"bare/{job_id}.csv", _chunks("\r\n".join(lines).encode()), content_type="text/csv")
    await pool.execute("UPDATE public.bare_jobs SET done = true WHERE id = $1", job_id)


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content

"""The operators' full list: one at a time against the peers, and several concurrently."""

import asyncio
import time
from functools import partial
from pathlib import Path

import asyncpg

from bench.clients import copy_commands, curl, psql
from bench.measure import Contender, Measured, Transfer, ratio
from bench.peers import COPY_BUFFERED, ORM, PEERS
from bench.report import Report, Table
from bench.world import World, list_url, open_peers
from service.documents.datasets import load_user_lists
from service.documents.encoders import create_encoder
from service.formats import Format

COPY_FULL = (
    "COPY (SELECT internal_id AS id, email, name, created_at, updated_at, is_active, is_admin"
    " FROM public.users ORDER BY internal_id) TO STDOUT (FORMAT csv, HEADER)"
)
CARRYOUT = "Carryout"
PSQL = "psql COPY"
PSQL_RENDERED = "psql COPY of the same rows"
BUFFERED_RENDERED = f"{COPY_BUFFERED}, of the same rows"
AT_ONCE = 8
TOGETHER_SECONDS = 0.28
NOTE = (
    '"The same rows" are the lines as PostgreSQL renders them for Carryout, with guards and RFC 3339; the other peers\''
    " cells are bare. The peers are in `bench/peers/`. A peer that streams sends its headers, and so its first byte,"
    " before it queries the database; Carryout sends them with the first rows."
)


async def measure_lists(world: World, report: Report) -> float:
    """Returns the service's CPU seconds for 100,000 rows."""
    rows = world.size.users
    rendered = await _render_list(world)
    async with open_peers(world, {"RENDERED_ROWS": rendered}) as peers:
        buffered = next(peer for peer in peers if peer.name == COPY_BUFFERED)
        contenders = [
            Contender(CARRYOUT, world.api.pid, partial(curl, list_url(world.api), world.operator())),
            Contender(PSQL, None, partial(psql, world.stack.admin_url, [COPY_FULL])),
            Contender(PSQL_RENDERED, None, partial(psql, world.stack.admin_url, copy_commands([rendered]))),
            Contender(BUFFERED_RENDERED, buffered.pid, partial(curl, f"{buffered.url}rendered")),
            *(Contender(peer.name, peer.pid, partial(curl, peer.url)) for peer in peers),
        ]
        measured = await world.meter.interleave(f"full list of {rows:,} users", contenders, world.size.rounds)
    work = f"full list of {rows:,} users"
    report.limit(f"{work}, by {BUFFERED_RENDERED}", ratio(measured, CARRYOUT, BUFFERED_RENDERED), 0.9)
    report.limit(f"{work}, by {COPY_BUFFERED}", ratio(measured, CARRYOUT, COPY_BUFFERED), 1.0)
    report.limit(f"{work}, by {PSQL_RENDERED}", ratio(measured, CARRYOUT, PSQL_RENDERED), 1.15)
    report.limit(f"{work}, by {PSQL}", ratio(measured, CARRYOUT, PSQL), 1.6)
    ours = measured[CARRYOUT]
    together = (ours.cpu_seconds + ours.postgres_seconds) * 100_000 / rows
    report.limit("the same: CPU of the service and PostgreSQL, for 100,000 rows", together, TOGETHER_SECONDS, "s")
    report.reach(f"{ORM}, by {work}", ratio(measured, ORM, CARRYOUT), 8)
    report.list_rates |= {name: rows / each.seconds.median / 1_000 for name, each in measured.items()}
    report.tables.append(
        Table(
            f"Operators' full list, {rows:,} users",
            f"{NOTE} The peers follow {', '.join(peer.source for peer in PEERS if peer.source)}.",
            ("contender", "time", "by Carryout", "rows/s", "first byte", "CPU", "PostgreSQL's CPU", "memory"),
            [cells(name, each, ours, rows) for name, each in measured.items()],
        )
    )
    return ours.cpu_seconds * 100_000 / rows


async def _render_list(world: World) -> str:
    """The query whose rows are the list's lines, for all users."""
    settings = world.settings
    connection = await asyncpg.connect(world.stack.admin_url)
    try:
        lists = await load_user_lists(
            connection, Path(settings.datasets_dir), forbidden=settings.forbidden_to_operators
        )
    finally:
        await connection.close()
    query = create_encoder(Format.CSV).row_text(lists["export_full"])
    return query.replace("$1", "NULL").replace("$2", "NULL")


def cells(name: str, each: Measured, base: Measured, rows: int) -> list[str]:
    """One contender's table row; psql has no server process to measure and no first byte."""
    watched = each.cpu_seconds > 0
    return [
        name,
        each.seconds.text("s", digits=3),
        f"{each.seconds.median / base.seconds.median:.2f} x",
        f"{rows / each.seconds.median:,.0f}",
        each.first_seconds.text("ms", scale=1_000, digits=1) if watched else "-",
        f"{each.cpu_seconds:.2f} s" if watched else "-",
        f"{each.postgres_seconds:.2f} s",
        f"{each.grown_mib:.1f} MiB" if watched else "-",
    ]


async def measure_parallel(world: World, report: Report) -> None:
    contenders = [
        Contender("one", world.api.pid, partial(_at_once, world, 1)),
        Contender("all", world.api.pid, partial(_at_once, world, AT_ONCE)),
    ]
    measured = await world.meter.interleave(f"{AT_ONCE} lists at once", contenders, world.size.rounds)
    aggregate = AT_ONCE * measured["one"].seconds.median / measured["all"].seconds.median
    report.reach(f"{AT_ONCE} streams at once: rows/s of all together, by those of one", aggregate, 0.9)


async def _at_once(world: World, number: int) -> Transfer:
    started = time.perf_counter()
    await asyncio.gather(*(curl(list_url(world.api), world.operator()) for _ in range(number)))
    return Transfer(time.perf_counter() - started)

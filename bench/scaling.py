"""Time and memory against the size of the data: rows, columns, and the width of a cell."""

import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import asyncpg
import numpy as np

from bench.clients import curl
from bench.data import history_user
from bench.measure import Contender, Measured
from bench.report import Goal, Report, Table
from bench.world import Server, World, open_api, stream_url
from devstack.sample import READER

COLUMNS_ROWS = 10_000
WIDTHS_ROWS = 1_000
COLUMNS_USER = UUID(int=0xC0 << 120)
# The permitted deviation of a median from the line through all medians, as a share of it.
STEP = 0.25
MEMORY_MIB = 16

CREATE_WIDE = """
    CREATE TABLE public.wide (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id uuid NOT NULL, {columns}
    );
    GRANT SELECT ON public.wide TO {reader}
"""


class Line(NamedTuple):
    """seconds = `start` + `slope` * size; `deviation` is the largest relative distance of a median."""

    start: float
    slope: float
    deviation: float


async def measure_scaling(world: World, report: Report) -> None:
    await _create_wide(world)
    async with open_api(world, "scaling-rows", {}) as api:
        users = {records: history_user(records) for records in world.size.histories}
        await _measure(world, report, "rows", {n: _streaming(world, api, user, n) for n, user in users.items()})
    with tempfile.TemporaryDirectory() as folder:
        await _measure_columns(world, report, Path(folder))
        async with open_api(world, "scaling-width", _datasets(Path(folder) / "width", ["c0"])) as api:
            users = {width: _width_user(width) for width in world.size.widths}
            title = f"characters in each of {WIDTHS_ROWS:,} cells"
            await _measure(world, report, title, {n: _streaming(world, api, user, n) for n, user in users.items()})


async def _measure_columns(world: World, report: Report, folder: Path) -> None:
    async with AsyncExitStack() as exits:
        contenders = {}
        for columns in world.size.columns:
            environ = _datasets(folder / str(columns), [f"c{number}" for number in range(columns)])
            api = await exits.enter_async_context(open_api(world, f"scaling-{columns}", environ))
            contenders[columns] = _streaming(world, api, COLUMNS_USER, columns)
        await _measure(world, report, f"columns of {COLUMNS_ROWS:,} rows", contenders)


def _streaming(world: World, api: Server, user_id: UUID, size: int) -> Contender:
    return Contender(f"{size:,}", api.pid, partial(curl, stream_url(api, "csv"), world.user(user_id)))


async def _measure(world: World, report: Report, title: str, contenders: Mapping[int, Contender]) -> None:
    by_name = await world.meter.interleave(f"scaling with {title}", list(contenders.values()), world.size.rounds)
    measured = {size: by_name[contender.name] for size, contender in contenders.items()}
    line = fit_line({size: each.seconds.median for size, each in measured.items()})
    sizes = list(measured)
    report.goals.append(
        Goal(
            f"time is linear in {title}, {sizes[0]:,} to {sizes[-1]:,}: farthest from the line",
            f"{line.deviation:.0%}",
            f"≤ {STEP:.0%}",
            line.deviation <= STEP,
        )
    )
    grown = max(each.grown_mib for each in measured.values())
    report.limit(f"memory above idle, any number of {title}", grown, MEMORY_MIB, "MiB", digits=1)
    note = f"CSV streams of one user. The line: {line.start * 1e3:.1f} ms + {line.slope * 1e6:.3f} µs each."
    header = (title, "time", "off the line", "CPU", "PostgreSQL's CPU", "memory")
    report.tables.append(
        Table(f"Scaling: {title}", note, header, [_cells(size, each, line) for size, each in measured.items()])
    )


def _cells(size: int, each: Measured, line: Line) -> list[str]:
    return [
        f"{size:,}",
        each.seconds.text("s", digits=3),
        f"{each.seconds.median / (line.start + line.slope * size) - 1:+.0%}",
        f"{each.cpu_seconds:.2f} s",
        f"{each.postgres_seconds:.2f} s",
        f"{each.grown_mib:.1f} MiB",
    ]


def fit_line(seconds: Mapping[int, float]) -> Line:
    """Minimizes the squares of the relative deviations, so that small sizes count as much as large ones."""
    sizes, times = np.array(list(seconds)), np.array(list(seconds.values()))
    slope, start = np.polyfit(sizes, times, 1, w=1 / times)
    return Line(float(start), float(slope), float(np.max(np.abs(times / (start + slope * sizes) - 1))))


def _datasets(folder: Path, columns: list[str]) -> dict[str, str]:
    """Settings of a service that exports these columns of the wide table."""
    folder.mkdir()
    (folder / "profile.sql").write_text("SELECT id, email FROM public.users WHERE id = $1")
    (folder / "wide.sql").write_text(
        f"SELECT {', '.join(columns)} FROM public.wide WHERE user_id = $1 ORDER BY user_id, id"
    )
    return {"CARRYOUT_DATASETS_DIR": str(folder)}


def _width_user(width: int) -> UUID:
    return UUID(int=(0xD0 << 120) + width)


async def _create_wide(world: World) -> None:
    """Insert cells of 16 characters for the columns, then increasingly wide ones in the first column."""
    connection = await asyncpg.connect(world.stack.admin_url)
    try:
        names = [f"c{number}" for number in range(max(world.size.columns))]
        await connection.execute(CREATE_WIDE.format(reader=READER, columns=", ".join(f"{name} text" for name in names)))
        cells = {COLUMNS_USER: 16} | {_width_user(width): width for width in world.size.widths}
        await connection.executemany(
            "INSERT INTO public.users (id, email, name, password_hash) VALUES ($1, $2, 'Wide', 'x')",
            [(user_id, f"{user_id}@example.com") for user_id in cells],
        )
        for user_id, width in cells.items():
            filled, rows = (names, COLUMNS_ROWS) if user_id == COLUMNS_USER else (names[:1], WIDTHS_ROWS)
            await connection.execute(
                f"""INSERT INTO public.wide (user_id, {", ".join(filled)})
                SELECT $1, {", ".join(["left(repeat(md5(n::text), $2::int / 32 + 1), $2::int)"] * len(filled))}
                FROM generate_series(1, $3::int) AS n""",
                user_id,
                width,
                rows,
            )
        await connection.execute("CREATE INDEX ON public.wide (user_id, id)")
        await connection.execute("VACUUM ANALYZE public.wide")
    finally:
        await connection.close()

"""A user's document, streamed: against psql's COPY of the same text, its first byte, and compressed."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import asyncpg

from bench.clients import copy_commands, curl, curl_headers, psql
from bench.data import history_user
from bench.lists import cells
from bench.measure import Contender, Measured, ratio
from bench.peers import SELECT_ONE
from bench.report import Goal, Report, Table
from bench.world import World, open_peer, stream_url
from devstack.sample import USER_100000
from service.documents.datasets import Dataset, load_datasets
from service.documents.encoders import create_encoder
from service.formats import Format

RECORDS = 100_000
FORMATS = (Format.CSV, Format.JSON)
XLSX_BY_CSV = 3
ENCODINGS = ("gzip", "zstd")
BY_COPY = 1.15
FIRST_BYTE_SECONDS = 0.005
FIRST_BYTE_RECORDS = 10_000
COUNTED_MICROSECONDS = 0.15


async def measure_streams(world: World, report: Report) -> float:
    """Returns the service's CPU seconds for 100,000 records, the costlier format's."""
    contenders = []
    dsn = world.stack.admin_url
    for format_ in FORMATS:
        url, headers = stream_url(world.api, format_), world.user(USER_100000)
        contenders += [
            Contender(format_, world.api.pid, partial(curl, url, headers)),
            Contender(_copied(format_), None, partial(psql, dsn, await _copies(world, format_))),
        ]
    url = stream_url(world.api, Format.XLSX)
    contenders.append(Contender(Format.XLSX, world.api.pid, partial(curl, url, world.user(USER_100000))))
    measured = await world.meter.interleave(f"stream of {RECORDS:,} records", contenders, world.size.rounds)
    for format_ in FORMATS:
        work = f"live stream of {RECORDS:,} records as {format_}, by psql COPY of the same rows"
        report.limit(work, ratio(measured, format_, _copied(format_)), BY_COPY)
    by_csv = ratio(measured, Format.XLSX, Format.CSV)
    report.limit(f"live stream of {RECORDS:,} records as xlsx, by the same as csv", by_csv, XLSX_BY_CSV)
    report.tables.append(
        Table(
            f"Live stream, {RECORDS:,} records",
            "psql copies the rows as PostgreSQL renders them for the service. It doesn't count, frame or hash them, and"
            " (CSV) doesn't add the profile's cells.",
            ("contender", "time", "by Carryout's CSV", "rows/s", "first byte", "CPU", "PostgreSQL's CPU", "memory"),
            [cells(name, each, measured["csv"], RECORDS) for name, each in measured.items()],
        )
    )
    return max(measured[format_].cpu_seconds for format_ in FORMATS)


def _copied(format_: str) -> str:
    return f"psql COPY of {format_} rows"


async def load_documents(world: World) -> Sequence[Dataset]:
    """The datasets, as the service loads them."""
    connection = await asyncpg.connect(world.stack.admin_url)
    try:
        return await load_datasets(
            connection,
            Path(world.settings.datasets_dir),
            user_id_type=world.settings.user_id_type,
            forbidden=world.settings.forbidden_columns,
        )
    finally:
        await connection.close()


async def _copies(world: World, format_: Format) -> list[str]:
    encoder = create_encoder(format_)
    rendered = [
        encoder.row_text(dataset).replace("$1", f"'{USER_100000}'::uuid") for dataset in await load_documents(world)
    ]
    return copy_commands(rendered)


async def measure_first_byte(world: World, report: Report) -> None:
    sizes = (world.size.histories[0], FIRST_BYTE_RECORDS, RECORDS, world.size.histories[-1])
    url = stream_url(world.api, "csv")
    async with open_peer(world, SELECT_ONE) as bare:
        contenders = [Contender(bare.name, bare.pid, partial(curl, bare.url))]
        contenders += [
            Contender(f"{records:,} records", world.api.pid, partial(curl, url, world.user(history_user(records))))
            for records in dict.fromkeys(sizes)
        ]
        measured = await world.meter.interleave("first byte", contenders, world.size.rounds)
    few, many = (measured[f"{records:,} records"].first_seconds.median for records in (FIRST_BYTE_RECORDS, sizes[-1]))
    work = f"first byte after the request, {FIRST_BYTE_RECORDS:,} records"
    report.limit(work, few * 1_000, FIRST_BYTE_SECONDS * 1_000, "ms", digits=1)
    counted = (many - few) / (sizes[-1] - FIRST_BYTE_RECORDS) * 1_000_000
    report.limit("the same, for each record beyond", counted, COUNTED_MICROSECONDS, "µs")
    report.tables.append(
        Table(
            "First byte",
            "Measured by curl, from the established connection; the bare route is `bench/peers/select_one.py`.",
            ("document", "first byte", "all"),
            [
                (name, each.first_seconds.text("ms", scale=1_000, digits=1), each.seconds.text("s", digits=3))
                for name, each in measured.items()
            ],
        )
    )


async def measure_encodings(world: World, report: Report) -> None:
    url, headers = stream_url(world.api, "csv"), world.user(USER_100000)
    answered = [name for name in ENCODINGS if await _is_answered(url, headers | {"Accept-Encoding": name}, name)]
    contenders = [Contender("identity", world.api.pid, partial(curl, url, headers))]
    contenders += [
        Contender(name, world.api.pid, partial(curl, url, headers | {"Accept-Encoding": name})) for name in answered
    ]
    measured = await world.meter.interleave("compressed streams", contenders, world.size.rounds)
    for name in ENCODINGS:
        if name in measured:
            _report_encoding(report, name, measured)
        else:
            report.goals.append(
                Goal(f"{name} stream", "not answered with Content-Encoding", "≥ 0.5 x, ≥ 5 x smaller", False)
            )


async def _is_answered(url: str, headers: dict[str, str], name: str) -> bool:
    return f"content-encoding: {name}" in (await curl_headers(url, headers)).lower()


def _report_encoding(report: Report, name: str, measured: dict[str, Measured]) -> None:
    plain, packed = measured["identity"], measured[name]
    report.reach(f"{name} stream: rows/s by those of the plain one", ratio(measured, "identity", name), 0.5)
    report.reach(f"{name} stream: times smaller", plain.size_bytes / packed.size_bytes, 5, digits=1)

"""Parts of the data: a hundredth of a document against the whole, and the ranges that a refusal offers."""

from functools import partial

from bench.clients import curl
from bench.data import history_user
from bench.lists import cells
from bench.measure import Contender, ratio
from bench.report import Report, Table
from bench.streams import RECORDS
from bench.world import World, open_api, stream_url

# The histories of `bench.data` have a row a second from here on.
HUNDREDTH = "from=2024-01-01T09:00:01Z&to=2024-01-01T09:16:41Z"
PART_BY_WHOLE = 0.1
RANGES_SECONDS = 1
CAP_BY_RECORDS = 0.1


async def measure_selections(world: World, report: Report) -> None:
    await _measure_part(world, report)
    await _measure_ranges(world, report)


async def _measure_part(world: World, report: Report) -> None:
    headers, url = world.user(history_user(RECORDS)), stream_url(world.api, "csv")
    contenders = [
        Contender("whole", world.api.pid, partial(curl, url, headers)),
        Contender("1 %", world.api.pid, partial(curl, f"{url}&{HUNDREDTH}", headers)),
    ]
    measured = await world.meter.interleave("a part of the data", contenders, world.size.rounds)
    work = f"live stream of 1 % of {RECORDS:,} records, by the whole"
    report.limit(work, ratio(measured, "1 %", "whole"), PART_BY_WHOLE)
    sizes = {"whole": RECORDS, "1 %": RECORDS // 100}
    report.tables.append(
        Table(
            f"A part of {RECORDS:,} records",
            "By `from` and `to`, as CSV; the index is on the user and the time.",
            ("document", "time", "by the whole", "rows/s", "first byte", "CPU", "PostgreSQL's CPU", "memory"),
            [cells(name, each, measured["whole"], sizes[name]) for name, each in measured.items()],
        )
    )


async def _measure_ranges(world: World, report: Report) -> None:
    records = world.size.histories[-1]
    cap = int(records * CAP_BY_RECORDS)
    limits = {"CARRYOUT_MAX_EXPORT_RECORDS": str(cap), "CARRYOUT_STREAMS_PER_HOUR": "1000000"}
    async with open_api(world, "ranges", limits) as api:
        headers = world.user(history_user(records))
        request = partial(curl, stream_url(api, "csv"), headers, status=422)
        contender = Contender("refusal", api.pid, request)
        (measured,) = (await world.meter.interleave("ranges that fit", [contender], world.size.rounds)).values()
    work = f"refusal of {records:,} records, with the ranges that fit"
    report.limit(work, measured.seconds.median, RANGES_SECONDS, "s")
    report.tables.append(
        Table(
            f"Refusal of {records:,} records",
            f"The rows are counted by day, and the days joined into ranges below the cap of {cap:,}.",
            ("time", "CPU", "PostgreSQL's CPU"),
            [
                (
                    measured.seconds.text("s", digits=3),
                    f"{measured.cpu_seconds:.2f} s",
                    f"{measured.postgres_seconds:.2f} s",
                )
            ],
        )
    )

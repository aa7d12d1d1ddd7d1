"""`python -m bench [--quick]`: every row of docs/benchmarks.md, measured in one run on the embedded servers.

Absolute times mean little on a shared machine; ratios and memory figures are comparable.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from bench.attachments import measure_attachments
from bench.charts import draw_memory, draw_rates
from bench.data import FULL, QUICK, SMALL_RECORDS, Size
from bench.exports import measure_queued
from bench.lists import CARRYOUT, measure_lists, measure_parallel
from bench.memory import measure_memory
from bench.purge import measure_purge
from bench.report import Report, render
from bench.scaling import measure_scaling
from bench.selections import measure_selections
from bench.small_exports import SMALL, measure_drain, measure_small
from bench.startup import measure_startup
from bench.streams import measure_encodings, measure_first_byte, measure_streams
from bench.world import open_world
from service.errors import ConfigurationError

DOCS = Path(__file__).parent.parent / "docs"
CPU_SECONDS = 0.15


async def measure(size: Size) -> Report:
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder), size) as world:
            await measure_startup(world, report)
            cpu = await measure_lists(world, report)
            cpu = max(cpu, await measure_streams(world, report))
            report.limit("CPU of the service for 100,000 rows, the costliest document's", cpu, CPU_SECONDS, "s")
            await measure_first_byte(world, report)
            await measure_encodings(world, report)
            await measure_selections(world, report)
            await measure_parallel(world, report)
            await measure_queued(world, report)
            await measure_small(world, report)
            await measure_drain(world, report)
            await measure_purge(world, report)
            await measure_memory(world, report)
            await measure_scaling(world, report)
    await measure_attachments(size, report)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description="Measure the service and its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less data; writes nothing")
    quick = parser.parse_args().quick
    size = QUICK if quick else FULL
    started = time.monotonic()
    try:
        report = asyncio.run(measure(size))
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None
    print("\n" + render(report, size, charts=False))
    print(f"Measured in {time.monotonic() - started:.0f} s.")
    if not quick:
        write(report, size)


def write(report: Report, size: Size) -> None:
    images = DOCS / "images"
    (DOCS / "benchmarks.md").write_text(render(report, size, charts=True), encoding="utf-8")
    draw_rates(
        images / "throughput.png",
        report.list_rates,
        ours=CARRYOUT,
        title=f"Full list of {size.users:,} users, as CSV",
        label="thousand rows a second",
    )
    draw_rates(
        images / "small_exports.png",
        report.export_rates,
        ours=SMALL,
        title=f"Exports of {SMALL_RECORDS} records, stored in S3",
        label="a second",
    )
    draw_memory(images / "memory.png", report.series, title="Memory of the service while it streams")
    print(f"Written to {DOCS}/benchmarks.md and {images}.")


if __name__ == "__main__":
    main()

"""Packages with attachments: their bytes a second against a bare copy, and the memory of the worker."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import asyncpg

from bench.bare_copy import FILE_BYTES, FILES, key_of
from bench.data import Size
from bench.exports import queue_export
from bench.measure import MIB, Contender, Meter, Spread, Transfer, resident_mib, watch_memory
from bench.report import Report, Table
from bench.world import UNLIMITED, Server, World, pid_of
from devstack.dev import DATASETS, open_service
from devstack.pictures import PICTURES_DIR, write_datasets
from devstack.ports import keep_port
from devstack.sample import ADA, load_sample
from devstack.stack import open_stack
from service.backends.storage import open_storage
from service.formats import Format

# The goal, as a part of a bare copy's bytes a second.
SHARE = 0.7
WORKER_MIB = 64
MOST_ROUNDS = 3
STORES = {"CARRYOUT_FILE_STORES": "uploads=s3://carryout/uploads"}


async def measure_attachments(size: Size, report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with _open_world(Path(folder), size) as world:
            grown = await _measure_memory(world)
            rates = await _measure_rates(world, size.attachments[len(size.attachments) // 2])
    files = size.attachments[len(size.attachments) // 2]
    work = f"package with {_size(files)} of attachments, bytes/s by a bare copy from S3 to S3"
    report.reach(work, rates["package"].median / rates["bare copy"].median, SHARE)
    for number, mib in grown.items():
        work = f"worker's memory above idle, package with {_size(number)} of attachments"
        report.limit(work, mib, WORKER_MIB, "MiB", digits=1)
    report.tables.append(
        Table(
            f"Attachments, {_size(files)}",
            f"Files of {FILE_BYTES // MIB} MiB that can't be compressed. The bare copy is one process that reads them"
            " and sends them on in parts, without a ZIP, a checksum or a database.",
            ("what", "MiB/s"),
            [(name, rate.text("", digits=0)) for name, rate in rates.items()],
        )
    )


async def _measure_memory(world: World) -> dict[int, float]:
    """MiB by the number of files, from small to large, in one process."""
    idle = resident_mib(world.worker_pid)
    grown = {}
    for files in world.size.attachments:
        world.meter.say(f"memory: a package with {_size(files)} of attachments")
        async with watch_memory(world.worker_pid) as samples:
            await _package(world, files)
        grown[files] = max(mib for _, mib in samples) - idle
    return grown


async def _measure_rates(world: World, files: int) -> dict[str, Spread]:
    contenders = [
        Contender("package", world.worker_pid, partial(_package, world, files)),
        Contender("bare copy", None, partial(_copy, world, files)),
    ]
    rounds = min(world.size.rounds, MOST_ROUNDS)
    measured = await world.meter.interleave(f"{_size(files)} of attachments", contenders, rounds)
    mib = files * FILE_BYTES / MIB
    return {name: Spread.of([mib / cost.transfer.seconds for cost in each.costs]) for name, each in measured.items()}


async def _package(world: World, files: int) -> Transfer:
    await _name_files(world.stack.admin_url, files)
    return await queue_export(world, ADA, Format.ZIP, [])


async def _name_files(database_url: str, files: int) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("DELETE FROM public.pictures")
        await connection.executemany(
            "INSERT INTO public.pictures (user_id, name, key) VALUES ($1, $2, $3)",
            [(ADA, f"film {number}.mp4", key_of(number)) for number in range(files)],
        )
    finally:
        await connection.close()


async def _copy(world: World, files: int) -> Transfer:
    environ = os.environ | world.stack.environ | {"CARRYOUT_PUBLIC_URL": world.settings.public_url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.bare_copy", str(files), env=environ, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"The bare copy ended with status {process.returncode}")
    return Transfer(float(out))


@asynccontextmanager
async def _open_world(folder: Path, size: Size) -> AsyncIterator[World]:
    """A stack of its own, as its datasets are others; its bucket has the files."""
    datasets = folder / "datasets"
    write_datasets(datasets)
    async with open_stack(folder / "stack", UNLIMITED | STORES | {DATASETS: str(datasets)}) as stack:
        await load_sample(stack.admin_url)
        connection = await asyncpg.connect(stack.admin_url)
        await connection.execute((PICTURES_DIR / "schema.sql").read_text(encoding="utf-8"))
        await connection.close()
        run_dir = stack.data_dir / "run"
        async with (
            open_service(stack, keep_port(run_dir / "api.port")) as settings,
            aiohttp.ClientSession() as session,
            open_storage(settings) as storage,
        ):
            for number in range(FILES):
                await storage.upload(key_of(number), _random_chunks(), content_type="video/mp4")
            meter = Meter(pid_of(run_dir, "postgres"), lambda text: print(f"  {text}", flush=True))
            api = Server("Carryout", settings.public_url, pid_of(run_dir, "api"))
            yield World(size, stack, settings, meter, session, api, pid_of(run_dir, "worker"), api_key="")


async def _random_chunks() -> AsyncIterator[bytes]:
    for _ in range(FILE_BYTES // MIB):
        yield os.urandom(MIB)


def _size(files: int) -> str:
    return f"{files * FILE_BYTES / MIB:,.0f} MiB"

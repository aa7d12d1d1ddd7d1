"""The measurements behind docs/benchmarks.md, against real processes on the embedded servers, in one run.

Absolute times say little on a shared machine; the ratios and the memory figures do.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import aiohttp
import asyncpg
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from devstack.dev import open_service
from devstack.ports import keep_port
from devstack.sample import USER_1000, USER_100000
from devstack.stack import Stack, open_stack
from service.auth import create_token
from service.settings import Settings

ROUNDS = 9
# What the export before leaves to do, mail included, mustn't be measured with the next.
SETTLE_SECONDS = 0.5
MILLION = UUID("01000000-0000-4000-8000-000000000000")
MIB = 1024 * 1024
REPORT = Path(__file__).parent.parent / "docs" / "benchmarks.md"


class Bench:
    def __init__(self, stack: Stack, settings: Settings, session: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.settings = settings
        self.session = session

    def headers(self, user_id: UUID) -> dict[str, str]:
        return {"Authorization": f"Bearer {create_token(self.settings, str(user_id), 3_600)}"}

    async def stream(self, user_id: UUID, format_: str) -> tuple[float, float]:
        """Seconds to the first byte and to the last."""
        started = time.perf_counter()
        url = f"{self.settings.public_url}/api/export/stream?format={format_}"
        async with self.session.get(url, headers=self.headers(user_id)) as response:
            response.raise_for_status()
            await response.content.readany()
            first = time.perf_counter() - started
            async for _ in response.content.iter_any():
                pass
        return first, time.perf_counter() - started

    async def queued(self, user_id: UUID, format_: str) -> tuple[float, float]:
        """Seconds from the POST to being picked up and to `completed`, by the database's clock."""
        url = f"{self.settings.public_url}/api/export"
        headers = self.headers(user_id)
        async with self.session.post(url, headers=headers, json={"format": format_}) as response:
            job_id = (await response.json())["job_id"]
        async with asyncio.timeout(300):
            while (export := await self._view(f"{url}/{job_id}", headers))["status"] not in {"completed", "failed"}:
                await asyncio.sleep(0.02)
        if export["status"] == "failed":
            raise SystemExit(f"the export failed: {export['error_message']}")
        connection = await asyncpg.connect(self.settings.database_url)
        picked_up, done = await connection.fetchrow(
            """SELECT extract(epoch FROM started_at - created_at)::float,
                      extract(epoch FROM completed_at - created_at)::float
            FROM carryout.export_jobs WHERE id = $1""",
            UUID(job_id),
        )
        await connection.close()
        return picked_up, done

    async def _view(self, url: str, headers: dict[str, str]) -> dict[str, str]:
        async with self.session.get(url, headers=headers) as response:
            view: dict[str, str] = await response.json()
            return view

    async def bare(self, url: str) -> float:
        started = time.perf_counter()
        async with self.session.get(url) as response:
            await response.read()
        return time.perf_counter() - started


def memory(pid: int) -> tuple[float, float]:
    """Resident MiB now, and the peak since the last `forget_peak`."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def growth(pid: int, work: Callable[[], Awaitable[object]]) -> float:
    """Peak MiB above what was resident before."""
    forget_peak(pid)
    before, _ = memory(pid)
    await work()
    return memory(pid)[1] - before


def find_process(command: str, port: int) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        arguments = path.read_bytes().decode().split("\0")
        ours = b"CARRYOUT_PUBLIC_URL=http://127.0.0.1:%d" % port
        if {command, "service.cli"} <= set(arguments) and ours in (path.parent / "environ").read_bytes():
            return int(path.parent.name)
    raise SystemExit(f"no {command} process")


async def create_million(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "INSERT INTO public.users (id, email, name, password_hash) VALUES ($1, 'million@example.com', 'Million', 'x')"
        " ON CONFLICT DO NOTHING",
        MILLION,
    )
    if await connection.fetchval("SELECT count(*) FROM public.activity WHERE user_id = $1", MILLION) == 0:
        await connection.execute(
            """INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at)
            SELECT $1, 'login', '203.0.113.7', jsonb_build_object('path', '/articles/' || n), now() + n * interval '1 s'
            FROM generate_series(1, 999999) AS n""",
            MILLION,
        )
        await connection.execute("VACUUM ANALYZE public.activity")
    await connection.close()


@asynccontextmanager
async def open_bare_route(database_url: str, port: int) -> AsyncIterator[str]:
    """What any such service needs at least: one route that asks the database for 1."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=2) as pool:

        async def select_one(_request: Request) -> Response:
            return PlainTextResponse(str(await pool.fetchval("SELECT 1")))

        app = Starlette(routes=[Route("/", select_one)])
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}/"
        server.should_exit = True
        await serving


async def measure(bench: Bench, api: int, worker: int, bare_url: str) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    worker_idle, _ = memory(worker)
    forget_peak(worker)
    await bench.stream(USER_100000, "csv")
    samples: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        samples.setdefault("bare", []).append(await bench.bare(bare_url))
        for format_ in ("csv", "json"):
            await asyncio.sleep(SETTLE_SECONDS)
            first, total = await bench.stream(USER_100000, format_)
            samples.setdefault(f"first {format_}", []).append(first)
            samples.setdefault(f"stream {format_}", []).append(total)
            picked_up, done = await bench.queued(USER_100000, format_)
            samples.setdefault("picked up", []).append(picked_up)
            samples.setdefault(f"queued {format_}", []).append(done)
    worker_peaks = {"100,000": memory(worker)[1]}
    medians = {name: statistics.median(values) for name, values in samples.items()}
    for format_ in ("csv", "json"):
        first = 1_000 * (medians[f"first {format_}"] - medians["bare"])
        rows.append(
            (f"first byte of 100,000 records as {format_}, above a bare SELECT 1", f"{first:.1f} ms", "≤ 50 ms")
        )
        rows.append((f"live stream of 100,000 records as {format_}", f"{medians[f'stream {format_}']:.2f} s", "-"))
        ratio = (medians[f"queued {format_}"] - 0.5) / medians[f"stream {format_}"]
        rows.append(
            (
                f"queued, POST to completed ({medians[f'queued {format_}']:.2f} s) less 0.5 s, by live stream",
                f"{ratio:.2f} x",
                "≤ 1.5 x",
            )
        )
    rows.append(("picked up by the worker after the POST", f"{medians['picked up']:.2f} s", "≤ 0.3 s"))
    for name, user_id in (("1,000", USER_1000), ("100,000", USER_100000), ("1,000,000", MILLION)):
        for format_ in ("csv", "json"):
            grown = await growth(api, lambda u=user_id, f=format_: bench.stream(u, f))
            rows.append(
                (
                    f"server memory above idle, live stream of {name} records as {format_}",
                    f"{grown:.1f} MiB",
                    "< 16 MiB",
                )
            )
    forget_peak(worker)
    for format_ in ("csv", "json"):
        await bench.queued(MILLION, format_)
    worker_peaks["1,000,000"] = memory(worker)[1]
    for name, peak in worker_peaks.items():
        what = f"worker memory above a fresh worker's, queued exports of {name} records, one after the other"
        rows.append((what, f"{peak - worker_idle:.1f} MiB", "< 48 MiB"))
    return rows


def report(rows: list[tuple[str, str, str]]) -> str:
    lines = [
        "# Benchmarks",
        "",
        f"By `make bench`, in one run of {ROUNDS} interleaved rounds (medians), on {os.cpu_count()} cores, with Python",
        f"{sys.version.split()[0]}; PostgreSQL, Redis, S3 and the client run on the same machine. Memory is the",
        "process's peak resident set above what it held before.",
        "",
        "| what | measured | goal |",
        "|---|---|---|",
        *(f"| {what} | {measured} | {goal} |" for what, measured, goal in rows),
    ]
    return "\n".join(lines) + "\n"


async def main() -> None:
    environ = dict(os.environ) | {"CARRYOUT_MAX_EXPORT_RECORDS": "2000000", "CARRYOUT_EXPORTS_PER_HOUR": "100000"}
    with tempfile.TemporaryDirectory() as folder:
        async with open_stack(Path(folder), environ) as stack:
            port = keep_port(Path(folder) / "run" / "api.port")
            async with open_service(stack, port) as settings, aiohttp.ClientSession() as session:
                await create_million(settings.database_url)
                bench = Bench(stack, settings, session)
                bare_port = keep_port(Path(folder) / "run" / "bare.port")
                async with open_bare_route(settings.database_url, bare_port) as bare_url:
                    rows = await measure(bench, find_process("serve", port), find_process("worker", port), bare_url)
    text = report(rows)
    print(text)
    REPORT.write_text(text)


if __name__ == "__main__":
    asyncio.run(main())

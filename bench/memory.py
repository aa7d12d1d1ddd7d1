"""Memory of one stream, and of each further one, in a fresh API process."""

import asyncio
import socket
from urllib.parse import urlsplit

import asyncpg

from bench.clients import curl
from bench.data import history_user
from bench.measure import resident_mib, watch_memory
from bench.report import Report, Table
from bench.streams import RECORDS
from bench.world import Server, World, list_url, open_api, stream_url
from service.formats import Format

# Small, so that the stream of a waiting client waits, too, and doesn't end in the kernel's buffers.
RECEIVE_BUFFER_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
XLSX_MIB = 24
STREAMS_LIMIT = {"CARRYOUT_STREAM_POOL_SIZE": "128", "CARRYOUT_LIST_POOL_SIZE": "256"}


async def measure_memory(world: World, report: Report) -> None:
    records = world.size.histories[-1]
    rows: list[tuple[str, str]] = []
    one_mib = 0.0
    for format_ in ("csv", "json"):
        async with open_api(world, f"memory-{format_}", STREAMS_LIMIT) as api:
            idle = resident_mib(api.pid)
            grown = await _growth(world, report, api, format_, records)
            one_mib = max(one_mib, grown)
            rows.append(_row(format_, records, idle, grown))
            if format_ == "csv":
                world.meter.say(f"memory: {world.size.streams} streams at once")
                further = (await _peak_of_many(world, api) - idle - grown) / (world.size.streams - 1)
    rows.append((f"each further one of {world.size.streams} at once", f"{further:.2f} MiB"))
    report.limit(f"memory above idle, one stream of {records:,} records", one_mib, 16, "MiB", digits=1)
    report.limit(f"memory for each further one, {world.size.streams} at once", further, 1, "MiB")
    rows += await _measure_workbooks(world, report)
    report.tables.append(Table("Memory", "In an API process that has just started.", ("what", "memory"), rows))


async def _measure_workbooks(world: World, report: Report) -> list[tuple[str, str]]:
    """One process a size, so that the larger file doesn't find the memory of the smaller one."""
    rows = []
    for records in dict.fromkeys((RECORDS, world.size.histories[-1])):
        async with open_api(world, f"memory-xlsx-{records}", STREAMS_LIMIT) as api:
            idle = resident_mib(api.pid)
            grown = await _growth(world, report, api, Format.XLSX, records)
        rows.append(_row(Format.XLSX, records, idle, grown))
        work = f"memory above idle, one stream of {records:,} records as xlsx"
        report.limit(work, grown, XLSX_MIB, "MiB", digits=1)
    return rows


async def _growth(world: World, report: Report, api: Server, format_: str, records: int) -> float:
    """MiB above the process before."""
    world.meter.say(f"memory: one stream of {records:,} records as {format_}")
    idle = resident_mib(api.pid)
    async with watch_memory(api.pid) as samples:
        await curl(stream_url(api, format_), world.user(history_user(records)))
    if records == world.size.histories[-1]:
        report.series[f"{format_.upper()}, {records:,} records"] = samples
    return max(mib for _, mib in samples) - idle


def _row(format_: str, records: int, idle: float, grown: float) -> tuple[str, str]:
    return f"a stream of {records:,} records as {format_}, above {idle:.0f} MiB", f"{grown:.1f} MiB"


async def _peak_of_many(world: World, api: Server) -> float:
    """MiB per stream; every client waits until all have their first bytes, so that all streams are open at once."""
    connection = await asyncpg.connect(world.stack.admin_url)
    last = await connection.fetchval("SELECT max(internal_id) FROM public.users")
    await connection.close()
    request = _request(f"{list_url(api)}&after={last - world.size.parallel_rows}", world.operator())
    begun = asyncio.Barrier(world.size.streams)
    async with watch_memory(api.pid) as samples, asyncio.TaskGroup() as group:
        for _ in range(world.size.streams):
            group.create_task(_read_slowly(api, request, begun))
    return max(mib for _, mib in samples)


async def _read_slowly(api: Server, request: bytes, begun: asyncio.Barrier) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", urlsplit(api.url).port))
        await loop.sock_sendall(connection, request)
        received = await loop.sock_recv(connection, READ_BYTES)
        if not received.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"A stream was answered with {received[:80]!r}")
        await begun.wait()
        while received:
            received = await loop.sock_recv(connection, READ_BYTES)


def _request(url: str, headers: dict[str, str]) -> bytes:
    parts = urlsplit(url)
    lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
    lines += [f"{name}: {text}" for name, text in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()

"""1,000 connections reset at random bytes: the pool is whole again, and no task is left."""

import asyncio
import random
import socket
import struct
import time
from contextlib import suppress

import pytest

from service.resources import Resources
from tests.api.serving import Served
from tests.conftest import Report
from tests.support.factories import Connection
from tests.support.operators import create_key, create_users

CONNECTIONS = 1_000
AT_ONCE = 20
USERS = 20_000
RESET = struct.pack("ii", 1, 0)  # socket(7): no lingering, close sends RST
SEED = 20_260


@pytest.mark.timeout(600)
async def test_resets_leave_nothing_behind(
    served: Served, resources: Resources, database: Connection, report: Report
) -> None:
    key = await create_key(database)
    await create_users(database, USERS)
    head = f"GET /api/v1/users/export-full HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
    await _reset_after(served, head, 10**9)
    tasks = len(asyncio.all_tasks())
    chance = random.Random(SEED)  # noqa: S311 (where to cut, not a secret)
    slots = asyncio.Semaphore(AT_ONCE)

    async def reset_somewhere() -> None:
        async with slots:
            await _reset_after(served, head, int(2 ** chance.uniform(0, 21)))

    await asyncio.gather(*(reset_somewhere() for _ in range(CONNECTIONS)))
    began_at = time.monotonic()
    while resources.streams.get_idle_size() != resources.streams.get_size() or len(asyncio.all_tasks()) > tasks:
        await asyncio.sleep(0.01)
    whole_after = time.monotonic() - began_at

    begun, ended = await asyncio.gather(
        *(_count(resources, action) for action in ("users:export_started", "users:exported"))
    )
    assert begun == ended
    report("")
    report(f"{CONNECTIONS} resets at bytes 0 to 2 MiB: {begun} streams begun, {ended} accounted for")
    report(f"pool whole and no task left {whole_after:.2f} s after the last (goal 2)")


async def _count(resources: Resources, action: str) -> int:
    count: int = await resources.database.fetchval(
        "SELECT count(*) FROM carryout.export_audit WHERE action = $1", action
    )
    return count


async def _reset_after(served: Served, head: bytes, size: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as connection, suppress(OSError):
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await loop.sock_connect(connection, (served.host, served.port))
        await loop.sock_sendall(connection, head)
        while size > 0 and (part := await loop.sock_recv(connection, min(size, 65_536))):
            size -= len(part)
            if part.endswith(b"0\r\n\r\n"):
                return

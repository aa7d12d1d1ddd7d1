"""200 readers at one byte a second are cut, and other clients aren't delayed."""

import asyncio
import socket
import statistics
import time
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from devstack.stack import Stack
from service.api.http.slow_clients import DEFAULT_PATIENCE
from tests.conftest import Report
from tests.load.serving import Api, open_api, until
from tests.support.factories import Connection, create_user
from tests.support.operators import create_key, create_users

READERS = 200
RAMP = 20
EXCESS = 10
PATH = "/api/v1/users/export-full?format=csv"
SMALL_RECORDS = 400
USERS = 60_000  # more bytes than the kernels' buffers take


class Reader:
    """A client that reads one byte a second, and when it was cut."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self.seconds: float | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", self._port))
            began_at = time.monotonic()
            await loop.sock_sendall(
                connection, f"GET {PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: {self._key}\r\n\r\n".encode()
            )
            # A cut connection is one the kernel has buried; what it took before can still be read for days.
            with suppress(OSError):
                while not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    await asyncio.wait_for(loop.sock_recv(connection, 1), 5)
                    await asyncio.sleep(1)
            self.seconds = time.monotonic() - began_at


class Prober:
    """A normal client, all the time: how long `/readyz` and small exports take."""

    def __init__(self, api: Api, users: list[UUID]) -> None:
        self._api = api
        self._users = users
        self.probes: list[float] = []
        self.exports: list[float] = []

    async def run(self) -> None:
        for user_id in self._users * 1_000:
            began_at = time.monotonic()
            assert (await self._api.client.get("/readyz")).status_code == 200
            self.probes.append(time.monotonic() - began_at)
            began_at = time.monotonic()
            answer = await self._api.client.post(
                "/api/export", json={"format": "csv"}, headers=self._api.sign_in(user_id)
            )
            assert answer.status_code == 201, answer.text
            self.exports.append(time.monotonic() - began_at)
            await asyncio.sleep(0.1)


def milliseconds(figures: list[float]) -> str:
    p99 = statistics.quantiles(figures, n=100)[98]
    return f"median {statistics.median(figures) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms of {len(figures)}"


@pytest.mark.timeout(300)
async def test_slow_readers_are_cut_without_delaying_others(
    stack: Stack, database: Connection, database_url: str, tmp_path: Path, report: Report
) -> None:
    key = await create_key(database)
    await create_users(database, USERS)
    users = [await create_user(database, activity=SMALL_RECORDS - 1) for _ in range(20)]
    await database.execute("VACUUM ANALYZE")
    environ = {
        "CARRYOUT_LIST_POOL_SIZE": str(2 * READERS),  # one key has half of them
        "CARRYOUT_EXPORTS_PER_HOUR": "100000",
        "CARRYOUT_KEPT_FILES": "100000",
    }
    async with open_api(stack, database_url, tmp_path, **environ) as api:
        before = Prober(api, users)
        with suppress(TimeoutError):
            await asyncio.wait_for(before.run(), 10)
        assert (await api.client.get(PATH, headers={"X-API-Key": key})).status_code == 200
        idle_mib = api.resident_mib()
        api.forget_peak()

        readers = [Reader(api.port, key) for _ in range(READERS)]
        reading = []
        for number, reader in enumerate(readers, 1):
            reading.append(asyncio.create_task(reader.run()))
            if number % RAMP == 0:  # each opens a connection to PostgreSQL, too
                await until(lambda: _open_streams(api, len(reading)), f"{number} readers to be served")
        during = Prober(api, users)
        probing = asyncio.create_task(during.run())
        refused = await asyncio.gather(*(api.client.get(PATH, headers={"X-API-Key": key}) for _ in range(EXCESS)))
        await asyncio.wait(reading, timeout=120)
        probing.cancel()
        await until(lambda: _open_streams(api, 0), "all streams to end")
        await asyncio.gather(probing, return_exceptions=True)
        peak_mib = api.peak_mib()

        assert {answer.status_code for answer in refused} == {429}
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
        cut = [reader.seconds for reader in readers if reader.seconds is not None]
        assert len(cut) == READERS
        outcomes = await database.fetch(
            "SELECT outcome, count(*) FROM carryout.export_audit WHERE action = 'users:exported' GROUP BY outcome"
        )
        assert dict(map(tuple, outcomes)) == {"complete": 1, "too_slow": READERS}
        assert (await api.client.get(PATH, headers={"X-API-Key": key})).status_code == 200

    report("")
    report(f"{READERS} readers at 1 byte/s: cut after {min(cut):.1f} to {max(cut):.1f} s (goal 35)")
    report(f"patience: {DEFAULT_PATIENCE.initial_seconds:.0f} s; {EXCESS} more were answered 429 with Retry-After")
    report(f"/readyz before: {milliseconds(before.probes)}; meanwhile: {milliseconds(during.probes)}")
    report(f"small exports before: {milliseconds(before.exports)}; meanwhile: {milliseconds(during.exports)}")
    report(
        f"memory: {idle_mib:.0f} MiB idle, {peak_mib:.0f} at most: {(peak_mib - idle_mib) / READERS:.2f} MiB a stream"
    )


async def _open_streams(api: Api, count: int) -> bool:
    return (await api.scrape()).value("carryout_streams_open", kind="list") == count

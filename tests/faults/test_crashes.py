"""SIGKILL at every step: the export is made all the same, once, and nothing is left behind."""

import signal

import httpx
import pytest

from devstack.ports import keep_port
from service.access.tokens import create_token
from service.bookkeeping.exports import ExportStatus
from tests.faults.crashing import POINTS
from tests.faults.oracle import assert_healed
from tests.faults.world import World

API_POINTS = {"before the row's commit", "after the row's commit", "enqueued"}
LARGE = 45_000  # more than one part of 8 MiB


@pytest.mark.parametrize("point", [point for point in POINTS if point not in {*API_POINTS, "mid-expiry"}])
async def test_worker_killed(world: World, point: str) -> None:
    export = await world.ask(await world.create_user(records=LARGE))
    victim = await world.start_worker(crash_at=point)
    assert await victim.ended() == -signal.SIGKILL, victim.log
    await _let_long_leases_pass(world)
    await world.start_worker()
    ended = await world.ended(export)
    assert (ended.status, ended.record_count) == (ExportStatus.COMPLETED, LARGE)
    await assert_healed(world)


async def _let_long_leases_pass(world: World) -> None:
    """Those of mails and deletions, as a mail server and the storage may take their time."""
    async with world.database() as connection:
        await connection.execute(
            "UPDATE carryout.export_notifications SET lease_expires_at = now() WHERE state = 'sending'"
        )
        await connection.execute("UPDATE carryout.export_jobs SET delete_after = now() WHERE delete_after > now()")


async def test_worker_killed_mid_expiry(world: World) -> None:
    export = await world.ask(await world.create_user(records=10))
    victim = await world.start_worker(crash_at="mid-expiry")
    await world.ended(export)
    async with world.database() as connection:
        await connection.execute("UPDATE carryout.export_jobs SET expires_at = now()")
    assert await victim.ended() == -signal.SIGKILL, victim.log
    await _let_long_leases_pass(world)
    await world.start_worker()
    await assert_healed(world)


@pytest.mark.parametrize("point", sorted(API_POINTS))
async def test_api_killed(world: World, point: str) -> None:
    user_id = await world.create_user(records=2_000)
    port = keep_port(world.folder / "port")
    api = await world.start_api(port, crash_at=point)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await world.until(lambda: _alive(client), "the API")
        token = create_token(world.resources.settings, str(user_id), 60)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/api/export", json={"format": "json"}, headers={"Authorization": f"Bearer {token}"})
    assert await api.ended() == -signal.SIGKILL
    await world.start_worker()
    await assert_healed(world)
    async with world.database() as connection:
        made = await connection.fetchval("SELECT count(*) FROM carryout.export_jobs WHERE status = 'completed'")
    assert made == (0 if point == "before the row's commit" else 1)
    again = await world.ask(user_id)
    assert (await world.ended(again)).status is ExportStatus.COMPLETED


async def _alive(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/livez")).is_success
    except httpx.TransportError:
        return False

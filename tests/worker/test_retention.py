"""Retention: what is older than the period goes, a batch at a time, and running exports notice nothing."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from devstack.stack import Stack
from service.backends.database import Connection, connect
from service.bookkeeping.audit import Actor
from service.bookkeeping.exports import ExportStatus
from service.bookkeeping.retention import BATCH, Purged, count_purgeable, purge
from service.resources import Resources
from service.settings import MIN_RETENTION_SECONDS, Settings
from tests.faults.world import open_world
from tests.sql.databases import serving_url
from tests.support.exports import make_small_export, start_export
from tests.support.factories import Connection as Administrator
from tests.support.factories import create_user
from worker.retention import purge_old

OLD_EVENTS = 100_000
OLD_EXPORTS = 2_500
RETENTION_SECONDS = 40 * 86_400
ADD_EVENTS = """
INSERT INTO carryout.export_audit (actor_type, action, occurred_at)
SELECT 'system', 'test:old', now() - interval '60 days' + n * interval '1 second' FROM generate_series(1, $1::int) AS n
"""
ADD_EXPORTS = """
WITH added AS (
  INSERT INTO carryout.export_jobs
    (user_id, format, status, queued, estimated_records, created_at, completed_at, error_message)
  SELECT gen_random_uuid(), 'csv', 'failed', true, 1, ended.at, ended.at, 'It broke'
  FROM generate_series(1, $1::int), (SELECT now() - $2::int * interval '1 day' AS at) AS ended
  RETURNING id
)
INSERT INTO carryout.export_notifications (job_id, kind, message_id)
SELECT id, 'failed', '<' || id || '@example.com>' FROM added
"""
COUNT_OLD = "SELECT count(*) FROM carryout.export_audit WHERE action = 'test:old'"


@pytest.fixture
async def settings(settings: Settings, database: Administrator) -> Settings:
    """A statement of the service that waits for a lock fails, and with it its export."""
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"ALTER DATABASE {name} SET lock_timeout = '5s'")
    return settings


async def make_exports_until(
    done: Callable[[], bool], resources: Resources, database: Administrator
) -> list[ExportStatus]:
    statuses: list[ExportStatus] = []
    while not done() or not statuses:
        statuses.append((await make_small_export(resources, database)).status)
    return statuses


async def list_purged(database: Connection, subject: str) -> list[int]:
    query = "SELECT records FROM carryout.export_audit WHERE action = 'retention:purged' AND subject = $1"
    return [row["records"] for row in await database.fetch(query, subject)]


async def test_exports_go_on_while_a_hundred_thousand_events_go(resources: Resources, database: Administrator) -> None:
    await database.execute(ADD_EVENTS, OLD_EVENTS)
    await database.execute(ADD_EXPORTS, OLD_EXPORTS, 60)

    purging = asyncio.create_task(purge_old(resources, RETENTION_SECONDS))
    statuses = await make_exports_until(purging.done, resources, database)
    await purging

    assert set(statuses) == {ExportStatus.COMPLETED}
    assert await database.fetchval(COUNT_OLD) == 0
    assert await database.fetchval("SELECT count(*) FROM carryout.export_notifications") == 0
    for subject, number in (("events", OLD_EVENTS), ("exports", OLD_EXPORTS)):
        batches = await list_purged(database, subject)
        assert (sum(batches), max(batches)) == (number, BATCH)


async def test_export_does_not_wait_for_an_open_purge(resources: Resources, database: Administrator) -> None:
    await database.execute(ADD_EVENTS, BATCH)
    await database.execute(ADD_EXPORTS, BATCH, 60)
    user_id = await create_user(database)
    transaction = database.transaction()
    await transaction.start()
    for kind in ("events", "exports"):
        assert await database.fetchval(f"SELECT carryout.purge_{kind}('40 days', $1, NULL)", BATCH) == BATCH
    assert (await start_export(resources, user_id, queued=False)).status is ExportStatus.COMPLETED
    await transaction.commit()
    assert await database.fetchval(COUNT_OLD) == 0


async def test_what_is_young_or_unfinished_stays(resources: Resources, database: Administrator) -> None:
    await make_small_export(resources, database)
    await database.execute(
        """UPDATE carryout.export_jobs SET created_at = now() - interval '60 days',
          completed_at = now() - interval '60 days', expires_at = now() - interval '53 days'"""
    )  # its file isn't deleted
    await database.execute(ADD_EXPORTS, 1, 39)
    await database.execute(ADD_EXPORTS, 1, 41)
    async with resources.transaction() as connection:
        assert await count_purgeable(connection, RETENTION_SECONDS) == Purged(exports=1, events=0)

    assert await purge(resources.transaction, RETENTION_SECONDS, Actor("system")) == Purged(exports=1, events=0)

    query = "SELECT status FROM carryout.export_jobs ORDER BY completed_at"
    assert [row["status"] for row in await database.fetch(query)] == ["completed", "failed"]
    await database.execute("UPDATE carryout.export_jobs SET file_deleted_at = now() WHERE status = 'completed'")
    assert await purge(resources.transaction, RETENTION_SECONDS, Actor("system")) == Purged(exports=1, events=0)


@pytest.mark.parametrize("kind", ["events", "exports"])
@pytest.mark.parametrize("period", ["29 days 23:59:59", "0", "-1 year", None])
async def test_serving_role_can_not_purge_the_last_days(
    stack: Stack, database: Administrator, database_url: str, kind: str, period: str | None
) -> None:
    await database.execute(ADD_EVENTS, 1)
    async with connect(serving_url(stack, database_url)) as serving:
        with pytest.raises(asyncpg.InvalidParameterValueError, match="younger than 30 days"):
            await serving.execute(f"SELECT carryout.purge_{kind}($1::text::interval, 1000, NULL)", period)
    assert await database.fetchval(COUNT_OLD) == 1


async def test_guard_lets_deletions_of_the_owner_pass_alone(database: Administrator) -> None:
    await database.execute(ADD_EVENTS, 2)
    for statement in ("UPDATE carryout.export_audit SET outcome = 'x'", "TRUNCATE carryout.export_audit"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await database.execute(f"SET LOCAL carryout.purging = 'on'; {statement}")
    await database.execute("SELECT carryout.purge_events('40 days', 1, NULL)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await database.execute("DELETE FROM carryout.export_audit")
    assert await database.fetchval(COUNT_OLD) == 1


async def test_worker_purges_where_the_setting_is_given(stack: Stack, tmp_path: Path) -> None:
    async with open_world(stack, tmp_path) as world, world.database() as connection:
        await connection.execute(ADD_EVENTS, 2)
        await world.start_worker(CARRYOUT_RETENTION_SECONDS=str(MIN_RETENTION_SECONDS))

        async def is_purged() -> bool:
            return bool(await connection.fetchval(COUNT_OLD) == 0)

        await world.until(is_purged, "the events to be purged")
        assert await list_purged(connection, "events") == [2]

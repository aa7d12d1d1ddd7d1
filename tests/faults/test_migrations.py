"""A release is rolled out: the old processes serve on while the schema is the new one's already."""

import uuid

from service.bookkeeping.exports import Export, ExportStatus
from service.errors import UnavailableError
from tests.faults.oracle import assert_healed
from tests.faults.world import World

TABLES = (
    "api_keys",
    "export_audit",
    "export_events",
    "export_jobs",
    "export_notifications",
    "feature_flags",
    "webhook",
)


async def test_a_running_worker_makes_and_announces_exports_on_a_newer_schema(world: World) -> None:
    user_id = await world.create_user(records=10)
    worker = await world.start_worker()
    await world.ended(await world.ask(user_id))
    async with world.database() as connection:
        for table in TABLES:
            await connection.execute(f"ALTER TABLE carryout.{table} ADD COLUMN of_a_newer_release text")
    export = await world.ended(await _ask_twice(world, user_id))
    assert export.status is ExportStatus.COMPLETED
    await assert_healed(world)
    assert any(str(export.id) in mail for mail in world.mails())
    assert "exception" not in worker.log


async def _ask_twice(world: World, user_id: uuid.UUID) -> Export:
    """The first to ask may be told to try again."""
    try:
        return await world.ask(user_id)
    except UnavailableError:
        return await world.ask(user_id)

"""The oracle of the week: chaos' own, and what a bad week adds."""

from typing import Final

from tests.chaos.promises import PROMISES, Aftermath, Promise
from tests.faults.oracle import all_exports


async def none_failed_by_our_own_trouble(aftermath: Aftermath) -> None:
    """An accepted export fails only if its user or its data give the reason."""
    async with aftermath.world.database() as connection:
        rows = await connection.fetch(
            "SELECT id, error_message, error_cause FROM carryout.export_jobs WHERE status = 'failed'"
        )
    own = [dict(row) for row in rows if row["error_message"] != "cancelled by user"]
    assert not own, f"failed: {own}"


async def nothing_differs(aftermath: Aftermath) -> None:
    """No object without a row, no row without its object; in a bucket that is this installation's alone."""
    world = aftermath.world
    rows = {export.id for export in await all_exports(world)}
    keys = [key async for page in world.resources.storage.list_keys("exports/") for key in page]
    strangers = [key for key in keys if not any(str(job_id) in key for job_id in rows)]
    assert not strangers, f"objects without a row: {strangers[:5]} of {len(strangers)}"
    async with world.database() as connection:
        missing = await connection.fetchval(
            "SELECT count(*) FROM carryout.export_jobs WHERE file_missing_at IS NOT NULL AND file_deleted_at IS NULL"
        )
    assert not missing, f"rows without their object: {missing}"


WEEK_PROMISES: Final[tuple[Promise, ...]] = (*PROMISES, none_failed_by_our_own_trouble, nothing_differs)

"""The oracle of the week: chaos' own, and what a bad week adds."""

from typing import Final

from tests.chaos.promises import PROMISES, Aftermath, Promise

FILES = "SELECT file_url FROM carryout.export_jobs WHERE status = 'completed' AND file_deleted_at IS NULL"


async def none_failed_by_our_own_trouble(aftermath: Aftermath) -> None:
    """An accepted export fails only if its user or its data give the reason."""
    async with aftermath.world.database() as connection:
        rows = await connection.fetch(
            "SELECT id, error_message, error_cause FROM carryout.export_jobs WHERE status = 'failed'"
        )
    own = [dict(row) for row in rows if row["error_message"] != "cancelled by user"]
    assert not own, f"failed: {own}"


async def storage_and_rows_agree(aftermath: Aftermath) -> None:
    """No object without a row, no row without its object: in all buckets, whose objects are plain files here."""
    world = aftermath.world
    folder = world.stack.data_dir / "objects"
    objects = {f"s3://{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    async with world.database() as connection:
        rows = {row["file_url"] for row in await connection.fetch(FILES)}
    assert objects, "nothing is stored at all"
    assert objects <= rows, f"objects without a row: {_some(objects - rows)}"
    assert rows <= objects, f"rows without their object: {_some(rows - objects)}"


def _some(urls: set[str]) -> str:
    return f"{sorted(urls)[:5]} of {len(urls)}"


WEEK_PROMISES: Final[tuple[Promise, ...]] = (*PROMISES, none_failed_by_our_own_trouble, storage_and_rows_agree)

"""The oracle of the week: chaos' own, and what a bad week adds."""

from typing import Final

from tests.chaos.promises import PROMISES, Aftermath, Promise
from tests.chaos.users import UPLOADS
from tests.faults.world import World

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
    """No object without a row, no row without its object; workers may need a moment to delete orphans."""
    objects, rows = set[str](), set[str]()

    async def agree() -> bool:
        nonlocal objects, rows
        objects, rows = _find_objects(aftermath.world), await _find_files(aftermath.world)
        return objects == rows

    try:
        await aftermath.world.until(agree, "storage and rows to agree")
    except AssertionError:
        told = f"objects without a row: {_some(objects - rows)}; rows without their object: {_some(rows - objects)}"
        raise AssertionError(told) from None
    assert objects, "nothing is stored at all"


def _find_objects(world: World) -> set[str]:
    """The URLs of the exports' files in all buckets, by no S3: here they are plain files."""
    folder = world.stack.data_dir / "objects"
    urls = {f"s3://{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    return {url for url in urls if f"/{UPLOADS}" not in url}


async def _find_files(world: World) -> set[str]:
    async with world.database() as connection:
        return {row["file_url"] for row in await connection.fetch(FILES)}


def _some(urls: set[str]) -> str:
    return f"{sorted(urls)[:5]} of {len(urls)}"


WEEK_PROMISES: Final[tuple[Promise, ...]] = (*PROMISES, none_failed_by_our_own_trouble, storage_and_rows_agree)

"""The oracle of the bad week sees what it is there for."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from devstack.stack import open_stack
from service.exports.files import key_of
from tests.chaos.promises import Aftermath
from tests.faults.world import World, open_world
from tests.week.promises import none_failed_by_our_own_trouble, storage_and_rows_agree

LOOKING_SECONDS = 2.0


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[World]:
    """With servers of its own: the oracle looks at everything that is stored."""
    async with open_stack(tmp_path / "stack", {}) as stack, open_world(stack, tmp_path) as world:
        yield world


async def test_it_looks_both_ways(alone: World) -> None:
    aftermath = _aftermath(alone)
    worker = await alone.start_worker()
    user = await alone.create_user(records=3)
    export = await alone.ended(await alone.ask(user))
    await storage_and_rows_agree(aftermath)
    await none_failed_by_our_own_trouble(aftermath)
    worker.child.terminate()
    await worker.ended()
    alone.healing_seconds = LOOKING_SECONDS

    stray = f"exports/{export.id}/7-stray.csv"
    await alone.resources.storage.upload(stray, _bytes(), content_type="text/csv")
    with pytest.raises(AssertionError, match=r"objects without a row: \[.*7-stray.csv'\] of 1; .*object: \[\] of 0"):
        await storage_and_rows_agree(aftermath)
    await alone.resources.storage.delete(stray)

    await alone.resources.storage.delete(key_of(export))
    with pytest.raises(AssertionError, match=r"row: \[\] of 0; rows without their object: .* of 1"):
        await storage_and_rows_agree(aftermath)


async def test_it_looks_at_failures(alone: World) -> None:
    failed = await alone.ask(await alone.create_user(records=3))
    async with alone.database() as connection:
        await connection.execute(
            """UPDATE carryout.export_jobs SET status = 'failed', completed_at = now(), error_message = 'ours'
            WHERE id = $1""",
            failed.id,
        )
    with pytest.raises(AssertionError, match=str(failed.id)):
        await none_failed_by_our_own_trouble(_aftermath(alone))


def _aftermath(world: World) -> Aftermath:
    """These promises look at the world alone."""
    return Aftermath(world, *cast("tuple[Any, Any, Any, Any, Any]", (None,) * 5), {})


async def _bytes() -> AsyncIterator[bytes]:
    yield b"x"

"""Conditions that must hold after every fault, once everything works again: one check for all tests."""

import hashlib
import re
from collections import Counter

from service.bookkeeping.exports import Export, ExportStatus
from service.exports.files import key_of, new_key
from tests.faults.world import World, idle_in_transaction
from tests.support.documents import count_records

ENDINGS = {
    ExportStatus.COMPLETED: {"export:completed"},
    ExportStatus.FAILED: {"export:failed"},
}


async def assert_healed(world: World) -> None:
    """Wait until the world is at rest, then hold it to the oracle."""
    await world.until(lambda: at_rest(world), "every export and mail to end")
    exports = await all_exports(world)
    await files_are_as_recorded(world, exports)
    await only_owned_objects(world, exports)
    await audit_chains_are_whole(world, exports)
    at_most_one_mail_each(world, exports)
    await world.until(lambda: none_idle_in_transaction(world), "sessions to leave their transactions")
    assert world.resources.database.get_idle_size() == world.resources.database.get_size()
    assert world.resources.source.get_idle_size() == world.resources.source.get_size()


async def none_idle_in_transaction(world: World) -> bool:
    async with world.database() as connection:
        return await idle_in_transaction(connection) == 0


async def at_rest(world: World) -> bool:
    """To be asked again and again, so by a connection that is open already."""
    async with world.resources.connection() as connection:
        busy: int = await connection.fetchval(
            """SELECT (SELECT count(*) FROM carryout.export_jobs WHERE status IN ('pending', 'processing'))
            + (SELECT count(*) FROM carryout.export_notifications WHERE state IN ('pending', 'sending'))
            + (SELECT count(*) FROM carryout.export_events WHERE state IN ('pending', 'sending'))
            + (SELECT count(*) FROM carryout.export_jobs
               WHERE status = 'completed' AND expires_at <= now() AND file_deleted_at IS NULL)"""
        )
    return busy == 0


async def all_exports(world: World) -> list[Export]:
    async with world.database() as connection:
        ids = [row["id"] for row in await connection.fetch("SELECT id FROM carryout.export_jobs")]
        found = [await world.resources.exports.find(connection, job_id) for job_id in ids]
    return [export for export in found if export]


def _live(exports: list[Export]) -> list[Export]:
    return [export for export in exports if export.status is ExportStatus.COMPLETED and not export.expired]


async def files_are_as_recorded(world: World, exports: list[Export]) -> None:
    for export in _live(exports):
        async with world.resources.storage.open_download(key_of(export)) as chunks:
            content = b"".join([chunk async for chunk in chunks])
        assert new_key(world.resources, export) == key_of(export), f"{key_of(export)} of attempt {export.attempt}"
        assert len(content) == export.size_bytes, f"{export.id}: {len(content)} bytes, not {export.size_bytes}"
        assert hashlib.sha256(content).digest() == export.sha256, f"{export.id}: another SHA-256"
        assert count_records(content, export.format) == export.record_count, f"{export.id}: another number of rows"


async def only_owned_objects(world: World, exports: list[Export]) -> None:
    """Objects are those of completed, unexpired exports, and no upload is open; the sweep may need a moment."""
    expected = {key_of(export) for export in _live(exports)}
    storage = world.resources.storage
    mine = {str(export.id) for export in exports}

    async def swept() -> bool:
        keys = {key async for page in storage.list_keys("exports/") for key in page if key.split("/")[1] in mine}
        uploads = [upload async for page in storage.list_uploads("exports/") for upload in page]
        assert expected <= keys, f"lost: {expected - keys}"
        return keys == expected and not any(upload.key.split("/")[1] in mine for upload in uploads)

    await world.until(swept, "orphans to be swept")


async def audit_chains_are_whole(world: World, exports: list[Export]) -> None:
    async with world.database() as connection:
        for export in exports:
            rows = await connection.fetch(
                "SELECT action FROM carryout.export_audit WHERE job_id = $1 ORDER BY id", export.id
            )
            actions = [row["action"] for row in rows if re.match("export:(requested|started|completed|failed)", row[0])]
            assert actions[0] == "export:requested", actions
            assert actions.count("export:started") == export.attempt, actions
            assert {actions[-1]} == ENDINGS[export.status], actions
            endings = [action for action in actions if action in {"export:completed", "export:failed"}]
            assert len(endings) == 1, actions


def at_most_one_mail_each(world: World, exports: list[Export]) -> None:
    mails = world.mails()
    for export in _live(exports):
        count = sum(str(export.id) in mail for mail in mails)
        assert count <= 1, f"{count} mails for one export"
    assert max(Counter(mails).values(), default=1) == 1

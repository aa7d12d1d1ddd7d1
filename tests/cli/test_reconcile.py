"""`carryout reconcile` after losses, moves and restores, on real files."""

from typing import Any
from uuid import uuid4

import msgspec
import pytest

from devstack.stack import Stack
from service.backends.storage import open_storage
from service.bookkeeping.exports import Export
from service.exports import files
from service.formats import Format
from service.object_keys import object_key
from service.resources import Resources
from service.settings import Settings
from tests.conftest import PUBLIC_URL
from tests.sql.databases import database_environ
from tests.support import processes
from tests.support.exports import find_export, make_small_export
from tests.support.factories import Connection, list_actions
from tests.support.processes import Ended, Run


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, s3_prefix=f"{uuid4().hex}/")


@pytest.fixture
def run(stack: Stack, settings: Settings, database_url: str) -> Run:
    urls = database_environ(stack, database_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
    environ = stack.environ | urls | {"CARRYOUT_S3_PREFIX": settings.s3_prefix}

    async def ended(*arguments: str) -> Ended:
        return await processes.run(environ, "reconcile", *arguments)

    return ended


async def put_elsewhere(resources: Resources, database: Connection, export: Export) -> Settings:
    """Move the export's file behind an earlier prefix; the settings of that time."""
    earlier = msgspec.structs.replace(resources.settings, s3_prefix=f"{uuid4().hex}/")
    key = files.key_of(export)
    async with open_storage(earlier) as there, resources.storage.open_download(key) as chunks:
        stored = await there.upload(key, chunks, content_type="text/csv")
    await resources.storage.delete(key)
    await database.execute("UPDATE carryout.export_jobs SET file_url = $2 WHERE id = $1", export.id, stored.url)
    return earlier


def lines(ended: Ended) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in ended.out.splitlines()]


async def test_nothing_differs(run: Run, resources: Resources, database: Connection) -> None:
    await make_small_export(resources, database)
    ended = await run("--json")
    assert (ended.status, ended.out, ended.err) == (0, "", "nothing differs\n")


async def test_dry_run_changes_nothing(run: Run, resources: Resources, database: Connection) -> None:
    lost, moved = await make_small_export(resources, database), await make_small_export(resources, database)
    await resources.storage.delete(files.key_of(lost))
    await put_elsewhere(resources, database, moved)
    unknown = object_key(uuid4(), 1, Format.CSV, resources.mark)
    await resources.storage._put(unknown, b"left behind", "text/csv")
    before = await database.fetch("SELECT * FROM carryout.export_jobs ORDER BY id")
    events = await list_actions(database)

    ended = await run("--json")

    assert ended.status == 0
    assert {(line["mismatch"], line["job_id"]) for line in lines(ended)} == {
        ("file elsewhere", str(moved.id)),
        ("missing file", str(lost.id)),
        ("unknown object", unknown.split("/")[1]),
    }
    assert "nothing was changed: --apply does what it can" in ended.err
    assert await database.fetch("SELECT * FROM carryout.export_jobs ORDER BY id") == before
    assert await list_actions(database) == events


async def test_moved_files_are_brought(run: Run, resources: Resources, database: Connection) -> None:
    export, over = await make_small_export(resources, database), await make_small_export(resources, database)
    earlier = await put_elsewhere(resources, database, export)
    late = await put_elsewhere(resources, database, over)
    await database.execute("UPDATE carryout.export_jobs SET expires_at = now() WHERE id = $1", over.id)

    ended = await run("--apply")

    assert (ended.status, ended.err) == (0, "file elsewhere: 2\n")
    brought = await find_export(resources, export)
    assert files.download_url(resources, brought)
    async with resources.storage.open_download(files.key_of(brought)) as chunks:
        assert len(b"".join([chunk async for chunk in chunks])) == export.size_bytes
    assert (await find_export(resources, over)).file_deleted_at
    for settings, moved in ((earlier, export), (late, over)):
        async with open_storage(settings) as there:
            assert not await there.has(files.key_of(moved))
    assert (await run()).err == "nothing differs\n"


async def test_copied_files_are_found(run: Run, resources: Resources, database: Connection) -> None:
    """An operator has copied them from a server that the settings don't name."""
    export = await make_small_export(resources, database)
    await database.execute(
        "UPDATE carryout.export_jobs SET file_missing_at = now(), file_url = 's3://nowhere-' || substr(file_url, 6)"
    )
    ended = await run("--apply")
    assert "its link works again" in ended.out
    assert files.download_url(resources, await find_export(resources, export))


async def test_another_file_is_not_taken(run: Run, resources: Resources, database: Connection) -> None:
    export = await make_small_export(resources, database)
    earlier = await put_elsewhere(resources, database, export)
    async with open_storage(earlier) as there:
        await there._put(files.key_of(export), b"exchanged", "text/csv")
    ended = await run("--apply")
    assert ended.status == 1
    assert "left: the file is not the one that was made" in ended.out
    assert files.download_url(resources, await find_export(resources, export)) is None
    assert not await resources.storage.has(files.key_of(export))


async def test_an_unreadable_bucket_is_left(run: Run, resources: Resources, database: Connection) -> None:
    await make_small_export(resources, database)
    kept = files.key_of(await make_small_export(resources, database))
    await database.execute(
        "UPDATE carryout.export_jobs SET file_url = 's3://nowhere/' || split_part(file_url, '/', 4)"
        " || '/exports/' || split_part(file_url, '/exports/', 2)"
    )
    await resources.storage.delete(kept)
    ended = await run("--apply")
    assert ended.status == 1
    assert "has no such bucket" in ended.out


async def test_lost_files_are_marked(run: Run, resources: Resources, database: Connection) -> None:
    export = await make_small_export(resources, database)
    await resources.storage.delete(files.key_of(export))
    for _ in range(2):
        ended = await run("--apply")
        assert (ended.status, ended.err) == (0, "missing file: 1\n")
    assert (await find_export(resources, export)).file_missing_at
    assert (await list_actions(database)).count("export:file_missing") == 1

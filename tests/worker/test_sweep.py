"""The sweep compares the storage with the exports both ways, and leaves other installations' objects alone."""

import datetime as dt
from uuid import uuid4

import msgspec
import pytest

from service.exports import files
from service.exports.comparison import Comparison, Mismatch
from service.formats import Format
from service.object_keys import object_key
from service.resources import Resources
from service.settings import Settings
from tests.support.exports import find_export, make_small_export
from tests.support.factories import Connection, list_actions
from tests.support.scraping import Scrape
from worker.orphans import sweep

OTHERS_MARK = "0123456789ab"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, s3_prefix=f"{uuid4().hex}/")


async def list_keys(resources: Resources) -> set[str]:
    return {key async for page in resources.storage.list_keys("exports/") for key in page}


async def measure(resources: Resources, name: str) -> float:
    content, _ = await resources.metrics.render(resources.database, "")
    return Scrape(content.decode()).value(name)


async def store_unknown(resources: Resources, mark: str) -> str:
    key = object_key(uuid4(), 1, Format.CSV, mark)
    await resources.storage._put(key, b"left behind", "text/csv")
    return key


async def test_lost_files_are_marked_until_they_are_back(resources: Resources, database: Connection) -> None:
    kept, lost = await make_small_export(resources, database), await make_small_export(resources, database)
    await database.execute("UPDATE carryout.export_jobs SET idempotency_key = 'key'")
    key = files.key_of(lost)
    async with resources.storage.open_download(key) as chunks:
        content = b"".join([chunk async for chunk in chunks])
    await resources.storage.delete(key)

    for _ in range(2):
        assert await sweep(resources)

    marked = await find_export(resources, lost)
    assert (marked.file_missing_at is None, marked.idempotency_key) == (False, None)
    assert (await find_export(resources, kept)).file_missing_at is None
    assert files.download_url(resources, marked) is None
    assert await measure(resources, "carryout_files_missing") == 1
    assert (await list_actions(database)).count("export:file_missing") == 1

    await resources.storage._put(key, content, "text/csv")
    assert await sweep(resources)

    assert files.download_url(resources, await find_export(resources, lost))
    assert await measure(resources, "carryout_files_missing") == 0
    assert (await list_actions(database)).count("export:file_found") == 1


async def test_deleted_files_are_not_missing(resources: Resources, database: Connection) -> None:
    export = await make_small_export(resources, database)
    await database.execute("UPDATE carryout.export_jobs SET expires_at = now()")
    await resources.storage.delete(files.key_of(export))
    assert await sweep(resources)
    assert (await find_export(resources, export)).file_missing_at is None


async def test_every_range_of_ids_is_compared(
    resources: Resources, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.exports.comparison.BATCH", 2)
    exports = [await make_small_export(resources, database) for _ in range(7)]
    for export in exports[1:]:
        await resources.storage.delete(files.key_of(export))
    comparison = Comparison(resources.storage, resources.exports, resources.mark, resources.connection)
    found = [(finding.mismatch, finding.job_id) async for finding in comparison.findings()]
    assert sorted(found) == sorted((Mismatch.MISSING, export.id) for export in exports[1:])


async def test_files_in_an_earlier_bucket_are_missing_here(resources: Resources, database: Connection) -> None:
    export = await make_small_export(resources, database)
    await database.execute("UPDATE carryout.export_jobs SET file_url = replace(file_url, 's3://', 's3://earlier-')")
    assert await sweep(resources)
    assert (await find_export(resources, export)).file_missing_at
    assert await measure(resources, "carryout_files_missing") == 1


async def test_unknown_objects_are_kept_for_a_lifetime(
    resources: Resources, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = await make_small_export(resources, database)
    theirs = await store_unknown(resources, OTHERS_MARK)
    unmarked = f"exports/{uuid4()}/1.csv"
    await resources.storage._put(unmarked, b"an earlier release's", "text/csv")
    ours = await store_unknown(resources, resources.mark)

    assert await sweep(resources)

    assert await list_keys(resources) == {files.key_of(export), theirs, unmarked, ours}
    assert await measure(resources, "carryout_unknown_objects") == 1

    age = dt.timedelta(seconds=resources.settings.export_ttl_seconds, days=1)
    monkeypatch.setattr("worker.orphans.UNKNOWN_SECONDS", 86_400 - age.total_seconds() - 3_600)
    assert await sweep(resources)

    assert await list_keys(resources) == {files.key_of(export), theirs, unmarked}
    assert await measure(resources, "carryout_unknown_objects") == 0


async def test_each_installation_has_its_mark(resources: Resources, database: Connection) -> None:
    export = await make_small_export(resources, database)
    mark = await database.fetchval("SELECT mark FROM carryout.installation")
    assert files.key_of(export) == f"exports/{export.id}/1-{mark}.csv"

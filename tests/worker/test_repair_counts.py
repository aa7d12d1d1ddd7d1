"""Failures and repairs are counted. Nothing is touched in a bucket that isn't ours any more."""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
import pytest
from arq.constants import in_progress_key_prefix
from structlog.testing import capture_logs

from service.backends.queue import QUEUE_NAME, open_queue
from service.backends.storage import ObjectStorage, OpenUpload
from service.bookkeeping.audit import Actor
from service.bookkeeping.exports import MAX_ATTEMPTS, Export, ExportStatus
from service.errors import ExportGoneError
from service.exports import cancellation, files
from service.formats import Format
from service.object_keys import object_key
from service.resources import Resources
from tests.support.exports import start_export
from tests.support.factories import Connection, create_user_with, list_actions
from tests.support.scraping import Scrape
from tests.support.waiting import until
from worker.expiry import _expire_file, expire_files
from worker.orphans import remove_orphans, sweep
from worker.repair import enqueue_forgotten, fail_lost, sweep_forever
from worker.running import run_export


async def ask(resources: Resources, database: Connection, *, queued: bool = True) -> Export:
    user_id = await create_user_with(database, 3)
    return await start_export(resources, user_id, queued=queued)


async def find(resources: Resources, job_id: uuid.UUID) -> Export:
    async with resources.connection() as connection:
        export = await resources.exports.find(connection, job_id)
    assert export
    return export


async def count(resources: Resources, name: str, **labels: str) -> float:
    content, _ = await resources.metrics.render(resources.database, "")
    return Scrape(content.decode()).value(name, **labels)


async def test_failed_attempts(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database)
    await database.execute("DROP TABLE public.content")
    for attempt in range(1, 4):
        await database.execute("UPDATE carryout.export_jobs SET run_after = now()")
        with capture_logs() as events:
            await run_export(resources, export.id)
        assert events[-1]["event"] == ("export_failed" if attempt == MAX_ATTEMPTS else "export_attempt_failed")
        retried = await count(resources, "carryout_exports_total", outcome="retried", format="csv")
        failed = await count(resources, "carryout_exports_total", outcome="failed", format="csv")
        assert (retried, failed) == (min(attempt, 2), attempt // 3)
        assert (await find(resources, export.id)).failures == attempt


async def test_requeued(resources: Resources, database: Connection) -> None:
    await ask(resources, database)
    await resources.queue.discard()
    started: list[Export] = []
    for requeued in (1, 1):  # then it only waits
        await database.execute("UPDATE carryout.export_jobs SET enqueued_at = NULL")
        await enqueue_forgotten(resources, started.append, is_free=lambda: False)
        assert await count(resources, "carryout_repairs_total", step="requeued") == requeued
    assert started == []


async def test_released(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database)
    queue = resources.queue._redis
    await queue.set(f"{in_progress_key_prefix}export:{export.id}:{export.attempt}", b"1")  # by a worker that is gone
    await database.execute("UPDATE carryout.export_jobs SET enqueued_at = NULL")

    await enqueue_forgotten(resources, lambda _: None, is_free=lambda: False)

    assert await count(resources, "carryout_repairs_total", step="requeued") == 1


async def test_asked_by_a_clock_that_is_ahead(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database)
    queue, entry = resources.queue._redis, f"export:{export.id}:{export.attempt}"
    await queue.zadd(QUEUE_NAME, {entry: (time.time() + 3_600) * 1_000})
    await database.execute("UPDATE carryout.export_jobs SET enqueued_at = NULL")

    await enqueue_forgotten(resources, lambda _: None, is_free=lambda: False)

    assert await queue.zscore(QUEUE_NAME, entry) <= time.time() * 1_000
    assert await count(resources, "carryout_repairs_total", step="requeued") == 1


async def test_run_here_without_redis(resources: Resources, database: Connection) -> None:
    exports = [await ask(resources, database) for _ in range(2)]
    await database.execute("UPDATE carryout.export_jobs SET enqueued_at = NULL")
    started: list[Export] = []

    async with open_queue("redis://127.0.0.1:1") as nowhere:
        await enqueue_forgotten(dataclasses.replace(resources, queue=nowhere), started.append, is_free=lambda: False)

    assert {export.id for export in started} == {export.id for export in exports}
    assert await count(resources, "carryout_repairs_total", step="requeued") == 0


async def test_run_by_a_free_worker_if_redis_takes_entries_and_loses_them(
    resources: Resources, database: Connection
) -> None:
    exports = [await ask(resources, database) for _ in range(2)]
    await database.execute("UPDATE carryout.export_jobs SET enqueued_at = NULL")
    started: list[Export] = []

    await enqueue_forgotten(resources, started.append, is_free=lambda: not started)

    assert len(started) == 1
    assert started[0].id in {export.id for export in exports}


async def test_lost(resources: Resources, database: Connection) -> None:
    await ask(resources, database)
    await database.execute(
        "UPDATE carryout.export_jobs"
        " SET status = 'processing', attempt = 3, failures = 2, started_at = now(), lease_expires_at = now()"
    )

    await fail_lost(resources)

    assert (await list_actions(database))[-1] == "export:failed"
    assert await database.fetchval("SELECT kind FROM carryout.export_notifications") == "failed"
    assert await count(resources, "carryout_repairs_total", step="lost") == 1
    assert await count(resources, "carryout_exports_total", outcome="failed", format="csv") == 1


async def test_expired(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database, queued=False)
    await database.execute("UPDATE carryout.export_jobs SET expires_at = now()")

    await expire_files(resources)
    await expire_files(resources)
    await _expire_file(resources, export)  # as one that claimed it long ago

    assert (await list_actions(database)).count("export:expired") == 1
    assert await count(resources, "carryout_repairs_total", step="expired") == 1


async def test_orphans(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database, queued=False)
    await database.execute("UPDATE carryout.export_jobs SET attempt = 3")
    storage = resources.storage
    for attempt in (1, 2):
        await storage._put(object_key(export.id, attempt, Format.CSV, resources.mark), b"left behind", "text/csv")
    await storage._begin(object_key(export.id, 2, Format.CSV, resources.mark), "text/csv")
    other = await ask(resources, database)
    async with resources.connection() as connection:
        await resources.exports.claim(connection, other.id)
    await storage._put(object_key(other.id, 2, Format.CSV, resources.mark), b"left behind", "text/csv")
    owned = await storage._begin(object_key(other.id, 1, Format.CSV, resources.mark), "text/csv")

    await remove_orphans(resources, export.id)

    assert await count(resources, "carryout_repairs_total", step="orphaned_upload") == 1
    assert await count(resources, "carryout_repairs_total", step="orphaned_object") == 2

    await remove_orphans(resources, other.id)

    assert await count(resources, "carryout_repairs_total", step="orphaned_object") == 3
    uploads = [upload async for page in storage.list_uploads(f"exports/{other.id}/") for upload in page]
    assert [upload.upload_id for upload in uploads] == [owned]
    await storage.abort_upload(uploads[0])


async def test_one_worker_sweeps_at_a_time(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database, queued=False)
    left = object_key(export.id, 7, Format.CSV, resources.mark)
    await resources.storage._put(left, b"left behind", "text/csv")
    killed = uuid.uuid4()

    async with resources.connection() as connection:
        assert await resources.exports.take_sweep(connection, killed, seconds=600)
    assert not await sweep(resources)
    assert await count(resources, "carryout_repairs_total", step="orphaned_object") == 0

    await database.execute("UPDATE carryout.sweep_lease SET expires_at = now()")
    assert await sweep(resources)
    assert await count(resources, "carryout_repairs_total", step="orphaned_object") == 1
    assert await sweep(resources)  # the one before has ended its lease


async def test_a_long_sweep_keeps_its_lease(
    resources: Resources, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.orphans.LEASE_SECONDS", 3.0)
    taken = "SELECT expires_at FROM carryout.sweep_lease WHERE expires_at > now()"
    seen: set[object] = set()

    async def list_slowly(_prefix: str) -> AsyncIterator[list[OpenUpload]]:
        while len(seen) < 3:
            seen.add(await database.fetchval(taken))
            assert not await sweep(resources)
            await asyncio.sleep(0.02)
        yield []

    monkeypatch.setattr(resources.storage, "list_uploads", list_slowly)
    assert await sweep(resources)
    assert None not in seen


async def test_idempotency_keys_are_forgotten_with_the_sweep(resources: Resources, database: Connection) -> None:
    await ask(resources, database)
    await database.execute(
        "UPDATE carryout.export_jobs SET idempotency_key = 'key', created_at = now() - interval '24 hours'"
    )
    sweeping = asyncio.create_task(sweep_forever(resources))
    await until(lambda: database.fetchval("SELECT idempotency_key IS NULL FROM carryout.export_jobs"))
    sweeping.cancel()
    with suppress(asyncio.CancelledError):
        await sweeping


async def test_a_file_behind_an_earlier_prefix_is_left_alone(resources: Resources, database: Connection) -> None:
    """Also if it begins as our keys do."""
    made = resources.storage
    earlier = ObjectStorage(made._client, made._signer, made._bucket, prefix="exports/eu/")
    before = dataclasses.replace(resources, storage=earlier)
    export = await ask(before, database, queued=False)

    async with resources.connection() as connection:
        with pytest.raises(ExportGoneError, match="not available any more"):
            await files.get_file(resources, connection, export.id)
    await cancellation.cancel_or_delete(resources, export, Actor("link"))
    await expire_files(resources)

    kept = await find(resources, export.id)
    assert (kept.expired, kept.file_deleted_at) == (True, None)
    await expire_files(before)
    assert (await find(resources, export.id)).file_deleted_at
    assert [key async for keys in earlier.list_keys("") for key in keys] == []


async def test_another_bucket_is_left_alone(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database, queued=False)
    settings = msgspec.structs.replace(resources.settings, s3_bucket="another")
    storage = ObjectStorage(resources.storage._client, resources.storage._signer, settings.s3_bucket)
    moved = dataclasses.replace(resources, settings=settings, storage=storage)

    async with moved.connection() as connection:
        with pytest.raises(ExportGoneError, match="not available any more"):
            await files.get_file(moved, connection, export.id)
    await cancellation.cancel_or_delete(moved, export, Actor("link"))
    await expire_files(moved)

    kept = await find(resources, export.id)
    assert (kept.status, kept.expired, kept.file_deleted_at) == (ExportStatus.COMPLETED, True, None)
    async with resources.storage.open_download(files.key_of(kept)) as chunks:
        assert len(b"".join([chunk async for chunk in chunks])) == kept.size_bytes
    await expire_files(resources)
    assert (await find(resources, export.id)).file_deleted_at

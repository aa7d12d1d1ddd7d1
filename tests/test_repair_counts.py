"""What failed and what was put right is counted; and nothing is touched in a bucket that isn't ours any more."""

import asyncio
import dataclasses
import time
import uuid
from contextlib import suppress

import msgspec
import pytest
from arq.constants import in_progress_key_prefix
from structlog.testing import capture_logs

from service import exporting, requesting
from service.audit import Actor
from service.bootstrap import Resources
from service.errors import UnavailableError
from service.exports import MAX_ATTEMPTS, Export, ExportStatus, object_key
from service.jobs import QUEUE_NAME, open_queue
from tests.factories import Connection, create_user_with, list_actions
from tests.scraping import Scrape
from tests.waiting import until
from worker.orphans import SWEEP_LOCK, remove_orphans, sweep
from worker.repair import _expire_file, enqueue_forgotten, expire_files, fail_lost, sweep_forever
from worker.running import run_export


async def ask(resources: Resources, database: Connection, *, respond_async: bool = True) -> Export:
    user_id = await create_user_with(database, 3)
    request = requesting.ExportRequest(user_id, "csv", Actor("user", str(user_id)), respond_async=respond_async)
    export, _ = await requesting.request_export(resources, request)
    return export


async def find(resources: Resources, job_id: uuid.UUID) -> Export:
    async with exporting.open_connection(resources) as connection:
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
        await enqueue_forgotten(resources, started.append)
        assert await count(resources, "carryout_repairs_total", step="requeued") == requeued
    assert started == []


async def test_released(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database)
    queue = resources.queue._redis
    await queue.set(f"{in_progress_key_prefix}export:{export.id}:{export.attempt}", b"1")  # by a worker that is gone
    await database.execute("UPDATE carryout.export_jobs SET enqueued_at = NULL")

    await enqueue_forgotten(resources, lambda _: None)

    assert await count(resources, "carryout_repairs_total", step="requeued") == 1


async def test_asked_by_a_clock_that_is_ahead(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database)
    queue, entry = resources.queue._redis, f"export:{export.id}:{export.attempt}"
    await queue.zadd(QUEUE_NAME, {entry: (time.time() + 3_600) * 1_000})
    await database.execute("UPDATE carryout.export_jobs SET enqueued_at = NULL")

    await enqueue_forgotten(resources, lambda _: None)

    assert await queue.zscore(QUEUE_NAME, entry) <= time.time() * 1_000
    assert await count(resources, "carryout_repairs_total", step="requeued") == 1


async def test_run_here_without_redis(resources: Resources, database: Connection) -> None:
    exports = [await ask(resources, database) for _ in range(2)]
    await database.execute("UPDATE carryout.export_jobs SET enqueued_at = NULL")
    started: list[Export] = []

    async with open_queue("redis://127.0.0.1:1") as nowhere:
        await enqueue_forgotten(dataclasses.replace(resources, queue=nowhere), started.append)

    assert {export.id for export in started} == {export.id for export in exports}
    assert await count(resources, "carryout_repairs_total", step="requeued") == 0


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
    export = await ask(resources, database, respond_async=False)
    await database.execute("UPDATE carryout.export_jobs SET expires_at = now()")

    await expire_files(resources)
    await expire_files(resources)
    await _expire_file(resources, export)  # as one that claimed it long ago

    assert (await list_actions(database)).count("export:expired") == 1
    assert await count(resources, "carryout_repairs_total", step="expired") == 1


async def test_orphans(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database, respond_async=False)
    await database.execute("UPDATE carryout.export_jobs SET attempt = 3")
    storage = resources.storage
    for attempt in (1, 2):
        await storage._put(object_key(export.id, attempt, "csv"), b"left behind", "text/csv")
    await storage._begin(object_key(export.id, 2, "csv"), "text/csv")
    other = await ask(resources, database)
    async with exporting.open_connection(resources) as connection:
        await resources.exports.claim(connection, other.id)
    await storage._put(object_key(other.id, 2, "csv"), b"left behind", "text/csv")
    owned = await storage._begin(object_key(other.id, 1, "csv"), "text/csv")

    await remove_orphans(resources, export.id)

    assert await count(resources, "carryout_repairs_total", step="orphaned_upload") == 1
    assert await count(resources, "carryout_repairs_total", step="orphaned_object") == 2

    await remove_orphans(resources, other.id)

    assert await count(resources, "carryout_repairs_total", step="orphaned_object") == 3
    uploads = [upload async for page in storage.list_uploads(f"exports/{other.id}/") for upload in page]
    assert [upload.upload_id for upload in uploads] == [owned]
    await storage.abort_upload(uploads[0])


async def test_one_worker_sweeps_at_a_time(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database, respond_async=False)
    left = object_key(export.id, 7, "csv")
    await resources.storage._put(left, b"left behind", "text/csv")

    await database.fetchval("SELECT pg_advisory_lock($1)", SWEEP_LOCK)
    assert not await sweep(resources)
    assert await count(resources, "carryout_repairs_total", step="orphaned_object") == 0
    await database.fetchval("SELECT pg_advisory_unlock($1)", SWEEP_LOCK)
    assert await sweep(resources)
    assert await count(resources, "carryout_repairs_total", step="orphaned_object") == 1


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


async def test_another_bucket_is_left_alone(resources: Resources, database: Connection) -> None:
    export = await ask(resources, database, respond_async=False)
    moved = dataclasses.replace(resources, settings=msgspec.structs.replace(resources.settings, s3_bucket="another"))

    async with exporting.open_connection(moved) as connection:
        with pytest.raises(UnavailableError, match="another bucket"):
            await exporting.get_file(moved, connection, export.id)
    await exporting.cancel_or_delete(moved, export, Actor("link"))
    await expire_files(moved)

    kept = await find(resources, export.id)
    assert (kept.status, kept.expired, kept.file_deleted_at) == (ExportStatus.COMPLETED, True, None)
    async with resources.storage.open_download(exporting.key_of(kept)) as chunks:
        assert len(b"".join([chunk async for chunk in chunks])) == kept.size_bytes
    await expire_files(resources)
    assert (await find(resources, export.id)).file_deleted_at

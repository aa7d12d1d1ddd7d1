"""What puts right what was left half done. It reads PostgreSQL and S3 alone, and any number of workers may run it.

What waits for S3 is apart from what asks PostgreSQL: a storage that hangs must not hold up forgotten exports.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from service import exporting
from service.audit import SYSTEM, AuditAction
from service.bootstrap import Resources
from service.errors import OutageError, UnavailableError
from service.exports import Export
from service.troubles import Trouble
from worker.orphans import sweep

REPAIR_SECONDS = 1.0
BATCH = 100
DELETION_SECONDS = 60.0  # longer than the storage's answer may take
LONGEST_KEPT_SECONDS = 86_400.0  # between two tries

logger = structlog.get_logger()


async def repair_forever(resources: Resources, run_here: Callable[[Export], None], beat: Callable[[], None]) -> None:
    """`run_here` is given the exports that Redis can't carry; `beat` is called again and again."""
    enqueueing, failing = _trouble("enqueue forgotten"), _trouble("fail lost")
    while True:
        beat()
        async with enqueueing.noting(*exporting.FAILURES):
            await enqueue_forgotten(resources, run_here)
        beat()
        async with failing.noting(*exporting.FAILURES):
            await fail_lost(resources)
        await asyncio.sleep(REPAIR_SECONDS)


async def expire_forever(resources: Resources) -> None:
    expiring = _trouble("expire files")
    while True:
        async with expiring.noting(*exporting.FAILURES):
            await expire_files(resources)
        await asyncio.sleep(REPAIR_SECONDS)


async def sweep_forever(resources: Resources) -> None:
    forgetting, sweeping = _trouble("forget idempotency keys"), _trouble("sweep")
    while True:
        async with forgetting.noting(*exporting.FAILURES):
            await forget_idempotency_keys(resources)
        async with sweeping.noting(*exporting.FAILURES):
            await _sweep(resources)
        await asyncio.sleep(resources.settings.sweep_seconds)


def _trouble(step: str) -> Trouble:
    """One step's trouble keeps no other from being done, and all are done again soon."""
    return Trouble("repair_postponed", "repair_resumed", step=step)


async def _sweep(resources: Resources) -> None:
    if await sweep(resources):
        resources.metrics.swept.set_to_current_time()


async def enqueue_forgotten(resources: Resources, run_here: Callable[[Export], None]) -> None:
    async with exporting.open_transaction(resources) as connection:
        forgotten = await resources.exports.take_forgotten(
            connection, after_seconds=resources.settings.lease_seconds, limit=BATCH
        )
    for export in await _requeue(resources, forgotten):
        run_here(export)


async def _requeue(resources: Resources, forgotten: list[Export]) -> list[Export]:
    """Those that Redis can't carry. What it still holds wasn't forgotten: it only waits its turn."""
    for number, export in enumerate(forgotten):
        try:
            added = await resources.queue.enqueue_export(export.id, export.attempt)
        except OutageError as error:
            await logger.awarning("enqueue_failed", job_id=str(export.id), exc_info=error)
            return forgotten[number:]
        resources.metrics.repairs.labels("requeued").inc(added)
    return []


async def fail_lost(resources: Resources) -> None:
    """End what was lost with its worker too often. The sweep removes what it stored."""
    async with exporting.open_transaction(resources) as connection:
        lost = await resources.exports.fail_lost(connection, message=exporting.FAILED_MESSAGE, limit=BATCH)
        for export in lost:
            await exporting.record_failure(resources, connection, export)
    for export in lost:
        resources.metrics.repairs.labels("lost").inc()
        resources.metrics.exports.labels("failed", export.format).inc()
        await logger.aerror("export_lost", job_id=str(export.id), failures=export.failures)


async def expire_files(resources: Resources) -> None:
    """Delete the files whose time is over. An outage ends it; what the storage keeps holds up no other."""
    for _ in range(BATCH):
        export = await _claim_ended_file(resources)
        if export is None:
            return
        try:
            await _expire_file(resources, export)
        except OutageError:
            await _put_off(resources, export, longest_seconds=0)
            raise  # the others would wait in vain, too
        except UnavailableError as error:
            await _put_off(resources, export, longest_seconds=LONGEST_KEPT_SECONDS)
            await logger.awarning("file_kept", job_id=str(export.id), exc_info=error)


async def _claim_ended_file(resources: Resources) -> Export | None:
    async with exporting.open_transaction(resources) as connection:
        return await resources.exports.claim_ended_file(
            connection, bucket=resources.settings.s3_bucket, seconds=DELETION_SECONDS
        )


async def _put_off(resources: Resources, export: Export, *, longest_seconds: float) -> None:
    with suppress(UnavailableError):  # the claim runs out then
        async with exporting.open_transaction(resources) as connection:
            await resources.exports.put_off_deletion(connection, export, longest_seconds=longest_seconds)


async def _expire_file(resources: Resources, export: Export) -> None:
    await resources.storage.delete(exporting.key_of(export))
    async with exporting.open_transaction(resources) as connection:
        if await resources.exports.mark_file_deleted(connection, export.id):
            await exporting.record(resources, connection, SYSTEM, AuditAction.EXPIRED, export)
            resources.metrics.repairs.labels("expired").inc()
            await logger.ainfo("export_expired", job_id=str(export.id))


async def forget_idempotency_keys(resources: Resources) -> None:
    async with exporting.open_transaction(resources) as connection:
        await resources.exports.forget_old_idempotency_keys(connection)

"""Repair: finish or undo work that a crash or an outage interrupted. It reads only PostgreSQL and S3, and any number of
workers may run it at once.

Steps that call S3 have their own loops, so that a hanging storage doesn't delay forgotten exports.
"""

import asyncio
from collections.abc import Callable

import structlog

from service.bookkeeping.exports import Export
from service.errors import OutageError
from service.exports import attempts
from service.resources import Resources
from service.telemetry.outages import OutageLog
from worker.orphans import sweep

REPAIR_SECONDS = 1.0
BATCH = 100

logger = structlog.get_logger()


async def repair_forever(
    resources: Resources, run_here: Callable[[Export], None], is_free: Callable[[], bool], beat: Callable[[], None]
) -> None:
    """`run_here` runs exports that Redis doesn't take, or takes and doesn't give to this worker although it `is_free`.

    `beat` is called in every iteration.
    """
    enqueueing, failing = outages_of("enqueue forgotten"), outages_of("fail lost")
    while True:
        beat()
        async with enqueueing.catching(*attempts.FAILURES):
            await enqueue_forgotten(resources, run_here, is_free)
        beat()
        async with failing.catching(*attempts.FAILURES):
            await fail_lost(resources)
        await asyncio.sleep(REPAIR_SECONDS)


async def sweep_forever(resources: Resources) -> None:
    forgetting, sweeping = outages_of("forget idempotency keys"), outages_of("sweep")
    while True:
        async with forgetting.catching(*attempts.FAILURES):
            await forget_idempotency_keys(resources)
        async with sweeping.catching(*attempts.FAILURES):
            await _sweep(resources)
        await asyncio.sleep(resources.settings.sweep_seconds)


def outages_of(step: str) -> OutageLog:
    """Each step has its own outage log: a failing step doesn't block the others, and every step is retried."""
    return OutageLog("repair_postponed", "repair_resumed", step=step)


async def _sweep(resources: Resources) -> None:
    if await sweep(resources):
        resources.metrics.swept.set_to_current_time()


async def enqueue_forgotten(
    resources: Resources, run_here: Callable[[Export], None], is_free: Callable[[], bool]
) -> None:
    """A worker that is free takes some itself: others may remove entries from the same Redis, or mark them as taken."""
    async with resources.transaction() as connection:
        forgotten = await resources.exports.take_forgotten(
            connection, after_seconds=resources.settings.lease_seconds, limit=BATCH
        )
    refused = await _requeue(resources, forgotten)
    for export in forgotten:
        if export in refused or is_free():
            run_here(export)


async def _requeue(resources: Resources, forgotten: list[Export]) -> list[Export]:
    """Enqueue the exports; return those that Redis didn't take. An entry still queued was not lost, it only waits."""
    for number, export in enumerate(forgotten):
        try:
            added = await resources.queue.enqueue_export(export.id, export.attempt)
        except OutageError as error:
            await logger.awarning("enqueue_failed", job_id=str(export.id), exc_info=error)
            return forgotten[number:]
        resources.metrics.repairs.labels("requeued").inc(added)
    return []


async def fail_lost(resources: Resources) -> None:
    """Fail exports that lost their workers too often. The sweep removes their objects."""
    for export in await attempts.fail_lost(resources, limit=BATCH):
        resources.metrics.repairs.labels("lost").inc()
        await logger.aerror("export_lost", job_id=str(export.id), failures=export.failures)


async def forget_idempotency_keys(resources: Resources) -> None:
    async with resources.transaction() as connection:
        await resources.exports.forget_old_idempotency_keys(connection)

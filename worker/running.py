"""One attempt at one export: claimed, kept alive by a heartbeat, and ended in exactly one way."""

import asyncio
import datetime as dt
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from service import exporting
from service.audit import SYSTEM, AuditAction
from service.bootstrap import Resources
from service.database import CONNECTION_LOST
from service.errors import (
    ExportSupersededError,
    ExportTooLargeError,
    OutageError,
    ServiceError,
    SubjectNotFoundError,
    UnavailableError,
)
from service.exports import MAX_ATTEMPTS, Export, ExportStatus
from service.streaming import Document
from worker.orphans import clean_up

HEARTBEAT_SECONDS = 0.5
BACKOFF_SECONDS = 10.0
BACKOFF_FACTOR = 6.0
# An outage costs no try: the export waits for its end, a minute between two attempts, for a day.
LONGEST_BACKOFF_SECONDS = 60.0
GIVE_UP_AFTER_SECONDS = 86_400.0
# No second attempt would end otherwise.
FINAL_ERRORS = (SubjectNotFoundError, ExportTooLargeError)

logger = structlog.get_logger()


async def run_export(resources: Resources, job_id: uuid.UUID) -> None:
    """Claim the export and make its file; whatever happens is recorded, and nothing is raised.

    Nothing to claim is no error: the queue may ask twice, or too late. If this is cancelled, the export is handed
    back at once and costs no try. If even recording fails, the lease runs out and another worker goes on.
    """
    try:
        export = await _claim(resources, job_id)
        if export is not None:
            with structlog.contextvars.bound_contextvars(attempt=export.attempt, **exporting.log_context(export)):
                await _attempt(resources, export)
    except exporting.FAILURES as error:
        await logger.aerror("export_unrecorded", job_id=str(job_id), exc_info=error)


async def _claim(resources: Resources, job_id: uuid.UUID) -> Export | None:
    async with exporting.open_transaction(resources) as connection:
        export = await resources.exports.claim(connection, job_id)
        if export is not None:
            await exporting.record(resources, connection, SYSTEM, AuditAction.STARTED, export)
    return export


async def _attempt(resources: Resources, export: Export) -> None:
    await logger.ainfo("export_started")
    try:
        completed = await _make(resources, export)
    except asyncio.CancelledError:
        await asyncio.shield(_hand_back(resources, export))
    except ExportSupersededError:
        await logger.ainfo("export_superseded")
        await clean_up(resources, export)
    except Exception as error:  # noqa: BLE001 (an unforeseen failure is a failure of the attempt, too)
        await _retry_or_fail(resources, export, error)
    else:
        await logger.ainfo("export_completed", records=completed.record_count, size_bytes=completed.size_bytes)


async def _make(resources: Resources, export: Export) -> Export:
    document: Document | None = None

    async def make() -> Export:
        nonlocal document
        if export.attempt > 1:
            await clean_up(resources, export)
        async with exporting.open_user_document(resources, export.user_id) as document:
            file = await exporting.store_file(resources, export, document)
        return await exporting.complete(resources, export, file)

    with resources.tracer.entry("export run", "consumer", export.traceparent) as span:
        span.set({"carryout.job_id": str(export.id), "carryout.attempt": export.attempt})
        return await _while_leased(resources, export, make(), lambda: document.records_done if document else 0)


async def _while_leased(
    resources: Resources, export: Export, work: Coroutine[Any, Any, Export], records_done: Callable[[], int]
) -> Export:
    """The result of `work`, which is stopped once the lease is lost (ExportSupersededError or OutageError)."""
    working = asyncio.create_task(work)
    beating = asyncio.create_task(_keep_lease(resources, export, records_done))
    try:
        await asyncio.wait({working, beating}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            beating.result()  # raises: only losing the lease ends it
        return await working
    finally:
        for task in (beating, working):
            task.cancel()
        await asyncio.gather(beating, working, return_exceptions=True)


async def _keep_lease(resources: Resources, export: Export, records_done: Callable[[], int]) -> None:
    """Renew the lease until it is lost: taken by another (ExportSupersededError), or run out (OutageError)."""
    loop = asyncio.get_running_loop()
    lease_seconds = resources.settings.lease_seconds
    lost_at = loop.time() + lease_seconds
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        renewing_at = loop.time()
        try:
            async with asyncio.timeout_at(lost_at), exporting.open_transaction(resources) as connection:
                await resources.exports.renew_lease(connection, export, records_done=records_done())
            lost_at = renewing_at + lease_seconds
        except (UnavailableError, *CONNECTION_LOST) as error:
            if loop.time() >= lost_at:
                raise OutageError("The lease could not be renewed in time", server="postgresql") from error


async def _hand_back(resources: Resources, export: Export) -> None:
    try:
        async with exporting.open_transaction(resources) as connection:
            pending = await resources.exports.hand_back(connection, export)
            await exporting.record(
                resources, connection, SYSTEM, AuditAction.RETRIED, pending, outcome="worker stopping"
            )
        await exporting.enqueue(resources, pending)
        await logger.ainfo("export_handed_back")
    except ExportSupersededError:
        await logger.ainfo("export_superseded")


async def _retry_or_fail(resources: Resources, export: Export, error: Exception) -> None:
    cause = f"{type(error).__name__}: {error.detail}" if isinstance(error, ServiceError) else type(error).__name__
    try:
        if isinstance(error, FINAL_ERRORS):
            left = await exporting.fail(resources, export, message=error.detail, cause=cause)
        elif isinstance(error, OutageError) and _age_seconds(export) < GIVE_UP_AFTER_SECONDS:
            delay_seconds = min(BACKOFF_SECONDS * export.attempt, LONGEST_BACKOFF_SECONDS)
            left = await exporting.retry_later(resources, export, after_seconds=delay_seconds, cause=cause, failures=0)
        elif export.failures + 1 >= MAX_ATTEMPTS:
            left = await exporting.fail(resources, export, message=exporting.FAILED_MESSAGE, cause=cause)
        else:
            delay_seconds = BACKOFF_SECONDS * BACKOFF_FACTOR**export.failures
            left = await exporting.retry_later(resources, export, after_seconds=delay_seconds, cause=cause)
        await clean_up(resources, export)
        event = "export_failed" if left.status is ExportStatus.FAILED else "export_attempt_failed"
        await logger.aerror(event, failures=left.failures, exc_info=error)
    except ExportSupersededError:
        await logger.ainfo("export_superseded")


def _age_seconds(export: Export) -> float:
    return (dt.datetime.now(dt.UTC) - export.created_at).total_seconds()

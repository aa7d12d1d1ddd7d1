"""One attempt at one export: claimed, kept leased by a heartbeat, and ended in exactly one way."""

import asyncio
import datetime as dt
import uuid

import structlog

from service.backends.failures import describe_for_operators
from service.bookkeeping.exports import MAX_ATTEMPTS, Export, ExportStatus
from service.documents.streaming import Document
from service.errors import (
    ExportSupersededError,
    ExportTooLargeError,
    OutageError,
    ServiceError,
    SubjectNotFoundError,
)
from service.exports import attempts
from service.resources import Resources
from worker.lease import while_leased
from worker.orphans import clean_up

BACKOFF_SECONDS = 10.0
BACKOFF_FACTOR = 6.0
# Outages don't use up attempts: the export is retried every minute for up to a day.
LONGEST_BACKOFF_SECONDS = 60.0
GIVE_UP_AFTER_SECONDS = 86_400.0
# Retrying can't change these outcomes.
FINAL_ERRORS = (SubjectNotFoundError, ExportTooLargeError)

logger = structlog.get_logger()


async def run_export(resources: Resources, job_id: uuid.UUID) -> None:
    """Claim the export and make its file. Every outcome is recorded; nothing is raised.

    Finding nothing to claim is not an error: the queue may deliver an id twice, or late. On cancellation the export is
    handed back at once, and the attempt isn't counted as a failure. If recording the outcome fails too, the lease
    expires and another worker takes over.
    """
    try:
        export = await resources.exports.claim(resources.autocommit, job_id)
        if export is not None:
            with structlog.contextvars.bound_contextvars(attempt=export.attempt, **export.log_context):
                await _attempt(resources, export)
    except attempts.FAILURES as error:
        await logger.aerror("export_unrecorded", job_id=str(job_id), exc_info=error)


async def _attempt(resources: Resources, export: Export) -> None:
    await logger.ainfo("export_started")
    try:
        completed = await _make(resources, export)
    except asyncio.CancelledError:
        await asyncio.shield(_hand_back(resources, export))
    except ExportSupersededError:
        await logger.ainfo("export_superseded")
        await clean_up(resources, export)
    except Exception as error:  # noqa: BLE001 (an unexpected error fails the attempt, too)
        await _retry_or_fail(resources, export, error)
    else:
        await logger.ainfo("export_completed", records=completed.record_count, size_bytes=completed.size_bytes)


async def _make(resources: Resources, export: Export) -> Export:
    document: Document | None = None

    async def make() -> Export:
        nonlocal document
        if export.attempt > 1:
            await clean_up(resources, export)
        async with attempts.open_user_document(resources, export.spec) as document:
            return await attempts.make(resources, export, document)

    with resources.tracer.entry("export run", "consumer", export.traceparent) as span:
        span.set({"carryout.job_id": str(export.id), "carryout.attempt": export.attempt})
        return await while_leased(resources, export, make(), lambda: attempts.progress_of(document))


async def _hand_back(resources: Resources, export: Export) -> None:
    try:
        pending = await resources.exports.hand_back(resources.autocommit, export)
        await attempts.enqueue(resources, pending)
        await logger.ainfo("export_handed_back")
    except ExportSupersededError:
        await logger.ainfo("export_superseded")


async def _retry_or_fail(resources: Resources, export: Export, error: Exception) -> None:
    name = type(error).__name__
    cause = f"{name}: {describe_for_operators(error)}" if isinstance(error, ServiceError) else name
    try:
        if isinstance(error, FINAL_ERRORS):
            left = await attempts.fail(resources, export, message=error.detail, cause=cause)
        elif isinstance(error, OutageError) and _age_seconds(export) < GIVE_UP_AFTER_SECONDS:
            delay_seconds = min(BACKOFF_SECONDS * export.attempt, LONGEST_BACKOFF_SECONDS)
            left = await attempts.retry_later(resources, export, after_seconds=delay_seconds, cause=cause, failures=0)
        elif export.failures + 1 >= MAX_ATTEMPTS:
            left = await attempts.fail(resources, export, message=attempts.FAILED_MESSAGE, cause=cause)
        else:
            delay_seconds = BACKOFF_SECONDS * BACKOFF_FACTOR**export.failures
            left = await attempts.retry_later(resources, export, after_seconds=delay_seconds, cause=cause)
        await clean_up(resources, export)
        event = "export_failed" if left.status is ExportStatus.FAILED else "export_attempt_failed"
        await logger.aerror(event, failures=left.failures, exc_info=error)
    except ExportSupersededError:
        await logger.ainfo("export_superseded")


def _age_seconds(export: Export) -> float:
    return (dt.datetime.now(dt.UTC) - export.created_at).total_seconds()

"""Requests for exports. A small export is made at once, a larger one by a worker."""

import asyncio
from contextlib import suppress

import structlog

from service.bookkeeping.exports import Export, ExportRequest
from service.documents.streaming import Document
from service.errors import ExportSupersededError, ExportTooLargeError, SubjectNotFoundError, UnavailableError
from service.export_spec import ExportSpec
from service.exports import attempts
from service.exports.admission import Admission, admission_of
from service.resources import Resources

RETRY_AFTER_FAILURE_SECONDS = 2.0
# Counting holds a connection, and one user's parallel requests must not take them all. Waiting holds none.
MUTEX_TIMEOUT_SECONDS = 30.0
# A client that prefers a queued export doesn't wait longer for the count, which the worker repeats anyway.
ASYNC_COUNT_SECONDS = 1.0

logger = structlog.get_logger()


async def request_export(resources: Resources, request: ExportRequest) -> Export:
    """The export: a new one, or the one that an earlier request with the same idempotency key made.

    A small export is returned completed, a larger one pending. Raises ExportInProgressError, ExportTooLargeError,
    RateLimitedError, IdempotencyConflictError, SubjectNotFoundError and UnavailableError; no export is accepted then.
    """
    async with resources.user_mutex.acquire(request.spec.user_id, timeout_seconds=MUTEX_TIMEOUT_SECONDS) as release:
        admission = admission_of(resources, request)
        if earlier := await admission.check(resources.autocommit, request):
            return earlier
        if request.respond_async:
            return await _create_queued(resources, admission, request)
        async with attempts.open_user_document(resources, request.spec, suggest_ranges=True) as document:
            records = document.records_total
            queued = request.spec.format.is_package or records >= resources.settings.small_export_records
            if queued:
                await document.end_snapshot()  # the worker takes one of its own
            export, is_new = await admission.admit(resources.autocommit, request, queued=queued, records=records)
            release()
            if is_new and not queued:
                return await _make_at_once(resources, export, document)
    if is_new:
        await attempts.enqueue(resources, export)
    return export


async def _create_queued(resources: Resources, admission: Admission, request: ExportRequest) -> Export:
    records = await _count_in_time(resources, request.spec)
    export, is_new = await admission.admit(resources.autocommit, request, queued=True, records=records)
    if is_new:
        await attempts.enqueue(resources, export)
    return export


async def _count_in_time(resources: Resources, spec: ExportSpec) -> int:
    """The number of records or, if counting takes too long, the most that an export may have."""
    try:
        async with asyncio.timeout(ASYNC_COUNT_SECONDS), attempts.open_user_document(resources, spec) as document:
            return document.records_total
    except TimeoutError:
        return resources.settings.max_export_records
    except ExportTooLargeError:
        async with attempts.open_user_document(resources, spec, suggest_ranges=True) as document:
            return document.records_total  # some were deleted meanwhile


async def _make_at_once(resources: Resources, export: Export, document: Document) -> Export:
    """Store the file from the snapshot that counted it, well before the lease expires."""
    try:
        return await attempts.make(
            resources, export, document, store_within_seconds=resources.settings.lease_seconds / 2
        )
    except SubjectNotFoundError as error:
        await attempts.fail(resources, export, message=error.detail, cause="the user was erased")
        raise
    except attempts.FAILURES as error:
        return await _postpone(resources, export, error)
    finally:
        with suppress(*attempts.FAILURES):  # what becomes of the export is known
            await document.end_snapshot()


async def _postpone(resources: Resources, export: Export, error: Exception) -> Export:
    """Leave the export to a worker, with all its attempts: now or, if recording fails, when the lease expires."""
    await logger.aerror("export_postponed", job_id=str(export.id), exc_info=error)
    with suppress(UnavailableError):
        try:
            return await attempts.retry_later(
                resources,
                export,
                after_seconds=RETRY_AFTER_FAILURE_SECONDS,
                cause=type(error).__name__,
                failures=0,
            )
        except ExportSupersededError:
            return await resources.exports.find(resources.autocommit, export.id) or export
    return export

"""What a user asks for: an export that is made at once where it is small, and by a worker where it is not."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from service.audit import SYSTEM, Actor, AuditAction
from service.bootstrap import Resources
from service.database import Connection, UserId
from service.encoders import Format
from service.errors import (
    ExportInProgressError,
    ExportSupersededError,
    IdempotencyConflictError,
    SubjectNotFoundError,
    UnavailableError,
)
from service.exporting import (
    FAILURES,
    complete,
    enqueue,
    fail,
    open_connection,
    open_transaction,
    open_user_document,
    record,
    retry_later,
    store_file,
)
from service.exports import Export, FileFacts
from service.streaming import Document

RETRY_AFTER_FAILURE_SECONDS = 2.0
# Counting takes a connection, and time: one user's requests, however many, mustn't take all of them. To wait takes
# nothing from anybody.
TURN_SECONDS = 30.0

logger = structlog.get_logger()


class ExportRequest(msgspec.Struct, frozen=True):
    """What a user asks for. `actor` says who and from where; the rest of the request's headers decide how."""

    user_id: UserId
    format: Format
    actor: Actor
    respond_async: bool = False
    idempotency_key: str | None = None
    traceparent: str | None = None


async def request_export(resources: Resources, request: ExportRequest) -> tuple[Export, bool]:
    """The export the request makes, or that its idempotency key made before (then the second value is False).

    A small one comes back completed, a larger one pending. Raises ExportInProgressError, ExportTooLargeError,
    RateLimitedError, IdempotencyConflictError, SubjectNotFoundError and UnavailableError; then nothing was accepted.
    """
    async with resources.turns.take(request.user_id, timeout_seconds=TURN_SECONDS) as end_turn:
        return await _request_export(resources, request, end_turn)


async def _request_export(
    resources: Resources, request: ExportRequest, end_turn: Callable[[], None]
) -> tuple[Export, bool]:
    # One snapshot: between two an export might appear that the request's own key has just made, and refuse it.
    async with open_connection(resources) as connection, connection.transaction(isolation="repeatable_read"):
        if earlier := await _admit(resources, connection, request):
            return earlier, False
    fresh, file = False, None
    try:
        async with open_user_document(resources, request.user_id) as document:
            small = document.records_total < resources.settings.small_export_records
            queued = request.respond_async or not small
            export, fresh = await _accept(resources, request, document.records_total, queued=queued)
            end_turn()
            if fresh and not queued:
                file = await _store_in_time(resources, export, document)
    except FAILURES as error:
        if not fresh:
            raise
        if not queued and not file:
            await _postpone(resources, export, error)
    if file:
        export = await _complete_at_once(resources, export, file)
    elif fresh:
        export = await _find_current(resources, export)
        await enqueue(resources, export)
    return export, fresh


async def _admit(resources: Resources, connection: Connection, request: ExportRequest) -> Export | None:
    """What the request's key made before; otherwise raises if its user may not have another export now."""
    earlier = await _find_earlier(resources, connection, request)
    if earlier is None:
        await _refuse_second(resources, connection, request.user_id)
        await resources.exports.check_rate(connection, request.user_id, per_hour=resources.settings.exports_per_hour)
    return earlier


async def _find_earlier(resources: Resources, connection: Connection, request: ExportRequest) -> Export | None:
    if request.idempotency_key is None:
        return None
    earlier = await resources.exports.find_by_idempotency_key(connection, request.user_id, request.idempotency_key)
    if earlier and earlier.format != request.format:
        raise IdempotencyConflictError("This Idempotency-Key was used with another body", job_id=earlier.id)
    return earlier


async def _refuse_second(resources: Resources, connection: Connection, user_id: UserId) -> None:
    if running := await resources.exports.find_running(connection, user_id):
        estimate = await resources.exports.estimate_completion(connection, running)
        raise ExportInProgressError("Export already in progress", job_id=running.id, estimated_completion=estimate)


async def _accept(resources: Resources, request: ExportRequest, records: int, *, queued: bool) -> tuple[Export, bool]:
    async with open_transaction(resources) as connection:
        await resources.exports.lock_user(connection, request.user_id)
        if earlier := await _admit(resources, connection, request):
            return earlier, False
        export = await resources.exports.create(
            connection,
            user_id=request.user_id,
            format_=request.format,
            queued=queued,
            estimated_records=records,
            idempotency_key=request.idempotency_key,
            request_id=request.actor.request_id,
            traceparent=request.traceparent,
        )
        if export is None:
            await _refuse_second(resources, connection, request.user_id)
            raise UnavailableError("Another export of this user has just ended", retry_after_seconds=1)
        await record(resources, connection, request.actor, AuditAction.REQUESTED, export)
        if not queued:
            await record(resources, connection, SYSTEM, AuditAction.STARTED, export)
    return export, True


async def _store_in_time(resources: Resources, export: Export, document: Document) -> FileFacts:
    """A small export's file, from the snapshot that counted it, before anybody else may take the export for lost."""
    try:
        async with asyncio.timeout(resources.settings.lease_seconds / 2):
            return await store_file(resources, export, document)
    except TimeoutError as error:
        raise UnavailableError("The file could not be stored in time") from error


async def _complete_at_once(resources: Resources, export: Export, file: FileFacts) -> Export:
    try:
        return await complete(resources, export, file)
    except SubjectNotFoundError as error:
        await fail(resources, export, message=error.detail, cause="erased meanwhile")
        raise
    except FAILURES as error:
        await _postpone(resources, export, error)
        return await _find_current(resources, export)


async def _postpone(resources: Resources, export: Export, error: Exception) -> None:
    """The worker goes on, with all its tries: at once or, if that can't be recorded, when the lease has run out."""
    await logger.aerror("export_postponed", job_id=str(export.id), exc_info=error)
    with suppress(UnavailableError, ExportSupersededError):
        await retry_later(
            resources,
            export,
            after_seconds=RETRY_AFTER_FAILURE_SECONDS,
            cause=type(error).__name__,
            failures=0,
        )


async def _find_current(resources: Resources, export: Export) -> Export:
    """Accepted it is, whatever became of it since."""
    with suppress(UnavailableError):
        async with open_connection(resources) as connection:
            export = await resources.exports.find(connection, export.id) or export
    return export

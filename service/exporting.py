"""What is done with exports, the same for the API and the worker: each step commits together with its audit event."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress

import asyncpg
import msgspec
import structlog

from service.audit import SYSTEM, Actor, AuditAction
from service.bootstrap import Resources
from service.database import Connection, UserId, acquire
from service.encoders import Format, create_encoder
from service.errors import (
    ExportGoneError,
    ExportInProgressError,
    ExportNotFoundError,
    ExportNotReadyError,
    ExportSupersededError,
    IdempotencyConflictError,
    ServiceError,
    SubjectNotFoundError,
    UnavailableError,
)
from service.exports import Export, ExportStatus, FileFacts
from service.streaming import Document, open_document, require_subject
from service.tracing import trace_id_of

RETRY_AFTER_FAILURE_SECONDS = 2.0
FAILED_MESSAGE = "The export could not be made. Please ask for it again later."

logger = structlog.get_logger()


class ExportRequest(msgspec.Struct, frozen=True):
    """What a user asks for. `actor` says who and from where; the rest of the request's headers decide how."""

    user_id: UserId
    format: Format
    actor: Actor
    respond_async: bool = False
    idempotency_key: str | None = None
    traceparent: str | None = None


@asynccontextmanager
async def begin(resources: Resources) -> AsyncIterator[Connection]:
    """A transaction of the bookkeeping. Raises UnavailableError if there is no connection."""
    async with (
        acquire(resources.database, timeout_seconds=resources.settings.acquire_timeout_seconds) as connection,
        connection.transaction(),
    ):
        yield connection


def read(resources: Resources) -> AbstractAsyncContextManager[Connection]:
    return acquire(resources.database, timeout_seconds=resources.settings.acquire_timeout_seconds)


def log_context(export: Export) -> dict[str, str]:
    """What joins the log lines of a request, of its export and of its mails."""
    known = {
        "job_id": str(export.id),
        "request_id": export.request_id,
        "trace_id": trace_id_of(export.traceparent),
    }
    return {name: value for name, value in known.items() if value}


@asynccontextmanager
async def open_user_document(
    resources: Resources, user_id: UserId, *, exclusive: bool = False
) -> AsyncIterator[Document]:
    """See `open_document`; with the caps and time limits of the settings."""
    with resources.tracer.span("export snapshot") as span:
        async with open_document(
            resources.streams if exclusive else resources.source,
            resources.datasets,
            user_id,
            max_records=resources.settings.max_export_records,
            acquire_timeout_seconds=resources.settings.acquire_timeout_seconds,
            exclusive=exclusive,
        ) as document:
            try:
                yield document
            finally:
                span.set({"carryout.records": document.records_done, "carryout.bytes": document.size_bytes})


async def request_export(resources: Resources, request: ExportRequest) -> tuple[Export, bool]:
    """The export the request makes, or that its idempotency key made before (then the second value is False).

    A small one comes back completed, a larger one pending. Raises ExportInProgressError, ExportTooLargeError,
    RateLimitedError, IdempotencyConflictError, SubjectNotFoundError and UnavailableError; then nothing was accepted.
    """
    async with read(resources) as connection:
        if earlier := await _find_earlier(resources, connection, request):
            return earlier, False
        await _refuse_second(resources, connection, request.user_id)
        await resources.exports.check_rate(connection, request.user_id, per_hour=resources.settings.exports_per_hour)
    async with open_user_document(resources, request.user_id) as document:
        small = document.records_total < resources.settings.small_export_records
        queued = request.respond_async or not small
        export, fresh = await _accept(resources, request, document.records_total, queued=queued)
        file = await _store_at_once(resources, export, document) if fresh and not queued else None
    if file:
        export = await _complete_at_once(resources, export, file)
    elif fresh:
        export = await _find_current(resources, export)
        await resources.queue.enqueue_export(export.id, export.attempt)
    return export, fresh


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
    async with begin(resources) as connection:
        await resources.exports.lock_user(connection, request.user_id)
        if earlier := await _find_earlier(resources, connection, request):
            return earlier, False
        await _refuse_second(resources, connection, request.user_id)
        await resources.exports.check_rate(connection, request.user_id, per_hour=resources.settings.exports_per_hour)
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


async def _store_at_once(resources: Resources, export: Export, document: Document) -> FileFacts | None:
    """A small export's file, from the snapshot that counted it; None if the worker has to try again."""
    try:
        async with asyncio.timeout(resources.settings.lease_seconds / 2):  # nobody else may take it for lost meanwhile
            return await store_file(resources, export, document)
    except (ServiceError, asyncpg.PostgresError, TimeoutError) as error:
        await _postpone(resources, export, error)
        return None


async def _complete_at_once(resources: Resources, export: Export, file: FileFacts) -> Export:
    try:
        return await complete(resources, export, file)
    except SubjectNotFoundError as error:
        await fail(resources, export, message=error.detail, cause="erased meanwhile")
        raise
    except (ServiceError, asyncpg.PostgresError) as error:
        await _postpone(resources, export, error)
        return await _find_current(resources, export)


async def _postpone(resources: Resources, export: Export, error: Exception) -> None:
    """The worker goes on: at once, or, if even that can't be recorded, when the lease has run out."""
    await logger.awarning("export_postponed", job_id=str(export.id), error_type=type(error).__name__)
    with suppress(UnavailableError, ExportSupersededError):
        await retry_later(resources, export, after_seconds=RETRY_AFTER_FAILURE_SECONDS, cause=type(error).__name__)


async def _find_current(resources: Resources, export: Export) -> Export:
    """Accepted it is, whatever became of it since."""
    with suppress(UnavailableError):
        async with read(resources) as connection:
            export = await resources.exports.find(connection, export.id) or export
    return export


async def retry_later(resources: Resources, export: Export, *, after_seconds: float, cause: str) -> Export:
    async with begin(resources) as connection:
        pending = await resources.exports.retry(connection, export, after_seconds=after_seconds, cause=cause)
        await record(resources, connection, SYSTEM, AuditAction.RETRIED, pending, outcome=cause)
    resources.metrics.exports.labels("retried", export.format).inc()
    return pending


async def fail(resources: Resources, export: Export, *, message: str, cause: str) -> None:
    async with begin(resources) as connection:
        failed = await resources.exports.fail(connection, export, message=message, cause=cause)
        await record_failure(resources, connection, failed)
    resources.metrics.exports.labels("failed", export.format).inc()


async def record_failure(resources: Resources, connection: Connection, failed: Export) -> None:
    """Its audit event, and the mail to a user who isn't waiting for the answer."""
    await record(resources, connection, SYSTEM, AuditAction.FAILED, failed, outcome=failed.error_message)
    if failed.queued:
        await resources.notifications.create(connection, job_id=failed.id, kind="failed")


async def store_file(resources: Resources, export: Export, document: Document) -> FileFacts:
    """Store `document` as this attempt's file."""
    encoder = create_encoder(export.format)  # type: ignore[arg-type]
    with resources.tracer.span("s3 upload", "client") as span:
        digest = hashlib.sha256()
        async with aclosing(_digested(document.chunks(encoder), digest)) as chunks:
            size_bytes = await resources.storage.upload(export.object_key, chunks, content_type=encoder.media_type)
        span.set({"carryout.bytes": size_bytes})
    file_url = bucket_url(resources) + export.object_key
    return FileFacts(file_url, document.records_done, size_bytes, digest.digest())


async def _digested(chunks: AsyncGenerator[bytes, None], digest: "hashlib._Hash") -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            digest.update(chunk)
            yield chunk


async def complete(resources: Resources, export: Export, file: FileFacts) -> Export:
    """Complete the export with its stored file. To be called when its document is closed.

    Raises SubjectNotFoundError if the user was erased meanwhile, and ExportSupersededError if another attempt or the
    user was faster; the file is deleted then.
    """
    try:
        await require_subject(
            resources.source,
            resources.datasets[0],
            export.user_id,
            acquire_timeout_seconds=resources.settings.acquire_timeout_seconds,
        )
        async with begin(resources) as connection:
            completed = await resources.exports.complete(
                connection, export, file, ttl_seconds=resources.settings.export_ttl_seconds
            )
            await record(resources, connection, SYSTEM, AuditAction.COMPLETED, completed)
            if completed.queued:
                await resources.notifications.create(connection, job_id=completed.id, kind="ready")
    except (ExportSupersededError, SubjectNotFoundError):
        with suppress(UnavailableError):  # the sweep deletes it then
            await resources.storage.delete(export.object_key)
        raise
    assert completed.completed_at is not None  # a constraint of the table
    duration = completed.completed_at - completed.created_at
    resources.metrics.exports.labels("completed", export.format).inc()
    resources.metrics.export_duration.labels(export.format, str(completed.queued).lower()).observe(
        duration.total_seconds()
    )
    return completed


async def cancel_or_delete(resources: Resources, export: Export, actor: Actor) -> None:
    """End a running export as failed; delete a completed one's file, whose link is gone from this moment on."""
    async with begin(resources) as connection:
        if cancelled := await resources.exports.cancel(connection, export.id):
            await record(resources, connection, actor, AuditAction.CANCELLED, cancelled)
            await record(resources, connection, actor, AuditAction.FAILED, cancelled, outcome="cancelled by user")
            resources.metrics.exports.labels("cancelled", export.format).inc()
            return
        ended = await resources.exports.end_link(connection, export.id)
        if ended:
            await record(resources, connection, actor, AuditAction.DELETED, ended)
    if ended:
        with suppress(UnavailableError):  # the link has ended; the worker deletes the file later
            _require_bucket(resources, ended)
            await resources.storage.delete(key_of(ended))
            async with begin(resources) as connection:
                await resources.exports.mark_file_deleted(connection, ended.id)


async def get_file(resources: Resources, connection: Connection, job_id: uuid.UUID) -> Export:
    """The export, if its file may be downloaded now. Raises ExportGoneError or ExportNotReadyError otherwise.

    Raises UnavailableError if it is in a bucket that CARRYOUT_S3_BUCKET named before.
    """
    export = await resources.exports.find(connection, job_id)
    if export is None or export.expired:
        raise ExportGoneError("This export's file is gone: it expired or was deleted")
    if export.status is not ExportStatus.COMPLETED:
        raise ExportNotReadyError(f"This export has no file: it is {export.status}", export_status=export.status)
    _require_bucket(resources, export)
    return export


async def record_download(resources: Resources, export: Export, actor: Actor, *, outcome: str) -> None:
    async with begin(resources) as connection:
        await record(resources, connection, actor, AuditAction.DOWNLOADED, export, outcome=outcome)


async def get_owned(resources: Resources, job_id: uuid.UUID, user_id: UserId, actor: Actor) -> Export:
    """Raises ExportNotFoundError, and leaves a trace, if it is another user's."""
    try:
        async with read(resources) as connection:
            return await resources.exports.get_owned(connection, job_id, user_id)
    except ExportNotFoundError:
        await record_denied(resources, job_id, actor)
        raise


async def record_denied(resources: Resources, job_id: uuid.UUID, actor: Actor) -> None:
    """Somebody who may not asked for an export. Ids that don't exist leave no trace: anyone could fill it with them."""
    async with begin(resources) as connection:
        if export := await resources.exports.find(connection, job_id):
            await record(resources, connection, actor, AuditAction.DENIED, export)


def bucket_url(resources: Resources) -> str:
    """What the URLs of all files in our bucket begin with."""
    return f"s3://{resources.settings.s3_bucket}/"


def _require_bucket(resources: Resources, export: Export) -> None:
    if not (export.file_url or "").startswith(bucket_url(resources)):
        raise UnavailableError("This export's file is in another bucket than the service uses now")


def key_of(export: Export) -> str:
    """The key of a completed export's object, from its `s3://bucket/key`."""
    assert export.file_url is not None
    return export.file_url.removeprefix("s3://").partition("/")[2]


def download_url(resources: Resources, export: Export) -> str | None:
    """The signed link, only while it would work."""
    if export.status is not ExportStatus.COMPLETED or export.expired or export.expires_at is None:
        return None
    query = resources.links.sign(export.id, export.expires_at)
    return f"{resources.settings.public_url}/api/export/{export.id}/download?{query}"


async def record(  # noqa: PLR0913 (an event's facts)
    resources: Resources,
    connection: Connection,
    actor: Actor,
    action: AuditAction,
    export: Export,
    *,
    outcome: str | None = None,
) -> None:
    await resources.audit.record(
        connection,
        actor,
        action,
        user_id=export.user_id,
        job_id=export.id,
        format_=export.format,
        records=export.record_count,
        outcome=outcome,
    )

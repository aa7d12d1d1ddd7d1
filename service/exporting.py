"""What is done with exports, the same for the API and the worker: each step commits together with its audit event."""

import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress

import asyncpg
import structlog

from service.audit import SYSTEM, Actor, AuditAction
from service.bootstrap import Resources
from service.database import CONNECTION_LOST, Connection, UserId, acquire
from service.encoders import create_encoder
from service.ending import end_export, record_export
from service.errors import (
    ExportGoneError,
    ExportNotFoundError,
    ExportNotReadyError,
    ExportSupersededError,
    OutageError,
    ServiceError,
    SubjectNotFoundError,
    UnavailableError,
)
from service.exports import Export, ExportStatus, FileFacts
from service.streaming import Document, open_document, require_subject
from service.tracing import trace_id_of

CANCELLED_MESSAGE = "cancelled by user"
FAILED_MESSAGE = "The export could not be made. Please ask for it again later."
# How a step may fail; anything else is a defect of the code.
FAILURES = (ServiceError, asyncpg.PostgresError, *CONNECTION_LOST)

logger = structlog.get_logger()


@asynccontextmanager
async def open_transaction(resources: Resources) -> AsyncIterator[Connection]:
    """A transaction of the bookkeeping. Raises UnavailableError if there is no connection."""
    async with (
        acquire(resources.database, timeout_seconds=resources.settings.acquire_timeout_seconds) as connection,
        connection.transaction(),
    ):
        yield connection


def open_connection(resources: Resources) -> AbstractAsyncContextManager[Connection]:
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


async def retry_later(
    resources: Resources, export: Export, *, after_seconds: float, cause: str, failures: int = 1
) -> Export:
    async with open_transaction(resources) as connection:
        pending = await resources.exports.retry(
            connection, export, after_seconds=after_seconds, cause=cause, failures=failures
        )
        await record(resources, connection, SYSTEM, AuditAction.RETRIED, pending, outcome=cause)
    resources.metrics.exports.labels("retried", export.format).inc()
    return pending


async def enqueue(resources: Resources, export: Export) -> None:
    """Ask for an attempt now; without Redis it is the repair that finds the export, within a second."""
    try:
        await resources.queue.enqueue_export(export.id, export.attempt)
    except OutageError as error:
        await logger.awarning("enqueue_failed", job_id=str(export.id), exc_info=error)
        with suppress(UnavailableError):
            async with open_transaction(resources) as connection:
                await resources.exports.note_unqueued(connection, export)


async def fail(resources: Resources, export: Export, *, message: str, cause: str) -> Export:
    async with open_transaction(resources) as connection:
        failed = await resources.exports.fail(connection, export, message=message, cause=cause)
        await record_failure(resources, connection, failed)
    resources.metrics.exports.labels("failed", export.format).inc()
    return failed


async def record_failure(resources: Resources, connection: Connection, failed: Export) -> None:
    """Its audit event, and the mail to a user who isn't waiting for the answer."""
    await record(resources, connection, SYSTEM, AuditAction.FAILED, failed, outcome=failed.error_message)
    if failed.queued:
        await resources.notifications.create(connection, job_id=failed.id, kind="failed")


async def store_file(resources: Resources, export: Export, document: Document) -> FileFacts:
    """Store `document` as this attempt's file."""
    encoder = create_encoder(export.format)  # type: ignore[arg-type] # a constraint of the table
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
        async with open_transaction(resources) as connection:
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
    _count_completed(resources, completed)
    return completed


def _count_completed(resources: Resources, export: Export) -> None:
    assert export.completed_at is not None  # a constraint of the table
    duration = export.completed_at - export.created_at
    queued = str(export.queued).lower()
    resources.metrics.exports.labels("completed", export.format).inc()
    resources.metrics.export_duration.labels(export.format, queued).observe(duration.total_seconds())


async def cancel_or_delete(resources: Resources, export: Export, actor: Actor) -> None:
    """End a running export as failed; delete a completed one's file, whose link is gone from this moment on."""
    async with open_transaction(resources) as connection:
        ended = await end_export(
            connection, resources.exports, resources.audit, export.id, actor, message=CANCELLED_MESSAGE
        )
    if ended and ended.status is ExportStatus.FAILED:
        resources.metrics.exports.labels("cancelled", export.format).inc()
    elif ended:
        with suppress(UnavailableError):  # the link has ended; the worker deletes the file later
            _require_bucket(resources, ended)
            await resources.storage.delete(key_of(ended))
            async with open_transaction(resources) as connection:
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
    async with open_transaction(resources) as connection:
        await record(resources, connection, actor, AuditAction.DOWNLOADED, export, outcome=outcome)


async def get_owned(resources: Resources, job_id: uuid.UUID, user_id: UserId, actor: Actor) -> Export:
    """Raises ExportNotFoundError, and leaves a trace, if it is another user's."""
    try:
        async with open_connection(resources) as connection:
            return await resources.exports.get_owned(connection, job_id, user_id)
    except ExportNotFoundError:
        await record_denied(resources, job_id, actor)
        raise


async def record_denied(resources: Resources, job_id: uuid.UUID, actor: Actor) -> None:
    """Somebody who may not asked for an export: audited once a minute. Ids that don't exist leave no trace."""
    exports = resources.exports
    claim = exports.claim_user_denial if actor.type == "user" else exports.claim_link_denial
    async with open_transaction(resources) as connection:
        if export := await claim(connection, job_id):
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
    await record_export(resources.audit, connection, actor, action, export, outcome=outcome)

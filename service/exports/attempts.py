"""One attempt at an export, shared by the API and the worker.

The attempt stores the file, and then completes, is retried later, or fails.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

import asyncpg
import structlog

from languages.words import to_translate
from service.backends.attachments import Fault
from service.backends.database import CONNECTION_LOST
from service.bookkeeping.exports import AttachmentFacts, Export, FileFacts, Progress
from service.documents.encoders import create_encoder
from service.documents.package.contents import package_chunks
from service.documents.streaming import Document, open_document, require_subject
from service.errors import ExportSupersededError, OutageError, ServiceError, SubjectNotFoundError, UnavailableError
from service.export_spec import ExportSpec
from service.exports import files
from service.resources import Resources
from service.user_ids import UserId

FAILED_MESSAGE = to_translate("The export could not be made. Please ask for it again later.")
# Expected failures of a step. Any other exception is a defect of the code.
FAILURES = (ServiceError, asyncpg.PostgresError, *CONNECTION_LOST)

logger = structlog.get_logger()


@asynccontextmanager
async def open_user_document(
    resources: Resources, spec: ExportSpec, *, exclusive: bool = False, suggest_ranges: bool = False
) -> AsyncIterator[Document]:
    """Like `open_document`, with the caps and time limits of the settings."""
    settings = resources.settings
    with resources.tracer.span("export snapshot") as span:
        async with open_document(
            resources.streams if exclusive else resources.source,
            resources.datasets,
            spec,
            max_records=settings.max_export_records,
            acquire_timeout_seconds=settings.acquire_timeout_seconds,
            exclusive=exclusive,
            overlap_seconds=settings.since_overlap_seconds,
            ranges_seconds=settings.ranges_seconds if suggest_ranges else None,
        ) as document:
            try:
                yield document
            finally:
                span.set({"carryout.records": document.records_done, "carryout.bytes": document.size_bytes})


async def enqueue(resources: Resources, export: Export) -> None:
    """Queue an attempt. During a Redis outage, a worker's repair finds the export within a second."""
    try:
        await resources.queue.enqueue_export(export.id, export.attempt)
    except OutageError as error:
        await logger.awarning("enqueue_failed", job_id=str(export.id), exc_info=error)
        with suppress(UnavailableError):
            async with resources.transaction() as connection:
                await resources.exports.note_unqueued(connection, export)


async def make(
    resources: Resources, export: Export, document: Document, *, store_within_seconds: float | None = None
) -> Export:
    """Store `document` as this attempt's file, and complete the export.

    Raises SubjectNotFoundError if the user has been erased meanwhile, ExportSupersededError if another attempt or the
    user has ended the export, and UnavailableError if storing takes too long. In the first two cases the file is
    deleted.
    """
    try:
        async with asyncio.timeout(store_within_seconds):
            file = await _store(resources, export, document)
    except TimeoutError as error:
        raise UnavailableError("The file could not be stored in time") from error
    await document.end_snapshot()  # looking for the user takes a connection, too
    try:
        await require_owner(resources, export)
        completed = await resources.exports.complete(
            resources.autocommit,
            export,
            file,
            ttl_seconds=resources.settings.export_ttl_seconds,
            message_id=resources.notifications.create_message_id() if export.queued else None,
        )
    except (ExportSupersededError, SubjectNotFoundError):
        with suppress(UnavailableError):  # then the sweep deletes it
            await resources.storage.delete(files.new_key(resources, export))
        raise
    assert completed.completed_at is not None  # by a constraint of the table
    duration = completed.completed_at - completed.created_at
    resources.metrics.count_completed(completed.format, duration, queued=completed.queued)
    return completed


async def _store(resources: Resources, export: Export, document: Document) -> FileFacts:
    key, media_type = files.new_key(resources, export), export.format.media_type
    if export.format.is_package:
        language = export.wishes.choose(await document.find_locale(), resources.settings.language)
        made = package_chunks(
            document,
            resources.file_stores,
            language=language,
            brand=resources.brand,
            max_bytes=resources.settings.max_export_bytes,
        )
    else:
        made = document.chunks(create_encoder(export.format, document.options))
    with resources.tracer.span("s3 upload", "client") as span:
        async with aclosing(made) as chunks:
            stored = await resources.storage.upload(key, chunks, content_type=media_type)
        span.set({"carryout.bytes": stored.size_bytes})
    await _note_files(resources, document)
    return FileFacts(
        stored.url,
        document.records_done,
        stored.size_bytes,
        stored.sha256,
        changes_from=document.changes_from,
        schema_digest=resources.schema.digest,
        attachments=_attachment_facts(document),
    )


def _attachment_facts(document: Document) -> AttachmentFacts | None:
    files = document.files
    if not files.included and not files.missing:
        return None
    return AttachmentFacts(files.bytes_total or 0, files.included, files.missing)


async def _note_files(resources: Resources, document: Document) -> None:
    """Count the attachments, and log once for each cause why some of a section's are missing."""
    resources.metrics.attachments.labels("included").inc(document.files.included)
    for kind, count in document.files.faults.items():
        resources.metrics.attachments.labels(kind.fault).inc(count)
        cause = {"cause": kind.cause} if kind.cause else {}
        log = logger.aerror if kind.fault is Fault.DENIED else logger.awarning
        await log("files_not_included", section=kind.section, store=kind.store, fault=kind.fault, files=count, **cause)


def progress_of(document: Document | None) -> Progress:
    if document is None:
        return Progress()
    return Progress(document.records_done, document.files.bytes_done, document.files.bytes_total)


async def require_owner(resources: Resources, export: Export) -> None:
    """Raise SubjectNotFoundError unless the export's user still exists."""
    await require_user(resources, export.user_id, since=export.created_at)


async def require_user(resources: Resources, user_id: UserId, *, since: dt.datetime) -> None:
    """Raise SubjectNotFoundError unless the user who was there `since` then still exists."""
    await require_subject(
        resources.source,
        resources.datasets[0],
        user_id,
        since=since,
        acquire_timeout_seconds=resources.settings.acquire_timeout_seconds,
    )


async def retry_later(
    resources: Resources, export: Export, *, after_seconds: float, cause: str, failures: int = 1
) -> Export:
    """`failures` is how much of the retry budget this attempt uses up."""
    pending = await resources.exports.retry(
        resources.autocommit, export, after_seconds=after_seconds, cause=cause, failures=failures
    )
    resources.metrics.exports.labels("retried", export.format).inc()
    return pending


async def fail(resources: Resources, export: Export, *, message: str, cause: str) -> Export:
    """`message` is shown to the user, `cause` to operators. A user whose request isn't waiting gets a mail."""
    message_id = resources.notifications.create_message_id() if export.queued else None
    failed = await resources.exports.fail(
        resources.autocommit, export, message=message, cause=cause, message_id=message_id
    )
    resources.metrics.exports.labels("failed", export.format).inc()
    return failed


async def fail_lost(resources: Resources, *, limit: int) -> list[Export]:
    """Fail the exports whose workers were lost too often, and queue mails to their users."""
    async with resources.transaction() as connection:
        lost = await resources.exports.fail_lost(connection, message=FAILED_MESSAGE, limit=limit)
        for export in lost:
            if export.queued:
                await resources.notifications.create(connection, job_id=export.id, kind="failed")
    for export in lost:
        resources.metrics.exports.labels("failed", export.format).inc()
    return lost

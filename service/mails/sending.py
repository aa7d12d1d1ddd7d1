"""Sends the mails of exports. A mail is claimed, accepted by the mail server at most once, and its outcome audited."""

from functools import partial

import asyncpg
import structlog

from languages.words import find_words
from service.backends.database import Connection
from service.backends.mail_addresses import normalize_address
from service.backends.smtp_replies import Delivery, Outcome
from service.bookkeeping.exports import Export, ExportStatus
from service.bookkeeping.mails import Notification
from service.bookkeeping.outbox import EntryState, deliver
from service.documents.selection import selection_words
from service.errors import EntrySupersededError, UnavailableError
from service.exports.files import download_url
from service.mails.messages import compose
from service.mails.own_templates import find_own_templates
from service.mails.recipients import find_recipient
from service.resources import Resources

logger = structlog.get_logger()


async def send_due_mails(resources: Resources, *, limit: int) -> int:
    """Attempt at most `limit` mails concurrently, each over an SMTP session of its own; returns how many it attempted.

    After a cancellation, sessions may end within STOP_SECONDS: a mail whose session is cut late stays ambiguous.
    """
    async with resources.transaction() as connection:
        for lost in await resources.notifications.end_lost(connection):
            resources.metrics.mails.labels(lost.state).inc()
            await _audit(resources, connection, lost)
        claimed = await resources.notifications.claim_due(connection, limit=limit)
    await deliver(claimed, partial(_deliver, resources), superseded="mail_superseded", failed="mail_attempt_failed")
    return len(claimed)


async def skip_mails(resources: Resources, connection: Connection, export: Export, *, cause: str) -> None:
    """Skip the export's pending mails, in the caller's transaction."""
    for skipped in await resources.notifications.skip(connection, export.id, cause=cause):
        resources.metrics.mails.labels(skipped.state).inc()
        await _audit(resources, connection, skipped)


async def _deliver(resources: Resources, notification: Notification) -> None:
    """A failure here keeps the claim until its lease expires; then the mail is retried, or ends as ambiguous."""
    structlog.contextvars.bind_contextvars(  # context variables are local to this task
        job_id=str(notification.job_id), kind=notification.kind, attempt=notification.attempts
    )
    export = await _get_export(resources, notification)
    structlog.contextvars.bind_contextvars(**export.log_context)
    delivery = await _traced_attempt(resources, notification, export)
    async with resources.transaction() as connection:
        ended = await _conclude(resources, connection, notification, delivery)
    resources.metrics.mails.labels(ended.state).inc()
    fine = delivery.outcome in {Outcome.SENT, Outcome.SKIPPED}
    log = logger.ainfo if fine else logger.awarning
    await log("mail_attempted", outcome=delivery.outcome, state=ended.state, cause=delivery.cause)


async def _traced_attempt(resources: Resources, notification: Notification, export: Export) -> Delivery:
    with resources.tracer.entry("mail send", "client", export.traceparent) as span:
        delivery = await _attempt(resources, notification, export)
        span.set({"carryout.outcome": delivery.outcome, "carryout.attempt": notification.attempts})
        if delivery.outcome not in {Outcome.SENT, Outcome.SKIPPED}:
            span.fail(delivery.outcome)
    return delivery


async def _attempt(resources: Resources, notification: Notification, export: Export) -> Delivery:
    facts = _facts(resources, notification, export)
    if facts is None:
        return Delivery(Outcome.SKIPPED, "the mail is out of date")
    try:
        found = await find_recipient(
            resources.source,
            resources.datasets[0],
            export.user_id,
            since=export.created_at,
            acquire_timeout_seconds=resources.settings.acquire_timeout_seconds,
        )
    except (asyncpg.CharacterNotInRepertoireError, UnicodeDecodeError):  # a database in SQL_ASCII holds any bytes
        return Delivery(Outcome.SKIPPED, "the application's address for this user is not valid text")
    except (UnavailableError, asyncpg.PostgresError) as error:
        return Delivery(Outcome.RETRY, f"reading the user's address failed: {type(error).__name__}")
    if found is None:
        return Delivery(Outcome.SKIPPED, "the application has no address for this user")
    address = normalize_address(found.address)
    if address is None:
        return Delivery(Outcome.SKIPPED, "the application's address for this user is not one valid address")

    async def begin_data() -> None:
        await resources.notifications.begin_data(resources.autocommit, notification)

    language = export.wishes.choose(found.locale, resources.settings.language)
    message = compose(
        notification.kind,
        sender=resources.mailer.sender,
        recipient=address,
        message_id=notification.message_id,
        facts=facts | {"selection": selection_words(export.spec, find_words(language))},
        language=language,
        brand=resources.brand,
        own=find_own_templates(resources.settings.templates_dir, resources.brand),
    )
    return await resources.mailer.send(message, address, before_data=begin_data)


async def _get_export(resources: Resources, notification: Notification) -> Export:
    export = await resources.exports.find(resources.autocommit, notification.job_id)
    if export is None:
        raise EntrySupersededError  # both rows are gone
    return export


def _facts(resources: Resources, notification: Notification, export: Export) -> dict[str, object] | None:
    """The facts for the mail's templates that its language doesn't change; None if they no longer hold."""
    common: dict[str, object] = {
        "created_at": export.created_at,
        "format": export.format,
        "reason": export.reason,
    }
    if notification.kind == "failed":
        failed = export.status is ExportStatus.FAILED
        return common | {"job_id": export.id, "error_message": export.error_message} if failed else None
    url = download_url(resources, export)
    if url is None or export.sha256 is None:
        return None
    return common | {
        "url": url,
        "expires_at": export.expires_at,
        "records": export.record_count,
        "size_bytes": export.size_bytes,
        "sha256": export.sha256.hex(),
        "files_included": export.files_included or 0,
        "files_missing": export.files_missing or 0,
    }


async def _conclude(
    resources: Resources, connection: Connection, notification: Notification, delivery: Delivery
) -> Notification:
    if delivery.outcome in {Outcome.RETRY, Outcome.REFUSED}:
        ended = await resources.notifications.retry(
            connection, notification, cause=delivery.cause or "", refused=delivery.outcome is Outcome.REFUSED
        )
    else:
        state = EntryState(delivery.outcome)
        ended = await resources.notifications.end(connection, notification, state, cause=delivery.cause)
    if ended.state is not EntryState.PENDING:
        await _audit(resources, connection, ended)
    return ended


async def _audit(resources: Resources, connection: Connection, ended: Notification) -> None:
    outcome = f"{ended.state}: {ended.last_error}" if ended.last_error else ended.state
    export = await resources.exports.record_mail(connection, ended.job_id, outcome=outcome)
    if ended.kind == "ready" and ended.state is EntryState.SENT:
        await resources.exports.note_answered(connection, export)

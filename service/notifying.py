"""Sending the mails that exports want: each is claimed, accepted by the mail server at most once, its end audited."""

import asyncio
from collections.abc import Mapping, Sequence

import asyncpg
import structlog

from service.audit import SYSTEM, AuditAction
from service.bootstrap import Resources
from service.database import Connection, acquire
from service.errors import NotificationSupersededError, UnavailableError
from service.exporting import download_url, log_context, open_connection, open_transaction, record
from service.exports import Export, ExportStatus
from service.mailer import Delivery, Outcome, is_address
from service.notifications import LEASE_SECONDS, Notification, NotificationState

STOP_SECONDS = 5.0

logger = structlog.get_logger()


async def send_due_mails(resources: Resources, *, limit: int) -> int:
    """Try at most `limit` mails side by side, each in a conversation of its own; returns how many it tried.

    If it is cancelled, conversations may end within STOP_SECONDS: those broken off late would stay ambiguous.
    """
    async with open_transaction(resources) as connection:
        for lost in await resources.notifications.end_lost(connection):
            resources.metrics.mails.labels(lost.state).inc()
            await _audit(resources, connection, lost)
        claimed = await resources.notifications.claim_due(connection, limit=limit)
    if claimed:
        await _finish([asyncio.create_task(_deliver(resources, notification)) for notification in claimed])
    return len(claimed)


async def _finish(tasks: Sequence["asyncio.Task[None]"]) -> None:
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        _, unfinished = await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in unfinished:
            task.cancel()
        raise
    finally:
        await asyncio.gather(*tasks, return_exceptions=True)


async def _deliver(resources: Resources, notification: Notification) -> None:
    """Whatever fails here leaves the claim to its lease: the mail is tried again then, or ambiguous."""
    structlog.contextvars.bind_contextvars(  # of this task alone
        job_id=str(notification.job_id), kind=notification.kind, attempt=notification.attempts
    )
    lease = asyncio.timeout(LEASE_SECONDS)  # then it is another's; a stuck database must hold up no mails
    try:
        async with lease:
            export = await _get_export(resources, notification)
            structlog.contextvars.bind_contextvars(**log_context(export))
            delivery = await _traced_attempt(resources, notification, export)
            async with open_transaction(resources) as connection:
                ended = await _conclude(resources, connection, notification, delivery)
    except NotificationSupersededError:
        await logger.awarning("mail_superseded")
    except Exception as error:  # noqa: BLE001 (one mail's failure is none of the others')
        if lease.expired() and isinstance(error, TimeoutError):
            await logger.awarning("mail_attempt_failed", cause="its lease ran out")
        else:
            await logger.aerror("mail_attempt_failed", exc_info=error)
    else:
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
        return Delivery(Outcome.SKIPPED, "there is nothing to announce any more")
    try:
        address = await _find_address(resources, export)
    except (UnavailableError, asyncpg.PostgresError) as error:
        return Delivery(Outcome.RETRY, f"reading the address ended in {type(error).__name__}")
    if address is None:
        return Delivery(Outcome.SKIPPED, "the application has no address of this user")
    if not is_address(address):
        return Delivery(Outcome.SKIPPED, "what the application has is not one valid address")

    async def begin_data() -> None:
        async with open_transaction(resources) as connection:
            await resources.notifications.begin_data(connection, notification)

    message = resources.mailer.compose(
        notification.kind, recipient=address, message_id=notification.message_id, facts=facts
    )
    return await resources.mailer.send(message, address, before_data=begin_data)


async def _get_export(resources: Resources, notification: Notification) -> Export:
    async with open_connection(resources) as connection:
        export = await resources.exports.find(connection, notification.job_id)
    if export is None:
        raise NotificationSupersededError  # both rows are gone
    return export


def _facts(resources: Resources, notification: Notification, export: Export) -> Mapping[str, object] | None:
    """What the mail says; None if it isn't true any more."""
    common = {"created_at": export.created_at, "format": export.format}
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
    }


async def _find_address(resources: Resources, export: Export) -> str | None:
    """The user's address as the application has it at this moment; None if the user, or the column, is gone."""
    profile = resources.datasets[0]
    if all(column.name != "email" for column in profile.columns):
        return None
    query = f'SELECT "row".email::text FROM ({profile.sql}) AS "row"'  # noqa: S608 (an operator's file, checked at start)
    async with acquire(
        resources.source, timeout_seconds=resources.settings.acquire_timeout_seconds, server="source"
    ) as connection:
        address: str | None = await connection.fetchval(query, export.user_id)
    return address


async def _conclude(
    resources: Resources, connection: Connection, notification: Notification, delivery: Delivery
) -> Notification:
    if delivery.outcome is Outcome.RETRY:
        ended = await resources.notifications.retry(connection, notification, cause=delivery.cause or "")
    else:
        state = NotificationState(delivery.outcome)
        ended = await resources.notifications.end(connection, notification, state, cause=delivery.cause)
    if ended.state is not NotificationState.PENDING:
        await _audit(resources, connection, ended)
    return ended


async def _audit(resources: Resources, connection: Connection, ended: Notification) -> None:
    export = await resources.exports.find(connection, ended.job_id)
    assert export is not None  # the notification's foreign key, held by this transaction's lock
    outcome = f"{ended.state}: {ended.last_error}" if ended.last_error else ended.state
    await record(resources, connection, SYSTEM, AuditAction.EMAILED, export, outcome=outcome)

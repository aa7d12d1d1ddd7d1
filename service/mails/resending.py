"""Sends mails again for an operator. A worker sends them; here they become due, and that is audited."""

import uuid

from service.backends.database import Connection
from service.bookkeeping.audit import operator_actor
from service.bookkeeping.exports import ExportRepository
from service.bookkeeping.mails import Notification, NotificationRepository
from service.errors import ExportNotFoundError


async def resend(
    connection: Connection, exports: ExportRepository, notifications: NotificationRepository, job_id: uuid.UUID
) -> list[Notification]:
    """Resend the mail of one export, unless it was sent or is due. Raises ExportNotFoundError for an unknown id."""
    async with connection.transaction():
        if await exports.find(connection, job_id) is None:
            raise ExportNotFoundError
        return await _audited(connection, exports, await notifications.resend(connection, job_id))


async def resend_failed(
    connection: Connection, exports: ExportRepository, notifications: NotificationRepository, *, since_seconds: float
) -> list[Notification]:
    """Resend all mails that failed in the last `since_seconds`, or wait for their next attempt."""
    async with connection.transaction():
        resent = await notifications.resend_failed(connection, since_seconds=since_seconds)
        return await _audited(connection, exports, resent)


async def _audited(connection: Connection, exports: ExportRepository, resent: list[Notification]) -> list[Notification]:
    actor = operator_actor()
    for notification in resent:
        export = await exports.find(connection, notification.job_id)
        assert export is not None  # by the notification's foreign key
        await exports.record_resent_mail(connection, export, actor)
    return resent

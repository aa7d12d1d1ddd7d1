"""The table of mails: which are wanted, who sends one now, and how each ended."""

import datetime as dt
import uuid
from enum import StrEnum
from typing import Literal, TypeAlias

import asyncpg
import msgspec

from service.database import QUERIES, Connection
from service.errors import NotificationSupersededError

Kind: TypeAlias = Literal["ready", "failed"]

LEASE_SECONDS = 60.0  # longer than any attempt: see mailer.CONVERSATION_SECONDS
RETRY_AFTER_SECONDS = (30.0, 120.0, 600.0, 3_600.0, 14_400.0)
GIVE_UP_AFTER_SECONDS = 86_400.0


class NotificationState(StrEnum):
    """`AMBIGUOUS`: the server may have accepted the mail, but nobody knows; it is never sent again."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    AMBIGUOUS = "ambiguous"
    SKIPPED = "skipped"


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `carryout.export_notifications`. `attempts` is the fencing number."""

    id: int
    job_id: uuid.UUID
    kind: Kind
    state: NotificationState
    attempts: int
    message_id: str
    created_at: dt.datetime
    next_attempt_at: dt.datetime
    lease_expires_at: dt.datetime | None
    data_started_at: dt.datetime | None
    ended_at: dt.datetime | None
    last_error: str | None


class NotificationRepository:
    """Changes of a claimed mail raise NotificationSupersededError if the claim is lost or the mail has ended."""

    def __init__(self, message_id_domain: str) -> None:
        self._message_id_domain = message_id_domain

    async def create(self, connection: Connection, *, job_id: uuid.UUID, kind: Kind) -> Notification:
        """A mail to send. The Message-ID stays the same over all attempts, so that a receiver can tell."""
        message_id = f"<{uuid.uuid4()}@{self._message_id_domain}>"
        return _notification(await connection.fetchrow(QUERIES["insert_notification"], job_id, kind, message_id))

    async def claim_due(self, connection: Connection, *, limit: int) -> list[Notification]:
        """Take at most `limit` mails that are due, for LEASE_SECONDS. Commit before you connect to the mail server."""
        rows = await connection.fetch(QUERIES["claim_due_notifications"], limit, LEASE_SECONDS, GIVE_UP_AFTER_SECONDS)
        return [_notification(row) for row in rows]

    async def begin_data(self, connection: Connection, notification: Notification) -> None:
        """Note that the mail itself is sent now: after the commit, a lost worker leaves it ambiguous."""
        row = await connection.fetchrow(
            QUERIES["begin_notification_data"], notification.id, notification.attempts, LEASE_SECONDS
        )
        _still_ours(row)

    async def retry(self, connection: Connection, notification: Notification, *, cause: str) -> Notification:
        """Pending again, for later; failed if that would be more than a day after the mail was wanted."""
        attempt = min(notification.attempts, len(RETRY_AFTER_SECONDS))
        row = await connection.fetchrow(
            QUERIES["retry_notification"],
            notification.id,
            notification.attempts,
            RETRY_AFTER_SECONDS[attempt - 1],
            cause,
            GIVE_UP_AFTER_SECONDS,
        )
        return _still_ours(row)

    async def end(
        self, connection: Connection, notification: Notification, state: NotificationState, *, cause: str | None = None
    ) -> Notification:
        """Sent, failed, ambiguous or skipped: for good."""
        row = await connection.fetchrow(
            QUERIES["end_notification"], notification.id, notification.attempts, state, cause
        )
        return _still_ours(row)

    async def end_lost(self, connection: Connection) -> list[Notification]:
        """End the mails whose worker was lost, where sending them again could be a second time or is a day too late."""
        rows = await connection.fetch(QUERIES["end_lost_notifications"], GIVE_UP_AFTER_SECONDS)
        return [_notification(row) for row in rows]


def _still_ours(row: asyncpg.Record | None) -> Notification:
    if row is None:
        raise NotificationSupersededError
    return _notification(row)


def _notification(row: asyncpg.Record | None) -> Notification:
    assert row is not None
    return msgspec.convert(dict(row), Notification)  # a newer schema may have columns that we don't know

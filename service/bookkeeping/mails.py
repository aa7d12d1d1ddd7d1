"""The outbox of mails."""

import datetime as dt
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, TypeAlias

import msgspec

from service.backends.database import QUERIES, Connection, iterate
from service.bookkeeping.outbox import Entry, EntryState, Outbox
from service.user_ids import UserId

Kind: TypeAlias = Literal["ready", "failed"]


class Notification(Entry, frozen=True, kw_only=True):
    """One row of `carryout.export_notifications`."""

    job_id: uuid.UUID
    kind: Kind
    message_id: str


class MailFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Criteria for mails. None matches every mail."""

    user_id: UserId | None = None
    state: EntryState | None = None
    since_seconds: float | None = None
    limit: int


class MailSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A mail for an operator, without its address. `refused`: the mail server refuses Carryout, not the recipient."""

    job_id: uuid.UUID
    user_id: str
    export_created_at: dt.datetime
    kind: str
    state: EntryState
    attempts: int
    created_at: dt.datetime
    next_attempt_at: dt.datetime | None
    ended_at: dt.datetime | None
    refused: bool
    last_reply: str | None


class NotificationRepository(Outbox[Notification]):
    """The mails' outbox: its entries belong to exports."""

    def __init__(self, message_id_domain: str) -> None:
        super().__init__("carryout.export_notifications", Notification)
        self._message_id_domain = message_id_domain

    async def create(self, connection: Connection, *, job_id: uuid.UUID, kind: Kind) -> Notification:
        """A mail to send."""
        message_id = self.create_message_id()
        [created] = self._entries(await connection.fetch(QUERIES["insert_notification"], job_id, kind, message_id))
        return created

    def create_message_id(self) -> str:
        """A new Message-ID. A mail keeps its own over all attempts, so that a receiver can tell."""
        return f"<{uuid.uuid4()}@{self._message_id_domain}>"

    async def skip(self, connection: Connection, job_id: uuid.UUID, *, cause: str) -> list[Notification]:
        """End the export's mails that no worker is sending now."""
        return self._entries(await connection.fetch(QUERIES["skip_notifications"], job_id, cause))

    async def resend(self, connection: Connection, job_id: uuid.UUID) -> list[Notification]:
        """Make the export's mail due now, unless it was sent, is being sent or is due."""
        ended = [EntryState.FAILED, EntryState.SKIPPED, EntryState.AMBIGUOUS]
        return self._entries(await connection.fetch(QUERIES["resend_notifications"], job_id, ended, None))

    async def resend_failed(self, connection: Connection, *, since_seconds: float) -> list[Notification]:
        """Make all mails due now that failed in the last `since_seconds`, or that the mail server refuses."""
        failed = [EntryState.FAILED]
        return self._entries(await connection.fetch(QUERIES["resend_notifications"], None, failed, since_seconds))

    async def iterate_latest(self, connection: Connection, wanted: MailFilter) -> AsyncGenerator[MailSummary]:
        """Newest first; however many, in little memory."""
        arguments = (wanted.user_id, wanted.state, wanted.since_seconds, wanted.limit)
        async with aclosing(iterate(connection, QUERIES["list_latest_notifications"], *arguments)) as rows:
            async for row in rows:
                yield msgspec.convert(dict(row), MailSummary)

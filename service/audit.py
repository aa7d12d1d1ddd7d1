"""The append-only trail of what happened to anyone's data."""

import datetime as dt
import ipaddress
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from enum import StrEnum
from typing import Literal

import msgspec

from service.database import QUERIES, Connection, UserId, iterate

MAX_USER_AGENT_CHARACTERS = 300


class AuditAction(StrEnum):
    REQUESTED = "export:requested"
    STARTED = "export:started"
    COMPLETED = "export:completed"
    FAILED = "export:failed"
    CANCELLED = "export:cancelled"
    RETRIED = "export:retried"
    DOWNLOADED = "export:downloaded"
    DELETED = "export:deleted"
    EXPIRED = "export:expired"
    DENIED = "export:denied"
    STREAM_STARTED = "export:stream_started"
    STREAMED = "export:streamed"
    EMAILED = "export:emailed"
    USERS_EXPORT_STARTED = "users:export_started"
    USERS_EXPORTED = "users:exported"
    USERS_DENIED = "users:denied"
    KEY_CREATED = "keys:created"
    KEY_REVOKED = "keys:revoked"
    FEATURE_CHANGED = "features:changed"


class Actor(msgspec.Struct, frozen=True):
    """Who did it, and from where. `name` is a user id or a key's prefix, None for links and the system."""

    type: Literal["user", "key", "link", "system"]
    name: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


SYSTEM = Actor("system")


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What is None isn't looked at."""

    user_id: UserId | None = None
    job_id: uuid.UUID | None = None
    action: AuditAction | None = None
    since_seconds: float | None = None
    limit: int


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `carryout.export_audit`, ids and addresses as text."""

    id: int
    occurred_at: dt.datetime
    actor_type: str
    actor: str | None
    action: str
    subject: str | None
    user_id: str | None
    job_id: str | None
    format: str | None
    records: int | None
    outcome: str | None
    ip: str | None
    user_agent: str | None
    request_id: str | None


class AuditLog:
    """Give it the connection of the transaction that does the thing, so that neither happens without the other."""

    async def record(  # noqa: PLR0913 (a row's columns)
        self,
        connection: Connection,
        actor: Actor,
        action: AuditAction,
        *,
        user_id: UserId | None = None,
        job_id: uuid.UUID | None = None,
        format_: str | None = None,
        records: int | None = None,
        outcome: str | None = None,
        subject: str | None = None,
    ) -> None:
        """`subject` is what an event that isn't about one export is about: a list, a key (prefix and name), a flag."""
        await connection.execute(
            QUERIES["insert_audit_event"],
            actor.type,
            actor.name,
            action,
            user_id,
            job_id,
            format_,
            records,
            outcome,
            _address(actor.ip),
            (actor.user_agent or "").replace("\0", "")[:MAX_USER_AGENT_CHARACTERS] or None,
            actor.request_id,
            subject,
        )

    async def iterate_latest(self, connection: Connection, wanted: AuditFilter) -> AsyncGenerator[AuditEvent]:
        """The last events that `wanted` describes, the oldest of them first; however many, in little memory."""
        rows = iterate(
            connection,
            QUERIES["list_audit_events"],
            wanted.user_id,
            wanted.job_id,
            wanted.action,
            wanted.since_seconds,
            wanted.limit,
        )
        async with aclosing(rows):
            async for row in rows:
                yield msgspec.convert(dict(row), AuditEvent)

    async def list_downloads(
        self, connection: Connection, job_id: uuid.UUID, *, after: int | None, limit: int
    ) -> list[AuditEvent]:
        """Newest first, from the one after the event `after`."""
        rows = await connection.fetch(QUERIES["list_downloads"], job_id, after, limit)
        return [msgspec.convert(dict(row), AuditEvent) for row in rows]


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for what isn't an address: a Unix socket's peer, or a test client's name."""
    try:
        return ipaddress.ip_address(text or "")
    except ValueError:
        return None

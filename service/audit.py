"""The append-only trail of what happened to anyone's data."""

import ipaddress
import uuid
from enum import StrEnum
from typing import Literal

import msgspec

from service.database import QUERIES, Connection, UserId

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
    ) -> None:
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
        )


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for what isn't an address: a Unix socket's peer, or a test client's name."""
    try:
        return ipaddress.ip_address(text or "")
    except ValueError:
        return None

"""The append-only trail of what happened to anyone's data."""

import codecs
import datetime as dt
import ipaddress
import os
import pwd
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from enum import StrEnum
from typing import Literal

import msgspec

from service.backends.database import HOLD_EVERYTHING, QUERIES, Connection, Executor, encoding_of, iterate
from service.errors import RateLimitedError
from service.user_ids import UserId

MAX_USER_AGENT_CHARACTERS = 300
STREAM_START = QUERIES["insert_stream_start"].format(wait=QUERIES["find_stream_wait"])


class AuditAction(StrEnum):
    REQUESTED = "export:requested"
    STARTED = "export:started"
    COMPLETED = "export:completed"
    FAILED = "export:failed"
    CANCELLED = "export:cancelled"
    RETRIED = "export:retried"
    DOWNLOADED = "export:downloaded"
    DOWNLOAD_CUT = "export:download_cut"
    DELETED = "export:deleted"
    EXPIRED = "export:expired"
    FILE_MISSING = "export:file_missing"
    FILE_FOUND = "export:file_found"
    DENIED = "export:denied"
    STREAM_STARTED = "export:stream_started"
    STREAMED = "export:streamed"
    EMAILED = "export:emailed"
    MAIL_RESENT = "export:mail_resent"
    USERS_EXPORT_STARTED = "users:export_started"
    USERS_EXPORTED = "users:exported"
    USERS_DENIED = "users:denied"
    REQUESTS_DENIED = "requests:denied"
    LIST_EXPORT_STARTED = "lists:export_started"
    LIST_EXPORTED = "lists:exported"
    KEY_CREATED = "keys:created"
    KEY_REVOKED = "keys:revoked"
    FEATURE_CHANGED = "features:changed"
    PURGED = "retention:purged"


class Actor(msgspec.Struct, frozen=True):
    """The author of an event and their origin. `name` is a user id or a key's prefix, None for links and the system."""

    type: Literal["user", "key", "link", "system"]
    name: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


SYSTEM = Actor("system")


def operator_actor() -> Actor:
    """An operator at the command line: the system, with the account of this machine as its user agent."""
    try:
        account = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's account often has a number alone
        account = str(os.getuid())
    return msgspec.structs.replace(SYSTEM, user_agent=f"carryout ({account})")


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Criteria for events. None matches every event."""

    user_id: UserId | None = None
    job_id: uuid.UUID | None = None
    action: AuditAction | None = None
    request_id: str | None = None
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
    """Pass the connection of the transaction that makes the change, so that change and event commit together."""

    async def record(  # noqa: PLR0913 (a row's columns)
        self,
        connection: Executor,
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
        type_, name, ip, user_agent, request_id = actor_columns(connection, actor)
        await connection.execute(
            QUERIES["insert_audit_event"],
            type_,
            name,
            action,
            user_id,
            job_id,
            format_,
            records,
            outcome,
            ip,
            user_agent,
            request_id,
            subject,
        )

    async def check_stream_rate(self, connection: Executor, user_id: UserId, *, per_hour: int) -> None:
        """Raise RateLimitedError if the user began `per_hour` streams in the last hour."""
        _refuse_stream(await connection.fetchval(QUERIES["find_stream_wait"], user_id, per_hour), per_hour)

    async def record_stream_start(  # noqa: PLR0913 (a row's columns)
        self,
        connection: Executor,
        actor: Actor,
        action: AuditAction,
        *,
        user_id: UserId,
        format_: str,
        records: int | None,
        per_hour: int,
    ) -> None:
        """Raise RateLimitedError as `check_stream_rate` does, and record nothing then."""
        type_, name, *origin = actor_columns(connection, actor)
        wait_seconds = await connection.fetchval(
            STREAM_START, user_id, per_hour, type_, name, action, format_, records, *origin
        )
        _refuse_stream(wait_seconds, per_hour)

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
            wanted.request_id,
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


def _refuse_stream(wait_seconds: int | None, per_hour: int) -> None:
    if wait_seconds is not None:
        raise RateLimitedError(f"At most {per_hour} streams an hour", retry_after_seconds=max(1, wait_seconds))


def actor_columns(connection: Executor, actor: Actor) -> tuple[object, ...]:
    """The columns actor_type, actor, ip, user_agent and request_id of an event."""
    user_agent = (actor.user_agent or "").replace("\0", "")[:MAX_USER_AGENT_CHARACTERS]
    return (
        actor.type,
        storable(connection, actor.name),
        _address(actor.ip),
        storable(connection, user_agent) or None,
        actor.request_id,
    )


def storable(connection: Executor, text: str | None) -> str | None:
    """`text` with what the database's encoding lacks escaped, as in Python, so that it can be stored."""
    if not text or text.isascii():
        return text
    encoding = encoding_of(connection)
    if encoding in HOLD_EVERYTHING:
        return text
    try:
        codec = codecs.lookup(encoding.replace("WIN", "cp")).name
    except LookupError:
        codec = "ascii"
    return text.encode(codec, "backslashreplace").decode(codec)


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for what isn't an address: a Unix socket's peer, or a test client's name."""
    try:
        return ipaddress.ip_address(text or "")
    except ValueError:
        return None

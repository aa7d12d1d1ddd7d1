"""The table of exports: what an export is, and every change of its state."""

import datetime as dt
import re
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from enum import StrEnum

import asyncpg
import msgspec

from service.database import QUERIES, Connection, UserId, iterate
from service.errors import ExportNotFoundError, ExportSupersededError, RateLimitedError

MAX_ATTEMPTS = 3
OBJECT_KEY = re.compile(r"exports/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([0-9]{1,9})\.(?:csv|json)")


class ExportStatus(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `carryout.export_jobs`. `attempt` is the fencing number; `expired` is by the database's clock."""

    id: uuid.UUID
    user_id: UserId
    format: str
    status: ExportStatus
    queued: bool
    created_at: dt.datetime
    estimated_records: int
    attempt: int
    failures: int
    records_done: int
    completed_at: dt.datetime | None
    record_count: int | None
    file_url: str | None
    size_bytes: int | None
    sha256: bytes | None
    expires_at: dt.datetime | None
    file_deleted_at: dt.datetime | None
    error_message: str | None
    idempotency_key: str | None
    request_id: str | None
    traceparent: str | None
    expired: bool = False
    seconds_left: float | None = None

    @property
    def running(self) -> bool:
        return self.status in {ExportStatus.PENDING, ExportStatus.PROCESSING}

    @property
    def object_key(self) -> str:
        """Where this attempt's file goes: no personal data, and no other attempt's file."""
        return object_key(self.id, self.attempt, self.format)


class ExportFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What is None isn't looked at."""

    user_id: UserId | None = None
    status: ExportStatus | None = None
    since_seconds: float | None = None
    limit: int


class ExportSummary(msgspec.Struct, frozen=True, kw_only=True):
    """An export as operators see it. `mail` is the state of its mail; causes are what users aren't told."""

    id: uuid.UUID
    user_id: str
    status: ExportStatus
    format: str
    record_count: int | None
    size_bytes: int | None
    created_at: dt.datetime
    completed_at: dt.datetime | None
    expires_at: dt.datetime | None
    file_deleted_at: dt.datetime | None
    mail: str | None
    error_message: str | None
    error_cause: str | None
    mail_cause: str | None


class FileFacts(msgspec.Struct, frozen=True):
    """What is known of a finished file."""

    url: str
    records: int
    size_bytes: int
    sha256: bytes


def object_key(job_id: uuid.UUID, attempt: int, format_: str) -> str:
    return f"exports/{job_id}/{attempt}.{format_}"


class ExportRepository:
    """Changes take the connection of the transaction that also writes the audit event."""

    def __init__(self, *, lease_seconds: float) -> None:
        """`lease_seconds`: how long an attempt counts as alive without a heartbeat."""
        self._lease_seconds = lease_seconds

    async def lock_user(self, connection: Connection, user_id: UserId) -> None:
        """Make the user's requests take turns until the transaction ends, so that limits count exactly."""
        await connection.execute(QUERIES["lock_user"], str(user_id))

    async def create(  # noqa: PLR0913 (a row's columns)
        self,
        connection: Connection,
        *,
        user_id: UserId,
        format_: str,
        queued: bool,
        estimated_records: int,
        idempotency_key: str | None,
        request_id: str | None,
        traceparent: str | None,
    ) -> Export | None:
        """A pending export, or one that the caller is already making; None if another one of the user is running."""
        if idempotency_key:
            await connection.execute(QUERIES["forget_idempotency_key"], user_id, idempotency_key)
        row = await connection.fetchrow(
            QUERIES["insert_export"],
            user_id,
            format_,
            queued,
            estimated_records,
            idempotency_key,
            request_id,
            traceparent,
            self._lease_seconds,
        )
        return _export_or_none(row)

    async def find_running(self, connection: Connection, user_id: UserId) -> Export | None:
        return _export_or_none(await connection.fetchrow(QUERIES["find_running_export"], user_id))

    async def find_by_idempotency_key(self, connection: Connection, user_id: UserId, key: str) -> Export | None:
        """What the key made in the last 24 hours."""
        return _export_or_none(await connection.fetchrow(QUERIES["find_by_idempotency_key"], user_id, key))

    async def check_rate(self, connection: Connection, user_id: UserId, *, per_hour: int) -> None:
        """Raise RateLimitedError if `per_hour` exports were accepted in the last hour."""
        wait_seconds = await connection.fetchval(QUERIES["find_rate_wait"], user_id, per_hour)
        if wait_seconds is not None:
            raise RateLimitedError(f"At most {per_hour} exports an hour", retry_after_seconds=max(1, wait_seconds))

    async def find(self, connection: Connection, job_id: uuid.UUID) -> Export | None:
        return _export_or_none(await connection.fetchrow(QUERIES["find_export"], job_id))

    async def get_owned(self, connection: Connection, job_id: uuid.UUID, user_id: UserId) -> Export:
        """Raises ExportNotFoundError for another user's export as for an unknown id."""
        export = await self.find(connection, job_id)
        if export is None or export.user_id != user_id:
            raise ExportNotFoundError
        return export

    async def list_owned(
        self, connection: Connection, user_id: UserId, *, after: uuid.UUID | None, limit: int
    ) -> list[Export]:
        """Newest first, from the one after `after`."""
        return [_export(row) for row in await connection.fetch(QUERIES["list_exports"], user_id, after, limit)]

    async def iterate_latest(self, connection: Connection, wanted: ExportFilter) -> AsyncGenerator[ExportSummary]:
        """Newest first, of all users unless `wanted` names one; however many, in little memory."""
        arguments = (wanted.user_id, wanted.status, wanted.since_seconds, wanted.limit)
        async with aclosing(iterate(connection, QUERIES["list_latest_exports"], *arguments)) as rows:
            async for row in rows:
                yield msgspec.convert(dict(row), ExportSummary)

    async def list_unended(self, connection: Connection, user_id: UserId) -> list[Export]:
        """The user's running export, and the completed ones whose links work."""
        return [_export(row) for row in await connection.fetch(QUERIES["list_unended_exports"], user_id)]

    async def claim(self, connection: Connection, job_id: uuid.UUID) -> Export | None:
        """Take a pending export, or one whose lease is lost; None if there is nothing to take."""
        row = await connection.fetchrow(QUERIES["claim_export"], job_id, self._lease_seconds, MAX_ATTEMPTS)
        return _export_or_none(row)

    async def renew_lease(self, connection: Connection, export: Export, *, records_done: int) -> None:
        row = await connection.fetchrow(
            QUERIES["renew_lease"], export.id, export.attempt, self._lease_seconds, records_done
        )
        _still_ours(row)

    async def complete(self, connection: Connection, export: Export, file: FileFacts, *, ttl_seconds: int) -> Export:
        """Like every change below: raises ExportSupersededError if this attempt isn't the current one any more."""
        row = await connection.fetchrow(
            QUERIES["complete_export"],
            export.id,
            export.attempt,
            file.records,
            file.url,
            file.size_bytes,
            file.sha256,
            ttl_seconds,
        )
        return _export(_still_ours(row))

    async def retry(
        self, connection: Connection, export: Export, *, after_seconds: float, cause: str, failures: int = 1
    ) -> Export:
        """Pending again, for later; `failures` is how many this attempt counts for."""
        row = await connection.fetchrow(
            QUERIES["retry_export"], export.id, export.attempt, after_seconds, cause, failures
        )
        return _export(_still_ours(row))

    async def note_unqueued(self, connection: Connection, export: Export) -> None:
        """No queue entry stands for this pending export: whoever looks next may take it."""
        await connection.execute(QUERIES["note_unqueued"], export.id, export.attempt)

    async def hand_back(self, connection: Connection, export: Export) -> Export:
        """Pending again at once, at no cost: its worker was told to stop."""
        return _export(_still_ours(await connection.fetchrow(QUERIES["hand_back_export"], export.id, export.attempt)))

    async def fail(self, connection: Connection, export: Export, *, message: str, cause: str) -> Export:
        """`message` is the user's to read, `cause` the operator's."""
        row = await connection.fetchrow(QUERIES["fail_export"], export.id, export.attempt, message, cause)
        return _export(_still_ours(row))

    async def cancel(self, connection: Connection, job_id: uuid.UUID, *, message: str) -> Export | None:
        return _export_or_none(await connection.fetchrow(QUERIES["cancel_export"], job_id, message))

    async def end_link(self, connection: Connection, job_id: uuid.UUID) -> Export | None:
        return _export_or_none(await connection.fetchrow(QUERIES["end_link"], job_id))

    async def mark_file_deleted(self, connection: Connection, job_id: uuid.UUID) -> Export | None:
        """None if it was marked before: the first to mark it audits it."""
        return _export_or_none(await connection.fetchrow(QUERIES["mark_file_deleted"], job_id))

    async def claim_link_denial(self, connection: Connection, job_id: uuid.UUID) -> Export | None:
        """The export, if a wrong link's denial may be audited now: one a minute, or anybody could fill the trail."""
        return _export_or_none(await connection.fetchrow(QUERIES["claim_link_denial"], job_id))

    async def claim_user_denial(self, connection: Connection, job_id: uuid.UUID) -> Export | None:
        """The same for another user's: wrong links, which need no account, must not hide who had one."""
        return _export_or_none(await connection.fetchrow(QUERIES["claim_user_denial"], job_id))

    async def take_forgotten(self, connection: Connection, *, after_seconds: float, limit: int) -> list[Export]:
        """Due exports, oldest first, that nobody took for `after_seconds`; they are nobody else's for as long."""
        rows = await connection.fetch(QUERIES["take_forgotten_exports"], MAX_ATTEMPTS, after_seconds, limit)
        return [_export(row) for row in rows]

    async def fail_lost(self, connection: Connection, *, message: str, limit: int) -> list[Export]:
        """Fail exports whose lease was lost for the last time."""
        rows = await connection.fetch(QUERIES["fail_lost_exports"], MAX_ATTEMPTS, message, limit)
        return [_export(row) for row in rows]

    async def claim_ended_file(self, connection: Connection, *, bucket: str, seconds: float) -> Export | None:
        """An export whose file is to be deleted now, by nobody else for so long."""
        return _export_or_none(await connection.fetchrow(QUERIES["claim_ended_file"], bucket, seconds))

    async def put_off_deletion(self, connection: Connection, export: Export, *, longest_seconds: float) -> None:
        """Each time for twice as long, from a minute on."""
        await connection.execute(QUERIES["put_off_deletion"], export.id, longest_seconds)

    async def list_orphaned_keys(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that attempts of ours once made, and nobody owns: neither makes, nor may download."""
        ours = [match for key in keys if (match := OBJECT_KEY.fullmatch(key))]
        rows = await connection.fetch(
            QUERIES["list_orphaned_keys"],
            [match[0] for match in ours],
            [uuid.UUID(match[1]) for match in ours],
            [int(match[2]) for match in ours],
        )
        return {row["key"] for row in rows}

    async def forget_old_idempotency_keys(self, connection: Connection) -> None:
        await connection.execute(QUERIES["forget_old_idempotency_keys"])

    async def estimate_completion(self, connection: Connection, export: Export) -> dt.datetime:
        estimate: dt.datetime = await connection.fetchval(QUERIES["estimate_completion"], export.id)
        return estimate


def _still_ours(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise ExportSupersededError
    return row


def _export_or_none(row: asyncpg.Record | None) -> Export | None:
    return None if row is None else _export(row)


def _export(row: asyncpg.Record | None) -> Export:
    assert row is not None
    known = {name: value for name, value in row.items() if name in Export.__struct_fields__}
    return Export(**known | {"status": ExportStatus(row["status"])})

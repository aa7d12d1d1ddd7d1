"""The table of exports: what an export is, and every change of its state. A change and its audit event are one call."""

import datetime as dt
import hashlib
import uuid
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

import asyncpg
import msgspec

from languages.choice import NO_WISHES, Wishes
from service.backends.database import QUERIES, Connection, Executor, iterate
from service.bookkeeping.audit import SYSTEM, Actor, AuditAction, AuditLog, actor_columns, storable
from service.bookkeeping.mails import Kind
from service.errors import ExportNotFoundError, ExportSupersededError
from service.export_spec import ExportSpec
from service.formats import Format
from service.object_keys import KEYS, OBJECT_KEY
from service.telemetry.tracing import trace_id_of
from service.user_ids import UserId

MAX_ATTEMPTS = 3
SYSTEM_COLUMNS = (SYSTEM.type, None, None, None, None)


class ExportStatus(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class DeskRequest(msgspec.Struct, frozen=True):
    """Why an operator asks on a user's behalf, and since when; None: now. `requested_by` is the name of the API key."""

    requested_by: str
    reason: str
    received_at: dt.datetime | None = None


class ExportRequest(msgspec.Struct, frozen=True):
    """A request for an export: `actor` is the caller and their address, the other fields are options.

    `desk` makes it a request on the user's behalf.
    """

    spec: ExportSpec
    actor: Actor
    respond_async: bool = False
    idempotency_key: str | None = None
    traceparent: str | None = None
    desk: DeskRequest | None = None
    wishes: Wishes = NO_WISHES

    @property
    def digest(self) -> bytes:
        """Requests with the same idempotency key must have the same digest."""
        if self.desk is None:
            return self.spec.digest
        return hashlib.sha256(self.spec.digest + msgspec.json.encode(self.desk)).digest()


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `carryout.export_jobs`. `attempt` is the fencing number; `expired` is by the database's clock.

    The bytes are those of attachments; they and the files are None where there are none.

    `subject_missing`: the last look into the application found no such user. `disowned`: its user is gone for good.

    `requested_by` to `due_at` are those of a request on the user's behalf, and None for the user's own.
    """

    id: uuid.UUID
    user_id: UserId
    format: Format
    status: ExportStatus
    queued: bool
    created_at: dt.datetime
    estimated_records: int
    attempt: int
    failures: int
    records_done: int
    bytes_done: int
    bytes_total: int | None
    files_included: int | None
    files_missing: int | None
    completed_at: dt.datetime | None
    record_count: int | None
    file_url: str | None
    size_bytes: int | None
    sha256: bytes | None
    expires_at: dt.datetime | None
    file_deleted_at: dt.datetime | None
    file_missing_at: dt.datetime | None
    error_message: str | None
    idempotency_key: str | None
    request_id: str | None
    traceparent: str | None
    spec_digest: bytes | None
    subject_missing: bool
    sections: tuple[str, ...]
    range_start: dt.datetime | None
    range_end: dt.datetime | None
    since_job_id: uuid.UUID | None
    changes_from: dt.datetime | None
    schema_digest: bytes | None
    bom: bool
    big_as_text: bool
    unguarded: bool
    requested_by: str | None
    reason: str | None
    received_at: dt.datetime | None
    due_at: dt.datetime | None
    answered_at: dt.datetime | None
    claimed_language: str | None
    accepted_language: str | None
    expired: bool = False
    disowned: bool | None = None
    seconds_left: float | None = None

    @property
    def spec(self) -> ExportSpec:
        return ExportSpec(
            self.user_id,
            self.format,
            self.sections,
            self.range_start,
            self.range_end,
            self.since_job_id,
            self.bom,
            self.big_as_text,
            self.unguarded,
        )

    @property
    def wishes(self) -> Wishes:
        return Wishes(self.claimed_language, self.accepted_language)

    @property
    def by_desk(self) -> bool:
        """Whether an operator has asked for it on the user's behalf."""
        return self.requested_by is not None

    @property
    def running(self) -> bool:
        return self.status in {ExportStatus.PENDING, ExportStatus.PROCESSING}

    @property
    def log_context(self) -> dict[str, str]:
        """The fields that join the log lines of a request, its export and its mails."""
        known = {
            "job_id": str(self.id),
            "request_id": self.request_id,
            "trace_id": trace_id_of(self.traceparent),
        }
        return {name: value for name, value in known.items() if value}


class ExportFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Criteria for exports. None matches every export."""

    user_id: UserId | None = None
    status: ExportStatus | None = None
    since_seconds: float | None = None
    limit: int


class ExportSummary(msgspec.Struct, frozen=True, kw_only=True):
    """An export as operators see it. `mail` is the state of its mail; causes are what users aren't told."""

    id: uuid.UUID
    user_id: str
    status: ExportStatus
    format: Format
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


class Mail(NamedTuple):
    """A mail that a change causes, if it has a Message-ID."""

    kind: Kind
    message_id: str | None


NO_MAIL = (None, None)
NO_ATTACHMENTS = (None, None, None)


class Limits(NamedTuple):
    """The exports that a user may make in an hour, the files that they may keep, and the exports, failed and cancelled
    ones included, that are accepted in an hour.
    """

    per_hour: int
    kept_files: int
    accepted_per_hour: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`export` is a new one (`is_new`), that of an earlier request with the same key (`is_earlier`), or a running one.

    Each wait is in seconds, and None if its limit refuses nothing.
    """

    export: Export | None
    is_new: bool
    is_earlier: bool
    rate_wait: int | None
    accepted_wait: int | None
    kept_files_wait: int | None


class FileFacts(msgspec.Struct, frozen=True):
    """Facts about a finished file. Rows that its snapshot can't see are dated from `changes_from` on."""

    url: str
    records: int
    size_bytes: int
    sha256: bytes
    changes_from: dt.datetime | None = None
    schema_digest: bytes | None = None
    attachments: "AttachmentFacts | None" = None


class AttachmentFacts(msgspec.Struct, frozen=True):
    """How many attachments a package has and lacks, and the bytes that were to be read."""

    bytes_total: int
    included: int
    missing: int


class Progress(NamedTuple):
    """How far an attempt is; the bytes are those of attachments, whose total is None until it is known."""

    records: int = 0
    bytes: int = 0
    bytes_total: int | None = None


async def find_mark(connection: Connection) -> str:
    """The mark of this installation, in the keys of its objects."""
    mark: str = await connection.fetchval(QUERIES["find_mark"])
    return mark


class ExportRepository:
    """Changes run in the caller's transaction, and write their audit events in it."""

    def __init__(self, *, lease_seconds: float) -> None:
        """`lease_seconds`: how long an attempt counts as alive without a heartbeat."""
        self._lease_seconds = lease_seconds
        self._audit = AuditLog()

    async def lock_user(self, connection: Connection, user_id: UserId) -> None:
        """Serialize the user's requests until the transaction ends, so that limits are enforced exactly."""
        await connection.execute(QUERIES["lock_user"], str(user_id))

    async def find_admission(self, connection: Executor, request: ExportRequest, limits: Limits) -> Verdict:
        """The verdict of the rules on the request as of now, which may be outdated at once."""
        arguments = (request.spec.user_id, request.idempotency_key, *limits)
        return _read_verdict(await connection.fetchrow(QUERIES["find_admission"], *arguments))

    async def admit(
        self, connection: Executor, request: ExportRequest, limits: Limits, *, queued: bool, estimated_records: int
    ) -> Verdict:
        """The verdict in the user's turn and, unless a rule refuses the request, a new export.

        It is pending if `queued`, and otherwise the caller's to make.
        """
        spec, desk = request.spec, request.desk
        actor_type, actor, ip, user_agent, request_id = actor_columns(connection, request.actor)
        row = await connection.fetchrow(
            QUERIES["admit_export"],
            spec.user_id,
            request.idempotency_key,
            *limits,
            spec.format,
            queued,
            estimated_records,
            request_id,
            request.traceparent,
            self._lease_seconds,
            request.digest,
            spec.sections,
            spec.start,
            spec.end,
            spec.since,
            spec.bom,
            spec.big_as_text,
            spec.unguarded,
            actor_type,
            actor,
            ip,
            user_agent,
            desk and desk.requested_by,
            desk and storable(connection, desk.reason),
            desk and desk.received_at,
            *request.wishes,
        )
        return _read_verdict(row)

    async def find(self, connection: Executor, job_id: uuid.UUID) -> Export | None:
        return _export_or_none(await connection.fetchrow(QUERIES["find_export"], job_id))

    async def find_by_key(self, connection: Executor, user_id: UserId, key: str) -> Export | None:
        """The export that the user has asked for with this idempotency key."""
        return _export_or_none(await connection.fetchrow(QUERIES["find_export_by_key"], user_id, key))

    async def find_request_by_key(self, connection: Executor, key: str) -> Export | None:
        """The request, for any user, that was made with this idempotency key of the desk."""
        return _export_or_none(await connection.fetchrow(QUERIES["find_request_by_key"], key))

    async def get_request(self, connection: Executor, job_id: uuid.UUID) -> Export:
        """Raises ExportNotFoundError for a user's own export as for an unknown id."""
        export = await self.find(connection, job_id)
        if export is None or not export.by_desk:
            raise ExportNotFoundError
        return export

    async def list_requests(self, connection: Connection, *, after: uuid.UUID | None, limit: int) -> list[Export]:
        """Newest first, from the one after `after`."""
        return [read_export(row) for row in await connection.fetch(QUERIES["list_requests"], after, limit)]

    async def note_answered(self, connection: Connection, export: Export) -> None:
        """The user has, or doesn't want, what the desk has asked for."""
        if export.by_desk:
            await connection.execute(QUERIES["answer_requests"], export.id)

    async def get_owned(self, connection: Executor, job_id: uuid.UUID, user_id: UserId) -> Export:
        """Raises ExportNotFoundError for another user's export as for an unknown id, also if both have had one id."""
        export = await self.find(connection, job_id)
        if export is None or export.user_id != user_id or export.disowned:
            raise ExportNotFoundError
        return export

    async def list_owned(
        self, connection: Connection, user_id: UserId, *, after: uuid.UUID | None, limit: int
    ) -> list[Export]:
        """Newest first, from the one after `after`; none of a user whose id the database can't hold."""
        try:
            rows = await connection.fetch(QUERIES["list_exports"], user_id, after, limit)
        except asyncpg.UntranslatableCharacterError:
            return []
        return [read_export(row) for row in rows]

    async def iterate_latest(self, connection: Connection, wanted: ExportFilter) -> AsyncGenerator[ExportSummary]:
        """Newest first, of all users unless `wanted` names one; however many, in little memory."""
        arguments = (wanted.user_id, wanted.status, wanted.since_seconds, wanted.limit)
        async with aclosing(iterate(connection, QUERIES["list_latest_exports"], *arguments)) as rows:
            async for row in rows:
                yield msgspec.convert(dict(row), ExportSummary)

    async def show(self, connection: Connection, job_id: uuid.UUID) -> dict[str, Any]:
        """Each column that has a value, `mails` and `webhooks`, for operators. Raises ExportNotFoundError."""
        found: str | None = await connection.fetchval(QUERIES["show_export"], job_id)
        if found is None:
            raise ExportNotFoundError
        shown: dict[str, Any] = msgspec.json.decode(found)
        return shown

    async def list_unended(self, connection: Connection, user_id: UserId) -> list[Export]:
        """The user's running export, and the completed ones whose links work."""
        return [read_export(row) for row in await connection.fetch(QUERIES["list_unended_exports"], user_id)]

    async def claim(self, connection: Executor, job_id: uuid.UUID) -> Export | None:
        """Take a pending export, or one whose lease is lost; None if there is nothing to take."""
        row = await _change(
            connection, SYSTEM, AuditAction.STARTED, "claim_export", job_id, self._lease_seconds, MAX_ATTEMPTS
        )
        return _export_or_none(row)

    async def renew_lease(self, connection: Connection, export: Export, *, progress: Progress) -> None:
        row = await connection.fetchrow(
            QUERIES["renew_lease"], export.id, export.attempt, self._lease_seconds, *progress
        )
        _still_ours(row)

    async def complete(
        self, connection: Executor, export: Export, file: FileFacts, *, ttl_seconds: int, message_id: str | None = None
    ) -> Export:
        """Like every change below: raises ExportSupersededError if this attempt isn't the current one any more.

        With `message_id`, the user of a queued export gets a mail.
        """
        row = await _change(
            connection,
            SYSTEM,
            AuditAction.COMPLETED,
            "complete_export",
            export.id,
            export.attempt,
            file.records,
            file.url,
            file.size_bytes,
            file.sha256,
            ttl_seconds,
            file.changes_from,
            file.schema_digest,
            *(msgspec.structs.astuple(file.attachments) if file.attachments else NO_ATTACHMENTS),
            mail=Mail("ready", message_id),
        )
        return read_export(_still_ours(row))

    async def retry(
        self, connection: Executor, export: Export, *, after_seconds: float, cause: str, failures: int = 1
    ) -> Export:
        """Pending again, for later; `failures` is how many this attempt counts for."""
        arguments = (export.id, export.attempt, after_seconds, cause, failures)
        row = await _change(connection, SYSTEM, AuditAction.RETRIED, "retry_export", *arguments, outcome=cause)
        return read_export(_still_ours(row))

    async def note_unqueued(self, connection: Connection, export: Export) -> None:
        """Record that this pending export is not in the queue, so that the next repair enqueues it."""
        await connection.execute(QUERIES["note_unqueued"], export.id, export.attempt)

    async def hand_back(self, connection: Executor, export: Export) -> Export:
        """Pending again at once, at no cost: its worker was told to stop."""
        arguments, outcome = (export.id, export.attempt), "worker stopping"
        row = await _change(connection, SYSTEM, AuditAction.RETRIED, "hand_back_export", *arguments, outcome=outcome)
        return read_export(_still_ours(row))

    async def fail(
        self, connection: Executor, export: Export, *, message: str, cause: str, message_id: str | None = None
    ) -> Export:
        """`message` is the user's to read, `cause` the operator's. Mails are as for `complete`."""
        row = await _change(
            connection,
            SYSTEM,
            AuditAction.FAILED,
            "fail_export",
            export.id,
            export.attempt,
            message,
            cause,
            outcome=message,
            mail=Mail("failed", message_id),
        )
        return read_export(_still_ours(row))

    async def end(
        self, connection: Connection, job_id: uuid.UUID, actor: Actor, *, message: str, cause: str | None = None
    ) -> Export | None:
        """Fail a running export, saying `message`; end the link of a completed one, for the `cause` in its audit event.

        The export as it is then, failed or completed, or None if it had ended before. The file of a completed one is
        left to the caller, and to the worker, which deletes each file whose link has ended.
        """
        if row := await connection.fetchrow(QUERIES["cancel_export"], job_id, message):
            cancelled = read_export(row)
            await self._record(connection, actor, AuditAction.CANCELLED, cancelled)
            await self._record(connection, actor, AuditAction.FAILED, cancelled, outcome=message)
            await self.note_answered(connection, cancelled)
            return cancelled
        row = await _change(connection, actor, AuditAction.DELETED, "end_link", job_id, outcome=cause)
        if row:
            await self.note_answered(connection, read_export(row))
        return _export_or_none(row)

    async def mark_file_deleted(self, connection: Connection, job_id: uuid.UUID) -> Export | None:
        """None if it was marked before."""
        return _export_or_none(await connection.fetchrow(QUERIES["mark_file_deleted"], job_id))

    async def expire(self, connection: Connection, export: Export) -> bool:
        """Mark the file of an ended link as deleted. False if it was marked before: then it is audited already."""
        marked = await self.mark_file_deleted(connection, export.id)
        if marked:
            await self._record(connection, SYSTEM, AuditAction.EXPIRED, export)
        return marked is not None

    async def record_download(self, connection: Connection, export: Export, actor: Actor, *, outcome: str) -> None:
        await self._record(connection, actor, AuditAction.DOWNLOADED, export, outcome=outcome)
        await self.note_answered(connection, export)

    async def record_cut(self, connection: Connection, export: Export, actor: Actor, *, outcome: str) -> None:
        """Audit that a download was cut before its end."""
        await self._record(connection, actor, AuditAction.DOWNLOAD_CUT, export, outcome=outcome)

    async def record_mail(self, connection: Connection, job_id: uuid.UUID, *, outcome: str) -> Export:
        """Audit the outcome of a mail about the export, which exists as long as the mail does."""
        row = await _change(connection, SYSTEM, AuditAction.EMAILED, "find_export", job_id, outcome=outcome)
        assert row is not None  # by the mail's foreign key
        return read_export(row)

    async def record_resent_mail(self, connection: Connection, export: Export, actor: Actor) -> None:
        """Audit that `actor` wants the export's mail to be sent again."""
        await self._record(connection, actor, AuditAction.MAIL_RESENT, export)

    async def record_denial(self, connection: Executor, job_id: uuid.UUID, actor: Actor) -> None:
        """Audit that `actor` may not have the export: at most once a minute for users, and once for wrong links.

        They are apart: wrong links, which need no account, must not hide another user. Unknown ids leave no event.
        """
        query = "claim_link_denial" if actor.type == "link" else "claim_user_denial"
        await _change(connection, actor, AuditAction.DENIED, query, job_id)

    async def take_forgotten(self, connection: Connection, *, after_seconds: float, limit: int) -> list[Export]:
        """Due exports, oldest first, unclaimed for `after_seconds`. No other worker gets them for as long."""
        rows = await connection.fetch(QUERIES["take_forgotten_exports"], MAX_ATTEMPTS, after_seconds, limit)
        return [read_export(row) for row in rows]

    async def fail_lost(self, connection: Connection, *, message: str, limit: int) -> list[Export]:
        """Fail exports whose lease was lost for the last time."""
        rows = await connection.fetch(QUERIES["fail_lost_exports"], MAX_ATTEMPTS, message, limit)
        lost = [read_export(row) for row in rows]
        for export in lost:
            await self._record(connection, SYSTEM, AuditAction.FAILED, export, outcome=message)
        return lost

    async def claim_subject_checks(self, connection: Connection, *, after_seconds: float, limit: int) -> list[Export]:
        """Exports that a user is served by, and whose user was looked for `after_seconds` ago at the latest; they are
        no other worker's for as long.
        """
        rows = await connection.fetch(QUERIES["claim_subject_checks"], after_seconds, limit)
        return [read_export(row) for row in rows]

    async def claim_ended_subject_checks(
        self, connection: Connection, *, after_seconds: float, limit: int
    ) -> list[Export]:
        """The same for exports that serve no user any more, but are in a user's list."""
        rows = await connection.fetch(QUERIES["claim_ended_subject_checks"], after_seconds, limit)
        return [read_export(row) for row in rows]

    async def note_subject(self, connection: Connection, job_id: uuid.UUID, *, missing: bool) -> None:
        await connection.execute(QUERIES["note_subject"], job_id, missing)

    async def disown(self, connection: Connection, export: Export) -> None:
        """Keep the user's ended exports, up to this one, from the next user with the same id."""
        await connection.execute(QUERIES["disown_exports"], export.user_id, export.created_at)

    async def claim_ended_file(self, connection: Connection, *, bucket: str, url: str, seconds: float) -> Export | None:
        """Claim an export whose file is due for deletion, for `seconds`; of those in the bucket whose URLs begin with
        `url`.
        """
        return _export_or_none(await connection.fetchrow(QUERIES["claim_ended_file"], bucket, seconds, url + KEYS))

    async def put_off_deletion(self, connection: Connection, export: Export, *, longest_seconds: float) -> None:
        """Retry with exponential backoff: doubled each time, starting at a minute."""
        await connection.execute(QUERIES["put_off_deletion"], export.id, longest_seconds)

    async def list_orphaned_keys(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        """The orphans among `keys`: objects of our attempts that no running or completed export owns."""
        ours = [match for key in keys if (match := OBJECT_KEY.fullmatch(key))]
        rows = await connection.fetch(
            QUERIES["list_orphaned_keys"],
            [match[0] for match in ours],
            [uuid.UUID(match[1]) for match in ours],
            [int(match[2]) for match in ours],
        )
        return {row["key"] for row in rows}

    async def take_sweep(self, connection: Connection, worker_id: uuid.UUID, *, seconds: float) -> bool:
        """Take or keep the lease of the sweep; False while another worker has it."""
        return bool(await connection.fetchval(QUERIES["take_sweep_lease"], worker_id, seconds))

    async def end_sweep(self, connection: Connection, worker_id: uuid.UUID, *, unknown_objects: int | None) -> None:
        """`unknown_objects` is how many the sweep found, for all processes' metrics; None if it wasn't completed."""
        await connection.execute(QUERIES["end_sweep_lease"], worker_id, unknown_objects)

    async def list_unknown_jobs(self, connection: Connection, job_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
        return {row["id"] for row in await connection.fetch(QUERIES["list_unknown_jobs"], list(job_ids))}

    async def list_mismatched_files(  # noqa: PLR0913 (a page of a comparison)
        self,
        connection: Connection,
        *,
        after: uuid.UUID,
        until: uuid.UUID,
        urls: Sequence[str],
        limit: int,
        marked: bool,
    ) -> list[tuple[Export, bool]]:
        """Exports in this range of ids that are marked as missing though the storage lists their file among `urls`, or
        the other way round; and whether it does. With `marked` also those that are marked, and not listed.
        """
        rows = await connection.fetch(QUERIES["list_mismatched_files"], after, until, urls, limit, marked)
        return [(read_export(row), row["present"]) for row in rows]

    async def list_elsewhere(self, connection: Connection, *, url: str, after: uuid.UUID, limit: int) -> list[Export]:
        """Exports whose files aren't behind `url`, a bucket's and a prefix'; in the order of their ids."""
        rows = await connection.fetch(QUERIES["list_files_elsewhere"], url + KEYS, after, limit)
        return [read_export(row) for row in rows]

    async def note_missing(self, connection: Connection, export: Export) -> bool:
        """Mark the file as missing from the storage. False if it was marked, moved or ended meanwhile."""
        row = await connection.fetchrow(QUERIES["note_missing_file"], export.id, export.file_url)
        if row:
            await self._record(connection, SYSTEM, AuditAction.FILE_MISSING, export, outcome=export.file_url)
        return row is not None

    async def note_found(self, connection: Connection, export: Export, url: str) -> bool:
        """Record that the file is in the storage, at `url`. False if it was deleted meanwhile."""
        row = await connection.fetchrow(QUERIES["note_found_file"], export.id, url)
        if row:
            await self._record(connection, SYSTEM, AuditAction.FILE_FOUND, export, outcome=url)
        return row is not None

    async def forget_old_idempotency_keys(self, connection: Connection) -> None:
        await connection.execute(QUERIES["forget_old_idempotency_keys"])

    async def estimate_completion(self, connection: Executor, export: Export) -> dt.datetime:
        estimate: dt.datetime = await connection.fetchval(QUERIES["estimate_completion"], export.id)
        return estimate

    async def _record(
        self,
        connection: Connection,
        actor: Actor,
        action: AuditAction,
        export: Export,
        *,
        outcome: str | None = None,
    ) -> None:
        await self._audit.record(
            connection,
            actor,
            action,
            user_id=export.user_id,
            job_id=export.id,
            format_=export.format,
            records=export.record_count,
            outcome=outcome,
        )


async def _change(  # noqa: PLR0913 (a row's columns)
    connection: Executor,
    actor: Actor,
    action: AuditAction,
    query: str,
    *arguments: object,
    outcome: str | None = None,
    mail: Mail | None = None,
) -> asyncpg.Record | None:
    """The row that `query` has changed or found, if any: it, its event and its mail are one statement."""
    by = SYSTEM_COLUMNS if actor is SYSTEM else actor_columns(connection, actor)
    rest = (*by, action, outcome, *(mail or NO_MAIL))
    return await connection.fetchrow(_recording(query, len(arguments)), *arguments, *rest)


@cache
def _recording(query: str, arguments: int) -> str:
    names = ("actor_type", "actor", "ip", "user_agent", "request_id", "action", "outcome", "kind", "message_id")
    parameters = {name: f"${number}" for number, name in enumerate(names, start=arguments + 1)}
    return QUERIES["record_change"].format(change=QUERIES[query], **parameters)


def _still_ours(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise ExportSupersededError
    return row


def _export_or_none(row: asyncpg.Record | None) -> Export | None:
    return None if row is None else read_export(row)


def _read_verdict(row: asyncpg.Record | None) -> Verdict:
    assert row is not None
    return Verdict(
        export=None if row["id"] is None else read_export(row),
        is_new=row.get("is_new", False),
        is_earlier=bool(row["is_earlier"]),
        rate_wait=row["rate_wait"],
        accepted_wait=row["accepted_wait"],
        kept_files_wait=row["kept_files_wait"],
    )


def read_export(row: asyncpg.Record | None) -> Export:
    assert row is not None
    known = {name: value for name, value in row.items() if name in Export.__struct_fields__}
    converted = {
        "status": ExportStatus(row["status"]),
        "format": Format(row["format"]),
        "sections": tuple(row["sections"]),
    }
    return Export(**known | converted)

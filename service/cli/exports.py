"""Commands for operators: list the exports of all users, and end exports."""

import asyncio
import uuid
from operator import attrgetter
from pathlib import Path
from typing import Any

import click
import msgspec

from guard.records import echo_json
from guard.terminal import echo
from service.backends.failures import describe_cause
from service.backends.storage import open_storage
from service.bookkeeping.audit import AuditEvent, AuditFilter, AuditLog
from service.bookkeeping.exports import Export, ExportFilter, ExportRepository, ExportStatus
from service.cli.options import (
    choice_of,
    env_file_option,
    limit_option,
    load_settings,
    open_database,
    since_option,
    user_id_of,
)
from service.cli.output import echo_found, echo_table, json_option
from service.errors import UnavailableError
from service.exports import cancellation
from service.exports.files import is_in, key_of
from service.settings import Settings

MAX_EVENTS = 10_000
COLUMNS = {
    "id": "id",
    "user_id": "user",
    "status": "status",
    "format": "format",
    "record_count": "records",
    "size_bytes": "bytes",
    "created_at": "created",
    "completed_at": "completed",
    "expires_at": "expires",
    "file_deleted_at": "file deleted",
    "mail": "mail",
    "error_message": "error message",
    "error_cause": "cause",
    "mail_cause": "mail cause",
}


@click.group()
def exports() -> None:
    """List, show and end the exports of all users."""


@exports.command("list")
@click.option("--user", help="Only exports of this user.")
@click.option("--status", type=choice_of(ExportStatus), help="Only exports with this status.")
@since_option
@limit_option("Maximum number of exports; the newest are shown.")
@json_option
@env_file_option
def list_exports(  # noqa: PLR0913 (a command's options)
    *,
    user: str | None,
    status: str | None,
    since: float | None,
    limit: int,
    as_json: bool,
    env_file: Path | None,
) -> None:
    """List exports with their users, status and mails, newest first."""
    settings = load_settings(env_file)
    wanted = ExportFilter(
        user_id=user_id_of(settings, user),
        status=ExportStatus(status) if status else None,
        since_seconds=since,
        limit=limit,
    )

    async def show() -> None:
        async with open_database(settings) as connection:
            found = _repository(settings).iterate_latest(connection, wanted)
            await echo_found(found, COLUMNS.values(), attrgetter(*COLUMNS), as_json=as_json)

    asyncio.run(show())


@exports.command("show")
@click.argument("job_id", type=click.UUID)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@env_file_option
def show_export(job_id: uuid.UUID, *, as_json: bool, env_file: Path | None) -> None:
    """Show all that is known of the export JOB_ID: row, mails, webhooks and events, and whether its file is there."""
    settings = load_settings(env_file)

    async def show() -> dict[str, Any]:
        async with open_database(settings) as connection:
            repository = _repository(settings)
            shown = await repository.show(connection, job_id)
            export = await repository.find(connection, job_id)
            wanted = AuditFilter(job_id=job_id, limit=MAX_EVENTS)
            events = [_set_fields(event) async for event in AuditLog().iterate_latest(connection, wanted)]
        assert export  # it was shown
        return shown | {"file": await _look_for_file(settings, export), "events": events}

    shown = asyncio.run(show())
    if as_json:
        echo_json([shown])
    else:
        _echo_parts(shown, {name: shown.pop(name, []) for name in ("mails", "webhooks", "events")})


def _set_fields(event: AuditEvent) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return {name: value for name, value in fields.items() if value is not None and name not in {"job_id", "user_id"}}


async def _look_for_file(settings: Settings, export: Export) -> str:
    if export.file_url is None or export.file_deleted_at:
        return "none"
    async with open_storage(settings) as storage:
        if not is_in(storage, export):
            return "in an earlier bucket: see carryout reconcile"
        try:
            return "in the storage" if await storage.has(key_of(export)) else "missing from the storage"
        except UnavailableError as error:
            return f"unknown: S3 {describe_cause(error)}"


def _echo_parts(shown: dict[str, Any], parts: dict[str, list[dict[str, Any]]]) -> None:
    echo_table(("export", "value"), list(shown.items()))
    for name, rows in parts.items():
        echo("", f"{name}: {len(rows)}")
        if rows:
            header = list(dict.fromkeys(column for row in rows for column in row))
            echo_table(header, [[row.get(column) for column in header] for row in rows])


@exports.command("end")
@click.argument("job_id", type=click.UUID, required=False)
@click.option("--user", help="End all exports of this user, for example after an erasure.")
@env_file_option
def end_exports(job_id: uuid.UUID | None, user: str | None, env_file: Path | None) -> None:
    """End the export JOB_ID or all exports of a user, as a deletion by the user does.

    A running export fails. The link of a completed export answers 410 at once, and a worker deletes its file. Exports
    that have ended before don't change.
    """
    if (job_id is None) == (user is None):
        raise click.UsageError("Give either JOB_ID or --user.")
    settings = load_settings(env_file)
    user_id = user_id_of(settings, user)

    async def end() -> list[Export]:
        repository = _repository(settings)
        async with open_database(settings) as connection:
            if job_id is not None:
                return await cancellation.cancel_for_operator(connection, repository, job_id)
            assert user_id is not None  # checked above
            return await cancellation.cancel_all_for_operator(connection, repository, user_id)

    echo(*_describe(asyncio.run(end())))


def _describe(ended: list[Export]) -> list[str]:
    if not ended:
        return ["nothing to end: there is no running export and no working link"]
    links = sum(export.status is ExportStatus.COMPLETED for export in ended)
    files = " (a worker deletes the files within seconds)" if links else ""
    return [f"running exports cancelled: {len(ended) - links}", f"links ended: {links}{files}"]


def _repository(settings: Settings) -> ExportRepository:
    return ExportRepository(lease_seconds=settings.lease_seconds)

"""Commands for operators: everybody's exports, for support and for when one has to end."""

import asyncio
import uuid
from pathlib import Path

import click

from service import operating
from service.auth import parse_user_id
from service.command_options import choice_of, env_file_option, load_settings, open_database, since_option
from service.command_output import echo_each, echo_table, json_option
from service.exports import Export, ExportFilter, ExportRepository, ExportStatus
from service.settings import Settings

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
    """All users' exports: look at them, end them."""


@exports.command("list")
@click.option("--user", help="Only this user's.")
@click.option("--status", type=choice_of(ExportStatus), help="Only those in this status.")
@since_option
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="The newest so many.")
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
    """Show who asked for what, and what became of it and of its mail, the newest first."""
    settings = load_settings(env_file)
    wanted = ExportFilter(
        user_id=parse_user_id(user, settings.user_id_type) if user is not None else None,
        status=ExportStatus(status) if status else None,
        since_seconds=since,
        limit=limit,
    )

    async def show() -> None:
        async with open_database(settings) as connection:
            exports = _repository(settings).iterate_latest(connection, wanted)
            if as_json:
                await echo_each(exports)
            else:
                echo_table(
                    [*COLUMNS.values()], [[getattr(export, name) for name in COLUMNS] async for export in exports]
                )

    asyncio.run(show())


@exports.command("end")
@click.argument("job_id", type=click.UUID, required=False)
@click.option("--user", help="All of this user's, as for one who was erased.")
@env_file_option
def end_exports(job_id: uuid.UUID | None, user: str | None, env_file: Path | None) -> None:
    """End the export JOB_ID, or all of a user's, as the user's own delete does.

    A running one fails, the link of a completed one answers 410 from now on, and a worker deletes its file. What has
    ended already stays as it is.
    """
    if (job_id is None) == (user is None):
        raise click.UsageError("Give either JOB_ID or --user.")
    settings = load_settings(env_file)
    user_id = parse_user_id(user, settings.user_id_type) if user is not None else None

    async def end() -> list[Export]:
        repository = _repository(settings)
        async with open_database(settings) as connection:
            if job_id is not None:
                return await operating.end_export(connection, repository, job_id)
            assert user_id is not None  # said above
            return await operating.end_exports_of_user(connection, repository, user_id)

    click.echo(_describe(asyncio.run(end())))


def _describe(ended: list[Export]) -> str:
    if not ended:
        return "nothing to end: no running export, no working link"
    links = sum(export.status is ExportStatus.COMPLETED for export in ended)
    files = " (a worker deletes the files within seconds)" if links else ""
    return f"running exports cancelled: {len(ended) - links}\nlinks ended: {links}{files}"


def _repository(settings: Settings) -> ExportRepository:
    return ExportRepository(lease_seconds=settings.lease_seconds)

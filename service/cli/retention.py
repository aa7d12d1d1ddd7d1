"""The command that deletes what is older than the operator's period of retention."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from guard.terminal import echo
from service.backends.database import Connection
from service.bookkeeping.audit import operator_actor
from service.bookkeeping.retention import Purged, count_purgeable
from service.bookkeeping.retention import purge as purge_rows
from service.cli.options import Age, env_file_option, load_settings, open_database
from service.errors import ConfigurationError
from service.settings import MIN_RETENTION_SECONDS, Settings


@click.command()
@click.option(
    "--older-than",
    type=Age(),
    help="A number with the unit s, m, h or d, at least 30d. Default: CARRYOUT_RETENTION_SECONDS.",
)
@click.option("--dry-run", is_flag=True, help="Count the rows, and delete nothing.")
@env_file_option
def purge(*, older_than: float | None, dry_run: bool, env_file: Path | None) -> None:
    """Delete the rows of exports, with their mails, and the events of the audit trail that are older.

    Exports and workers go on meanwhile: a thousand rows are deleted at a time. Exports whose files aren't deleted yet
    stay. Each batch leaves an event in the trail.
    """
    settings = load_settings(env_file)
    seconds = _period(settings, older_than)

    async def run() -> Purged:
        async with open_database(settings) as connection:
            if dry_run:
                return await count_purgeable(connection, seconds)

            @asynccontextmanager
            async def transaction() -> AsyncIterator[Connection]:
                async with connection.transaction():
                    yield connection

            return await purge_rows(transaction, seconds, operator_actor())

    found = asyncio.run(run())
    echo(f"{'would delete' if dry_run else 'deleted'} {found.exports} exports and {found.events} events")


def _period(settings: Settings, older_than: float | None) -> float:
    seconds = older_than if older_than is not None else settings.retention_seconds
    if seconds is None:
        raise ConfigurationError("No period is given: use --older-than, or set CARRYOUT_RETENTION_SECONDS")
    if seconds < MIN_RETENTION_SECONDS:
        raise click.UsageError("--older-than must be at least 30d: nothing younger is purged")
    return seconds

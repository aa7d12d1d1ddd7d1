"""The command that compares storage and exports, after a restore, a loss or a move."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from operator import attrgetter
from pathlib import Path

import click

from guard.terminal import echo
from service.cli.options import env_file_option, load_settings, open_database
from service.cli.output import echo_found, json_option
from service.exports.reconciliation import Outcome, open_reconciliation

EXIT_LEFT = 1
COLUMNS = {"mismatch": "found", "job_id": "export", "url": "url", "action": "action"}


@click.command()
@click.option("--apply", "applies", is_flag=True, help="Mend what is found. Without it nothing changes.")
@json_option
@env_file_option
def reconcile(*, applies: bool, as_json: bool, env_file: Path | None) -> None:
    """Compare the storage with the exports, and mend what differs.

    Files in an earlier bucket or prefix are moved into the one of the settings. Links of missing files answer 410.
    Objects that no export knows are reported; a worker deletes them after the lifetime of a file and a day. Exits with
    1 if a file had to be left.
    """
    settings = load_settings(env_file)
    counts: Counter[str] = Counter()

    async def counted(found: AsyncGenerator[Outcome]) -> AsyncGenerator[Outcome]:
        async with aclosing(found):
            async for outcome in found:
                counts[outcome.mismatch] += 1
                counts["left"] += outcome.left
                yield outcome

    async def run() -> None:
        async with (
            open_database(settings) as connection,
            open_reconciliation(settings, connection, apply=applies) as reconciliation,
        ):
            row = attrgetter(*COLUMNS)
            await echo_found(counted(reconciliation.outcomes()), COLUMNS.values(), row, as_json=as_json)

    asyncio.run(run())
    left = counts.pop("left", 0)
    summary = ", ".join(f"{name}: {count}" for name, count in counts.items()) or "nothing differs"
    echo(summary if applies or not counts else f"{summary}; nothing was changed: --apply does what it can", err=True)
    if left:
        sys.exit(EXIT_LEFT)

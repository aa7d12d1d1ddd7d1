"""The commands for those who use a running Carryout: `carryout export` and `carryout users`.

What they do is imported when they do it: aiohttp takes longer to load than `--help` should.
"""

import asyncio
import sys
import uuid
from collections.abc import Coroutine
from typing import Any

import click

from client.errors import MEANINGS, ClientError, ExitCode
from client.options import Target, target_options

# Tokens end while exports are made: their jobs go on, and their files wait for a new one.
RESUMABLE = {ExitCode.INCOMPLETE, ExitCode.NOT_AUTHORISED}
EXIT_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:<3}  {meaning}" for code, meaning in MEANINGS.items())


@click.command(epilog=EXIT_CODES)
@target_options("token", "CARRYOUT_TOKEN", lambda token: {"Authorization": f"Bearer {token}"})
@click.option("--format", "format_", type=click.Choice(["csv", "json"]), help="csv, unless --job is given.")
@click.option("--live", is_flag=True, help="Straight from the database: no job, no link, and no resuming.")
@click.option("--job", type=click.UUID, help="Wait for this export and download it, going on with FILE.part.")
@click.option("--no-wait", is_flag=True, help="Don't wait for an export that was already in progress.")
def export(target: Target, format_: str | None, job: uuid.UUID | None, *, live: bool, no_wait: bool) -> None:
    """Download all of the data of the user whose token is in CARRYOUT_TOKEN.

    Asks for an export, waits until it is made, downloads it, and checks its size and SHA-256.
    """
    if live and job:
        raise click.UsageError("--live has no --job")
    from client import work  # noqa: PLC0415 (see above)

    if live:
        _run(target, work.export_live(target, format_ or "csv"))
    elif job:
        _run(target, work.export(target, format_, str(job), wait=True))
    else:
        _run(target, work.export(target, format_ or "csv", None, wait=not no_wait))


@click.command(epilog=EXIT_CODES)
@click.argument("which", type=click.Choice(["simple", "full"]), default="simple")
@target_options("key", "CARRYOUT_API_KEY", lambda key: {"X-API-Key": key})
@click.option("--email", help="Only the users with exactly this address.")
@click.option("--resume", is_flag=True, help="Go on with the FILE.part of an interrupted run.")
def users(target: Target, which: str, email: str | None, *, resume: bool) -> None:
    """Download the list of users as CSV, with the API key in CARRYOUT_API_KEY.

    A broken download goes on after the last whole row; the rows from there on are as they are by then.
    """
    from client import work  # noqa: PLC0415 (see above)

    _run(target, work.list_users(target, which, email, resume=resume))


def _run(target: Target, work: Coroutine[Any, Any, None]) -> None:
    """End the process with the work's exit code; say what went wrong and, where that is possible, how to go on."""
    try:
        asyncio.run(work)
    except ClientError as error:
        target.console.fail(str(error), resumable=error.exit_code in RESUMABLE, hint=error.hint)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(ExitCode.BROKEN_PIPE)
    except OSError as error:
        target.console.fail(f"{target.path} can't be written: {error.strerror}", resumable=True)
        sys.exit(ExitCode.REFUSED)
    except KeyboardInterrupt:
        target.console.fail("Interrupted", resumable=True)
        sys.exit(ExitCode.INTERRUPTED)

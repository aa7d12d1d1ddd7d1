"""The commands for those who use a running Carryout: `carryout export` and `carryout users`."""

import asyncio
import sys
import uuid
from collections.abc import Coroutine
from typing import Any

import click

from client.errors import MEANINGS, ClientError, ExitCode
from client.exports import Job, download_export, request_export, stream_export, wait_for
from client.lists import UserList
from client.options import Target, target_options
from client.outputs import open_output

LISTS = {"simple": "api/v1/users/export", "full": "api/v1/users/export-full"}
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
    if live:
        _run(target, _export_live(target, format_ or "csv"))
    elif job:
        _run(target, _export(target, format_, Job(str(job)), wait=True))
    else:
        _run(target, _export(target, format_ or "csv", None, wait=not no_wait))


@click.command(epilog=EXIT_CODES)
@click.argument("which", type=click.Choice(list(LISTS)), default="simple")
@target_options("key", "CARRYOUT_API_KEY", lambda key: {"X-API-Key": key})
@click.option("--email", help="Only the users with exactly this address.")
@click.option("--resume", is_flag=True, help="Go on with the FILE.part of an interrupted run.")
def users(target: Target, which: str, email: str | None, *, resume: bool) -> None:
    """Download the list of users as CSV, with the API key in CARRYOUT_API_KEY.

    A broken download goes on after the last whole row; the rows from there on are as they are by then.
    """
    _run(target, _list_users(target, which, email, resume=resume))


async def _export(target: Target, format_: str | None, job: Job | None, *, wait: bool) -> None:
    console = target.console
    with open_output(target.path, force=target.force, resume=job is not None) as output:
        async with target.open_api() as api:
            if job is None:
                job = await request_export(api, format_ or "csv", console, wait=wait)
            console.resume_hint = target.resume_command("export", "--job", job.id)
            made = await wait_for(api, job, format_, console)
            await download_export(api, made, output, console)
        console.say(f"{target.path}: {made.record_count} records, {output.size_bytes} bytes, checked")


async def _export_live(target: Target, format_: str) -> None:
    with open_output(target.path, force=target.force, resume=False) as output:
        async with target.open_api() as api:
            await stream_export(api, format_, output, target.console)
        target.console.say(f"{target.path}: {output.size_bytes} bytes")


async def _list_users(target: Target, which: str, email: str | None, *, resume: bool) -> None:
    filters = {} if email is None else {"email": email}
    options = [f"--{name}={text}" for name, text in filters.items()]
    target.console.resume_hint = target.resume_command("users", which, *options, "--resume")
    with (
        open_output(target.path, force=target.force, resume=resume) as output,
        target.console.progress("Receiving", "users") as advance,
    ):
        async with target.open_api() as api:
            count = await UserList(api, LISTS[which], {"format": "csv", **filters}, output, advance).run()
        target.console.say(f"{target.path}: {count} users, {output.size_bytes} bytes")


def _run(target: Target, work: Coroutine[Any, Any, None]) -> None:
    """End the process with the work's exit code; say what went wrong and, where that is possible, how to go on."""
    try:
        asyncio.run(work)
    except ClientError as error:
        target.console.fail(str(error), resumable=error.exit_code is ExitCode.INCOMPLETE, hint=error.hint)
        sys.exit(error.exit_code)
    except OSError as error:
        target.console.fail(str(error), resumable=True)
        sys.exit(ExitCode.REFUSED)
    except KeyboardInterrupt:
        target.console.fail("Interrupted", resumable=True)
        sys.exit(ExitCode.INTERRUPTED)

"""The commands for users of a running Carryout: `carryout export`, `list`, `users` and `verify`.

They import their implementation when they run: aiohttp takes longer to load than `--help` should.
"""

import asyncio
import sys
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from client.console import Console
from client.errors import MEANINGS, ClientError, ExitCode
from client.options import Service, Target, target_options
from client.words import gettext

T = TypeVar("T")

# A token may expire while its export is made: the job continues, and the user can fetch the file with a new token.
RESUMABLE = {ExitCode.INCOMPLETE, ExitCode.NOT_AUTHORISED}
EXIT_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:<3}  {meaning}" for code, meaning in MEANINGS.items())


@click.command(epilog=EXIT_CODES)
@target_options("token", "CARRYOUT_TOKEN", lambda token: {"Authorization": f"Bearer {token}"})
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "json", "ndjson", "xlsx", "zip"]),
    help="Default: csv, or the format of --job.",
)
@click.option("--section", "sections", multiple=True, metavar="NAME", help="Only this section; may be repeated.")
@click.option("--from", "start", metavar="TIME", help="Only from this date (2025-01-31) or RFC 3339 time on.")
@click.option("--to", "end", metavar="TIME", help="Only before this date or time.")
@click.option(
    "--since-last",
    is_flag=True,
    help="Only what is new since the last export whose link still works, or since its --to.",
)
@click.option("--live", is_flag=True, help="Stream straight from the database: no job, no link, can't be resumed.")
@click.option("--job", type=click.UUID, help="Wait for this export and download it; resumes FILE.part.")
@click.option("--no-wait", is_flag=True, help="Don't wait for an export that was already in progress.")
def export(  # noqa: PLR0913 (its options)
    target: Target,
    *,
    format_: str | None,
    sections: tuple[str, ...],
    start: str | None,
    end: str | None,
    since_last: bool,
    live: bool,
    job: uuid.UUID | None,
    no_wait: bool,
) -> None:
    """Download the data of a user, with the token in CARRYOUT_TOKEN.

    Requests an export, waits until it is made, downloads it, and checks its size and SHA-256.
    """
    if live and job:
        raise click.UsageError(gettext("--live can't be combined with --job"))
    if live and format_ == "zip":
        raise click.UsageError(gettext("--live can't be combined with --format zip"))
    if job and (sections or start or end or since_last):
        raise click.UsageError(gettext("--section, --from, --to and --since-last can't be combined with --job"))
    if since_last and (start or live):
        raise click.UsageError(gettext("--since-last can't be combined with --from or --live"))
    from client import api, work  # noqa: PLC0415 (see above)

    selection = api.Selection(sections or None, start, end)

    if live:
        _run(target, work.export_live(target, format_ or "csv", selection))
    elif job:
        _run(target, work.export(target, format_, str(job), wait=True))
    else:
        made = work.export(target, format_ or "csv", None, wait=not no_wait, selection=selection, since_last=since_last)
        _run(target, made)


@click.command(epilog=EXIT_CODES)
@click.argument("which", type=click.Choice(["simple", "full"]), default="simple")
@target_options("key", "CARRYOUT_API_KEY", lambda key: {"X-API-Key": key})
@click.option("--email", help="Only the users with exactly this address.")
@click.option("--resume", is_flag=True, help="Resume from the FILE.part of an interrupted run.")
def users(target: Target, which: str, email: str | None, *, resume: bool) -> None:
    """Download the list of users as CSV, with the API key in CARRYOUT_API_KEY.

    A broken download resumes after the last complete row; later rows are read when it resumes.
    """
    from client import work  # noqa: PLC0415 (see above)

    _run(target, work.list_users(target, which, email, resume=resume))


def _read_parameters(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if any(not name or not equals for name, equals, _ in pairs):
        raise click.BadParameter("must read as NAME=VALUE")
    return {name: value for name, _, value in pairs}


@click.command("list", epilog=EXIT_CODES)
@click.argument("name")
@target_options("key", "CARRYOUT_API_KEY", lambda key: {"X-API-Key": key})
@click.option(
    "--format", "format_", type=click.Choice(["csv", "json", "ndjson", "xlsx"]), default="csv", show_default=True
)
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_read_parameters,
    help="A parameter that the list declares; may be repeated.",
)
@click.option("--updated-since", metavar="TIME", help="Only rows from this date (2025-01-31) or RFC 3339 time on.")
@click.option("--resume", is_flag=True, help="Resume from the FILE.part of an interrupted run; not for xlsx.")
def list_(  # noqa: PLR0913 (its options)
    target: Target, name: str, format_: str, parameters: dict[str, str], *, updated_since: str | None, resume: bool
) -> None:
    """Download the operators' list NAME, with the API key in CARRYOUT_API_KEY.

    A broken download resumes after the last complete row; later rows are read when it resumes.
    """
    from client import work  # noqa: PLC0415 (see above)

    if updated_since is not None:
        parameters = parameters | {"updated_since": updated_since}
    _run(target, work.download_list(target, name, format_, parameters, resume=resume))


@click.command(epilog=EXIT_CODES)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--quiet", is_flag=True, help="Print errors only.")
def verify(file: Path, *, quiet: bool) -> None:
    """Check the size and SHA-256 of each file in a package (ZIP) against its manifest.

    It finds damage, not forgery: who changes a file can change the manifest, too. The export's SHA-256 covers both.
    """
    from client import work  # noqa: PLC0415 (see above)

    console = Console(quiet=quiet)
    try:
        work.verify(file, console)
    except ClientError as error:
        console.fail(str(error), resumable=False)
        sys.exit(error.exit_code)


def _run(target: Target, work: Coroutine[Any, Any, None]) -> None:
    """As `run`, for work that writes a file."""
    try:
        run(target, work)
    except BrokenPipeError:
        sys.exit(ExitCode.BROKEN_PIPE)
    except OSError as error:
        sentence = gettext("%(path)s can't be written: %(reason)s", path=target.path, reason=error.strerror)
        target.console.fail(sentence, resumable=True)
        sys.exit(ExitCode.REFUSED)


def run(service: Service, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. If it fails, end the process with its exit code; print the error and, if possible, the command
    to resume.
    """
    try:
        return asyncio.run(work)
    except ClientError as error:
        service.console.fail(str(error), resumable=error.exit_code in RESUMABLE, hint=error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        service.console.fail(gettext("Interrupted"), resumable=True)
        sys.exit(ExitCode.INTERRUPTED)

"""The commands `carryout init` and `carryout check`."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from onboarding.checking import check as check_datasets
from onboarding.grants import ROLE, list_grants
from onboarding.initializing import Options, initialize
from onboarding.reports import report_findings, report_outcome
from service import command_options
from service.database import Connection, connect
from service.errors import ConfigurationError
from service.settings import Settings, split_list

Answer = TypeVar("Answer")
EXIT_UNDECIDED = 1
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Settings)}

DSN_SETTINGS = ["CARRYOUT_SOURCE_DATABASE_URL", "CARRYOUT_DATABASE_URL"]


def _require_dsn(_context: click.Context, _parameter: click.Parameter, dsn: str | None) -> str:
    if not dsn:
        raise ConfigurationError(f"Which database? Give its DSN, or set {' or '.join(DSN_SETTINGS)}")
    return dsn


def _read_env_file(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Before the other options look into the environment, which wins."""
    for name, value in command_options.read_env_file(path).items() if path else ():
        os.environ.setdefault(name, value)


dsn_argument = click.argument("dsn", required=False, envvar=DSN_SETTINGS, callback=_require_dsn)
env_file_option = partial(command_options.env_file_option, is_eager=True, expose_value=False, callback=_read_env_file)


def _list_option(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A setting that is a comma-separated list, from the environment alone."""
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        envvar=f"CARRYOUT_{name.upper()}",
        default=",".join(DEFAULTS[name]),
        type=split_list,
        hidden=True,
    )


def _run(dsn: str, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    async def run() -> Answer:
        async with connect(dsn, name="DSN") as connection:
            return await work(connection)

    return asyncio.run(run())


@click.command()
@dsn_argument
@env_file_option
@click.option(
    "--out",
    "directory",
    default="datasets",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the dataset files go.",
)
@click.option("--users-table", metavar="SCHEMA.TABLE", help="The users' table, if it can't be guessed.")
@click.option(
    "--own",
    multiple=True,
    metavar="COLUMN",
    help="A column of the users' table that points to a row of this user alone, such as account_id.",
)
@click.option("--trust-names", is_flag=True, help="Believe columns called user_id that are no foreign keys.")
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@_list_option("forbidden_columns")
@_list_option("operator_columns")
def init(  # noqa: PLR0913 (a command's options)
    *,
    dsn: str,
    directory: Path,
    users_table: str | None,
    own: tuple[str, ...],
    trust_names: bool,
    force: bool,
    forbidden_columns: tuple[str, ...],
    operator_columns: tuple[str, ...],
) -> None:
    """Write dataset files for the application whose database is at DSN.

    Only what is sure to be the user's is exported; the rest stands in the files to be decided.
    """
    options = Options(
        directory=directory,
        users_table=users_table,
        own=own,
        trust_names=trust_names,
        force=force,
        forbidden=forbidden_columns,
        list_forbidden=tuple(name for name in forbidden_columns if name not in operator_columns),
    )
    try:
        outcome = _run(dsn, lambda connection: initialize(connection, options))
    except OSError as error:
        raise ConfigurationError(f"--out: {error}") from error
    click.echo("\n".join(report_outcome(outcome, directory)))


@click.command()
@dsn_argument
@env_file_option
@click.option(
    "--datasets",
    "directory",
    envvar="CARRYOUT_DATASETS_DIR",
    default=DEFAULTS["datasets_dir"],
    show_default=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the dataset files are.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--grants", is_flag=True, help="Print the role that can read what the files read, as SQL, and no more.")
@click.option("--role", default=ROLE, show_default=True, metavar="NAME", help="That role's name.")
def check(*, dsn: str, directory: Path, as_json: bool, grants: bool, role: str) -> None:
    """Find what points to the user in the database at DSN, and nobody has decided about; then exit 1."""
    if grants:
        click.echo("\n".join(_run(dsn, lambda connection: list_grants(connection, directory, role=role))))
        return
    findings = _run(dsn, lambda connection: check_datasets(connection, directory))
    click.echo(msgspec.json.encode(findings) if as_json else "\n".join(report_findings(findings)))
    if not findings.is_clean:
        sys.exit(EXIT_UNDECIDED)

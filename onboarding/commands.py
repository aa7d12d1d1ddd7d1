"""The commands `carryout init` and `carryout check`."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from onboarding.checking import Findings
from onboarding.checking import check as check_datasets
from onboarding.initializing import Options, Outcome, initialize
from onboarding.reports import report_findings, report_outcome
from service.database import connect
from service.settings import Settings

EXIT_UNDECIDED = 1
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Settings)}

dsn_argument = click.argument("dsn", envvar=["CARRYOUT_SOURCE_DATABASE_URL", "CARRYOUT_DATABASE_URL"])


def _list_option(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A setting that is a comma-separated list, from the environment alone."""
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        envvar=f"CARRYOUT_{name.upper()}",
        default=",".join(DEFAULTS[name]),
        hidden=True,
    )


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


@click.command()
@dsn_argument
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
    forbidden_columns: str,
    operator_columns: str,
) -> None:
    """Write dataset files for the application whose database is at DSN.

    Only what is sure to be the user's is exported; the rest stands in the files to be decided.
    """
    forbidden, allowed = _split(forbidden_columns), _split(operator_columns)
    options = Options(
        directory=directory,
        users_table=users_table,
        own=own,
        trust_names=trust_names,
        force=force,
        forbidden=forbidden,
        list_forbidden=tuple(name for name in forbidden if name not in allowed),
    )

    async def run() -> Outcome:
        async with connect(dsn, name="DSN") as connection:
            return await initialize(connection, options)

    click.echo("\n".join(report_outcome(asyncio.run(run()), directory)))


@click.command()
@dsn_argument
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
def check(*, dsn: str, directory: Path, as_json: bool) -> None:
    """Find what points to the user in the database at DSN, and nobody has decided about; then exit 1."""

    async def run() -> Findings:
        async with connect(dsn, name="DSN") as connection:
            return await check_datasets(connection, directory)

    findings = asyncio.run(run())
    click.echo(msgspec.json.encode(findings) if as_json else "\n".join(report_findings(findings)))
    if not findings.is_clean:
        sys.exit(EXIT_UNDECIDED)

"""The commands `carryout init` and `carryout check`."""

import asyncio
import datetime as dt
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import click
import msgspec
import uvloop

from guard.files import replace_file
from guard.records import echo_json
from guard.terminal import echo
from onboarding.catalog import read_catalog
from onboarding.checking import find_open
from onboarding.dialogue import Dialogue
from onboarding.grants import ROLE, list_grants
from onboarding.initializing import READABLE, Options, Outcome, find_fault, initialize
from onboarding.ledger import read_ledger
from onboarding.new_columns import find_new_columns
from onboarding.own_rows import list_own_questions, own
from onboarding.questions import list_questions, save
from onboarding.report_page import render_report
from onboarding.reports import report_findings, report_next_steps, report_outcome, report_summary
from service.backends.database import Connection, connect
from service.cli import options
from service.documents.datasets import load_datasets, load_lists, load_user_lists
from service.documents.schema import create_schema, list_breaking_changes
from service.errors import ConfigurationError
from service.settings import Settings, split_list

Answer = TypeVar("Answer")
EXIT_UNDECIDED = 1
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Settings)}

DSN_SETTINGS = ["CARRYOUT_SOURCE_DATABASE_URL", "CARRYOUT_DATABASE_URL"]


def _require_dsn(_context: click.Context, _parameter: click.Parameter, dsn: str | None) -> str:
    if not dsn:
        raise ConfigurationError(f"DSN is missing: give it, or set {' or '.join(DSN_SETTINGS)}")
    return dsn


def _read_env_file(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Add the file's settings to the environment before other options read it. The environment wins."""
    for name, value in options.read_env_file(path).items() if path else ():
        os.environ.setdefault(name, value)


dsn_argument = click.argument("dsn", required=False, envvar=DSN_SETTINGS, callback=_require_dsn)
env_file_option = partial(options.env_file_option, is_eager=True, expose_value=False, callback=_read_env_file)


def _list_option(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A hidden option for a setting that is a comma-separated list, read from the environment."""
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        envvar=f"CARRYOUT_{name.upper()}",
        default=",".join(DEFAULTS[name]),
        type=split_list,
        hidden=True,
    )


def _lists_option(beside: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--lists",
        "lists_directory",
        envvar="CARRYOUT_LISTS_DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help=f"Directory of the operators' list files. Default: `lists` beside {beside}.",
    )


def _run(dsn: str, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    async def run() -> Answer:
        async with connect(dsn, name="DSN", own_search_path=True) as connection:
            return await work(connection)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # a large schema takes thousands of trips
            return runner.run(run())
    except (asyncpg.CharacterNotInRepertoireError, UnicodeDecodeError):  # a SQL_ASCII database stores any bytes
        raise ConfigurationError(
            "The name of an object in this database isn't valid UTF-8: rename the object"
        ) from None


@click.command()
@dsn_argument
@env_file_option
@click.option(
    "--out",
    "directory",
    default="datasets",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for the dataset files.",
)
@_lists_option("--out")
@click.option(
    "--users-table", metavar="SCHEMA.TABLE", help="The users' table. Required if it can't be found automatically."
)
@click.option(
    "--own",
    multiple=True,
    metavar="COLUMN",
    help="A column of the users' table that references a row of this user only, such as account_id.",
)
@click.option(
    "--trust-names", is_flag=True, help="Follow also columns that have only the name of a link, such as `owner`."
)
@click.option(
    "--look",
    is_flag=True,
    help="Read samples of the rows, read-only, for up to a minute: do ids match, do values look like tokens?",
)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@click.option("--interactive", is_flag=True, help="Then ask what is undecided in the files, a key an answer.")
@_list_option("forbidden_columns")
@_list_option("operator_columns")
def init(  # noqa: PLR0913 (a command's options)
    *,
    dsn: str,
    directory: Path,
    lists_directory: Path | None,
    users_table: str | None,
    own: tuple[str, ...],
    trust_names: bool,
    look: bool,
    force: bool,
    interactive: bool,
    forbidden_columns: tuple[str, ...],
    operator_columns: tuple[str, ...],
) -> None:
    """Write dataset files for the application whose database is at DSN.

    Only columns that certainly belong to the user are exported. The others are listed in the files for you to decide.
    """
    if interactive and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigurationError(
            "--interactive needs a terminal for input and output: run it in one, or edit the files by hand without it"
        )
    options = Options(
        directory=directory,
        lists_directory=lists_directory,
        users_table=users_table,
        own=own,
        trust_names=trust_names,
        look=look,
        force=force,
        forbidden=forbidden_columns,
        list_forbidden=tuple(name for name in forbidden_columns if name not in operator_columns),
    )
    try:
        outcome = _run(dsn, lambda connection: initialize(connection, options))
    except OSError as error:
        raise ConfigurationError(f"--out: {error}") from error
    if not interactive:
        echo(*report_outcome(outcome, directory))
        return
    _ask(dsn, options, outcome)


def _ask(dsn: str, options: Options, outcome: Outcome) -> None:
    """Ask the open questions. No connection stays open meanwhile."""
    directory, user_id_type = options.directory, outcome.drafts.users.user_id_type

    def find_fault_of(path: Path) -> str | None:
        work = partial(find_fault, path=path, user_id_type=user_id_type, forbidden=options.forbidden)
        return _run(dsn, work)

    dialogue = Dialogue(directory, _run(dsn, read_catalog), find_fault=find_fault_of)
    asked: set[str] = set()
    while question := next((one for one in list_own_questions(outcome) if one.column not in asked), None):
        asked.add(question.column)
        if dialogue.ask_own(question):
            options, edits = own(options, outcome, question)
            save(edits)
            outcome = _run(dsn, partial(initialize, options=options))
    new = find_new_columns(_run(dsn, partial(read_ledger, directory=directory)), outcome.drafts, directory)
    save(new.edits)
    echo(*report_summary(outcome), "")
    if new.unasked:
        echo(f"Decide about these new columns in their files, which init can't edit: {', '.join(new.unasked)}", "")
    try:
        dialogue.run()
    finally:
        left = len(list_questions(directory))
        echo("", f"{dialogue.answers} answers are saved in {directory}, {left} questions are open.")
        if left:
            echo("The same command goes on with them.")
    if left:
        return
    grants = _run(dsn, lambda connection: list_grants(connection, directory, options.lists_folder))
    echo("", *report_next_steps(grants, directory, user_id_type))


def _write_page(path: Path, text: str) -> None:
    try:
        replace_file(path, text.encode(), mode=READABLE)
    except OSError as error:
        raise ConfigurationError(f"--html: {path} can't be written: {error.strerror}") from error


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        list_breaking_changes(schema, schema)
    except (OSError, msgspec.MsgspecError, LookupError, AttributeError, TypeError):
        raise ConfigurationError(f"--against: {path} is not a schema from /api/export/schema") from None
    return schema


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
    help="Directory of the dataset files.",
)
@_lists_option("--datasets")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--html",
    "page",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a page for the person who answers for the data: what leaves, what doesn't, and why.",
)
@click.option(
    "--grants",
    is_flag=True,
    help="Print SQL that creates a role with the rights to read what the files read, and check nothing.",
)
@click.option("--role", default=ROLE, show_default=True, metavar="NAME", help="Name of the role for --grants.")
@click.option(
    "--against",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare the schema of JSON documents with this earlier one of /api/export/schema, and check nothing else. "
    "Exit 1 if importers would break.",
)
@click.option("--user-id-type", envvar="CARRYOUT_USER_ID_TYPE", default=DEFAULTS["user_id_type"], hidden=True)
@_list_option("forbidden_columns")
@_list_option("operator_columns")
def check(  # noqa: PLR0913 (a command's options)
    *,
    dsn: str,
    directory: Path,
    lists_directory: Path | None,
    as_json: bool,
    page: Path | None,
    grants: bool,
    role: str,
    against: Path | None,
    user_id_type: str,
    forbidden_columns: tuple[str, ...],
    operator_columns: tuple[str, ...],
) -> None:
    """Find undecided tables and columns of the database at DSN. Exit 1 if there are any.

    Exit 2 if a list for operators can't be served.
    """
    lists_folder = lists_directory or directory.parent / "lists"
    forbidden_to_operators = tuple(name for name in forbidden_columns if name not in operator_columns)
    if against:
        earlier = _read_schema(against)
        load = partial(load_datasets, directory=directory, user_id_type=user_id_type, forbidden=forbidden_columns)
        if changes := list_breaking_changes(earlier, create_schema(_run(dsn, load))):
            echo(*changes)
            sys.exit(EXIT_UNDECIDED)
        return
    if grants:
        echo(*_run(dsn, lambda connection: list_grants(connection, directory, lists_folder, role=role)))
        return
    _run(dsn, partial(load_user_lists, directory=directory, forbidden=forbidden_to_operators))
    _run(dsn, partial(load_lists, directory=lists_folder, forbidden=forbidden_to_operators))
    ledger = _run(dsn, lambda connection: read_ledger(connection, directory))
    if page:
        _write_page(page, render_report(ledger, directory, made_at=dt.datetime.now(dt.UTC)))
    findings = find_open(ledger)
    if as_json:
        echo_json([findings])
    else:
        echo(*report_findings(findings))
    if not findings.is_clean:
        sys.exit(EXIT_UNDECIDED)

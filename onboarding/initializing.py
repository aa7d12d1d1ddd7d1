"""`carryout init`: from a live schema to dataset files that the service accepts."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from onboarding.catalog import read_catalog
from onboarding.comments import read_comments
from onboarding.drafting import Drafts, draft_all
from onboarding.drafts import Draft
from onboarding.grants import list_grants
from onboarding.users_table import find_users
from service.database import Connection
from service.datasets import LISTS_FOLDER, load_datasets, load_user_lists
from service.errors import ConfigurationError

SUFFIX = ".sql"
DOUBTED_SUFFIX = ".sql.undecided"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`trust_names` believes columns that have the name of a link to the user; `force` overwrites files."""

    directory: Path
    users_table: str | None = None
    own: tuple[str, ...] = ()
    trust_names: bool = False
    force: bool = False
    forbidden: tuple[str, ...]
    list_forbidden: tuple[str, ...]


class Outcome(msgspec.Struct, frozen=True):
    """`kept` are the files that were there before, by the quoted name of the table that they are about.

    `grants` are the statements that make the role that all the files need; `grants_fault` says why there are none.
    """

    drafts: Drafts
    kept: dict[str, Path]
    list_count: int
    grants: tuple[str, ...] = ()
    grants_fault: str = ""


async def initialize(connection: Connection, options: Options) -> Outcome:
    """Write what the directory lacks, and load all of it as the service would.

    Raises ConfigurationError if the schema isn't understood, or the files in the directory don't load.
    """
    catalog = await read_catalog(connection)
    users = find_users(catalog, named=options.users_table, own=options.own)
    drafts = draft_all(catalog, users, forbidden=options.forbidden, trust_names=options.trust_names)
    drafts = msgspec.structs.replace(drafts, datasets=tuple(await _verify(connection, drafts, options)))
    kept = {} if options.force else _find_existing(options.directory)
    _write(options.directory, [draft for draft in drafts.datasets if draft.table.quoted not in kept])
    _write_lists(options.directory / LISTS_FOLDER, drafts.lists.files, force=options.force)
    await _load(connection, options.directory, drafts, options)
    lists = await load_user_lists(connection, options.directory, forbidden=options.list_forbidden)
    outcome = Outcome(drafts, kept, len(lists))
    try:
        grants = await list_grants(connection, options.directory)
    except ConfigurationError as error:  # everything loads, so it is the database that won't tell
        return msgspec.structs.replace(outcome, grants_fault=error.detail)
    return msgspec.structs.replace(outcome, grants=tuple(grants))


async def _verify(connection: Connection, drafts: Drafts, options: Options) -> list[Draft]:
    """The drafts, with a doubt about those that the service wouldn't load; there must be a profile that it would."""
    if fault := await _find_fault(connection, drafts, [], options):
        raise ConfigurationError(fault)
    sure = [draft for draft in drafts.datasets[1:] if not draft.doubt]
    if await _find_fault(connection, drafts, sure, options) is None:
        return list(drafts.datasets)
    faults = {draft.name: await _find_fault(connection, drafts, [draft], options) for draft in sure}
    return [msgspec.structs.replace(draft, doubt=draft.doubt or faults.get(draft.name)) for draft in drafts.datasets]


async def _find_fault(connection: Connection, drafts: Drafts, some: list[Draft], options: Options) -> str | None:
    """What the service says of the profile and `some` others."""
    with tempfile.TemporaryDirectory() as directory:
        _write(Path(directory), [drafts.profile, *some])
        try:
            async with connection.transaction():
                await _load(connection, Path(directory), drafts, options)
        except ConfigurationError as error:
            return error.detail
    return None


async def _load(connection: Connection, directory: Path, drafts: Drafts, options: Options) -> None:
    await load_datasets(connection, directory, user_id_type=drafts.users.user_id_type, forbidden=options.forbidden)


def _find_existing(directory: Path) -> dict[str, Path]:
    paths = [*directory.glob(f"*{SUFFIX}"), *directory.glob(f"*{DOUBTED_SUFFIX}")]
    return {table: path for path in sorted(paths) if (table := read_comments(path).table)}


def _write(directory: Path, drafts: list[Draft]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for draft in drafts:
        live, doubted = directory / f"{draft.name}{SUFFIX}", directory / f"{draft.name}{DOUBTED_SUFFIX}"
        wanted, other = (doubted, live) if draft.doubt else (live, doubted)
        other.unlink(missing_ok=True)
        wanted.write_text(draft.text, encoding="utf-8")


def _write_lists(directory: Path, files: Mapping[str, str], *, force: bool) -> None:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        path = directory / f"{name}{SUFFIX}"
        if force or not path.exists():
            path.write_text(text, encoding="utf-8")

"""`carryout init`: from a live schema to dataset files that the service accepts."""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from guard.files import replace_file, require_kept_folder
from guard.text import unquote_identifier
from onboarding.catalog import Catalog, read_catalog
from onboarding.comments import Comments, read_comments
from onboarding.drafting import Drafts, draft_all
from onboarding.drafts import Draft
from onboarding.grants import list_grants
from onboarding.links import find_links
from onboarding.looking import look
from onboarding.rules import Rules, read_rules, render_rules, table_rule
from onboarding.user_lists import draft_user_search, draft_users_list
from onboarding.users_table import Users, find_users
from onboarding.verdicts import TableDecision, Verdict
from service.backends.database import Connection
from service.documents.datasets import (
    DECISIONS_FILE,
    LISTS_FOLDER,
    PROFILE,
    USER_SEARCH,
    list_paths,
    load_datasets,
    load_lists,
    load_user_lists,
    load_user_search,
    read_decisions,
)
from service.errors import ConfigurationError

SUFFIX = ".sql"
USERS_LIST = "users"
DOUBTED_SUFFIX = ".sql.undecided"
READABLE = 0o664
"""Readable for the service's account, subject to the umask."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`trust_names` follows weak links; `look` reads values; `force` overwrites files."""

    directory: Path
    users_table: str | None = None
    own: tuple[str, ...] = ()
    trust_names: bool = False
    look: bool = False
    force: bool = False
    forbidden: tuple[str, ...]
    list_forbidden: tuple[str, ...]
    lists_directory: Path | None = None

    @property
    def lists_folder(self) -> Path:
        """As the service finds it."""
        return self.lists_directory or self.directory.parent / "lists"


class Outcome(msgspec.Struct, frozen=True):
    """`kept` maps the quoted name of a table to its file that existed before.

    `refused` maps a proposed list or search that isn't written to the reason. `grants` are the SQL of the
    role for the files; `grants_fault` is the reason if there are none.
    """

    drafts: Drafts
    kept: dict[str, Path]
    list_count: int
    refused: dict[str, str]
    grants: tuple[str, ...] = ()
    grants_fault: str = ""


async def initialize(connection: Connection, options: Options) -> Outcome:
    """Write the missing files, then load the directory as the service does.

    Raises ConfigurationError if the schema isn't understood, or the files in the directory don't load.
    """
    catalog = await read_catalog(connection)
    users = _find_users(catalog, options)
    evidence = await look(connection, catalog, users, find_links(catalog, users)) if options.look else None
    drafts = draft_all(catalog, users, forbidden=options.forbidden, trust_names=options.trust_names, evidence=evidence)
    there_before = {path: read_comments(path) for path in list_paths(options.directory)}
    if not options.force:
        drafts = _without_decided_tables(drafts, options.directory, _find_denied(there_before.values()))
    drafts = msgspec.structs.replace(drafts, datasets=tuple(await _verify(connection, drafts, options)))
    kept = {} if options.force else _find_existing(options.directory, there_before)
    _make_folders(options.directory)
    written = _write(options.directory, [draft for draft in drafts.datasets if draft.table.quoted not in kept])
    denied = _find_denied(comments for path, comments in there_before.items() if path not in written)
    _write_rules(options.directory, drafts, denied, force=options.force)
    _write_lists(options.directory / LISTS_FOLDER, drafts.lists.files, force=options.force)
    if there_before:  # what was written now is verified
        await _load(connection, options.directory, drafts, options)
    lists = await load_user_lists(connection, options.directory, forbidden=options.list_forbidden)
    refused = {
        f"{options.lists_folder.name}/{USERS_LIST}{SUFFIX}": await _write_users_list(connection, users, options),
        USER_SEARCH: await _write_user_search(connection, drafts, options),
    }
    outcome = Outcome(drafts, kept, len(lists), {file: why for file, why in refused.items() if why})
    try:
        grants = await list_grants(connection, options.directory, options.lists_folder)
    except ConfigurationError as error:  # the files load, so this connection only can't determine the columns
        return msgspec.structs.replace(outcome, grants_fault=error.detail)
    return msgspec.structs.replace(outcome, grants=tuple(grants))


def _find_users(catalog: Catalog, options: Options) -> Users:
    """As an existing profile says, where the options don't."""
    profile = options.directory / f"{PROFILE}{SUFFIX}"
    said = read_comments(profile) if profile.exists() and not options.force else Comments()
    table = options.users_table or said.users
    same = said.users is None or table == said.users
    names = options.own or tuple(unquote_identifier(column) for column in said.own if same)
    return find_users(catalog, named=table, own=names)


async def _verify(connection: Connection, drafts: Drafts, options: Options) -> list[Draft]:
    """The drafts, with a doubt about those that the service can't load. Only the profile must load."""
    if fault := await _find_fault(connection, drafts, [], options):
        raise ConfigurationError(fault)
    sure = [draft for draft in drafts.datasets[1:] if not draft.doubt]
    faults = await _find_faults(connection, drafts, sorted(sure, key=lambda draft: draft.name), options)
    return [msgspec.structs.replace(draft, doubt=draft.doubt or faults.get(draft.name)) for draft in drafts.datasets]


async def _find_faults(connection: Connection, drafts: Drafts, some: list[Draft], options: Options) -> dict[str, str]:
    """The faults of `some` drafts, which are in the order in which the service loads them, up to the first fault."""
    faults: dict[str, str] = {}
    while some and (fault := await _find_fault(connection, drafts, some, options)):
        places = [place for place, draft in enumerate(some) if fault.startswith(f"Dataset {draft.name}{SUFFIX}: ")]
        if not places:
            raise ConfigurationError(fault)
        faults[some[places[0]].name] = fault
        some = some[places[0] + 1 :]
    return faults


async def _find_fault(connection: Connection, drafts: Drafts, some: list[Draft], options: Options) -> str | None:
    """The errors of the service when it loads the profile and `some` others."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for draft in (drafts.profile, *some):
            (directory / f"{draft.name}{SUFFIX}").write_text(draft.text)
        try:
            async with connection.transaction(readonly=True):
                await _load(connection, directory, drafts, options)
        except ConfigurationError as error:
            return error.detail
    return None


async def find_fault(connection: Connection, *, path: Path, user_id_type: str, forbidden: Sequence[str]) -> str | None:
    """The service's error when it loads the file beside its folder's other datasets."""
    try:
        async with connection.transaction(readonly=True):
            await load_datasets(connection, path.parent, user_id_type=user_id_type, forbidden=forbidden)
    except ConfigurationError as error:
        return error.detail
    return None


async def _load(connection: Connection, directory: Path, drafts: Drafts, options: Options) -> None:
    await load_datasets(connection, directory, user_id_type=drafts.users.user_id_type, forbidden=options.forbidden)


def _make_folders(directory: Path) -> None:
    """Before anything is written there, because the service refuses to load files that every account may replace."""
    for folder in (directory, directory / LISTS_FOLDER):
        _make_folder(folder)


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    require_kept_folder(folder)


def _find_existing(directory: Path, datasets: Mapping[Path, Comments]) -> dict[str, Path]:
    found = {**datasets, **{path: read_comments(path) for path in directory.glob(f"*{DOUBTED_SUFFIX}")}}
    return {table: path for path, comments in sorted(found.items()) if (table := comments.table)}


def _find_denied(datasets: Iterable[Comments]) -> dict[str, str]:
    """The quoted tables that a file denies, with the reasons."""
    return {table: why for comments in datasets for table, why in comments.denied_tables.items()}


def _without_decided_tables(drafts: Drafts, directory: Path, denied: Mapping[str, str]) -> Drafts:
    """Without the datasets of tables that an operator has denied as a whole, or called not personal."""
    rules = read_rules(directory)
    decided = []
    for draft in drafts.datasets[1:]:
        rule = rules.find_for_table(draft.table)
        if draft.table.quoted in denied:
            decided.append(TableDecision(draft.table, Verdict.DENY, denied[draft.table.quoted]))
        elif rule and rule.verdict is not Verdict.UNDECIDED:
            decided.append(TableDecision(draft.table, rule.verdict, rule.why))
    gone = {one.table.quoted for one in decided}
    kept = tuple(draft for draft in drafts.datasets if draft.table.quoted not in gone)
    return msgspec.structs.replace(drafts, datasets=kept, tables=(*decided, *drafts.tables))


def _write(directory: Path, drafts: list[Draft]) -> set[Path]:
    """The paths that are written, or removed."""
    paths: set[Path] = set()
    for draft in drafts:
        live, doubted = directory / f"{draft.name}{SUFFIX}", directory / f"{draft.name}{DOUBTED_SUFFIX}"
        wanted, other = (doubted, live) if draft.doubt else (live, doubted)
        other.unlink(missing_ok=True)
        replace_file(wanted, draft.text.encode(), mode=READABLE)
        paths |= {live, doubted}
    return paths


def _write_rules(directory: Path, drafts: Drafts, denied: Collection[str], *, force: bool) -> None:
    """Add the decisions about tables that no file decides about. Lines of operators stay."""
    existing = "" if force else read_decisions(directory)
    rules = Rules() if force else read_rules(directory)
    fresh = [one for one in drafts.tables if one.table.quoted not in denied and not rules.find_for_table(one.table)]
    known = {rule.names for rule in rules.rules}
    groups = [group.rule for group in drafts.groups if group.rule.names not in known]
    text = render_rules(existing, [*groups, *map(table_rule, fresh)])
    replace_file(directory / DECISIONS_FILE, text.encode(), mode=READABLE)


async def _write_users_list(connection: Connection, users: Users, options: Options) -> str:
    """Write the proposed list if the service can load it; else the reason, because such a list would stop its start."""
    text = draft_users_list(users, forbidden=options.list_forbidden)
    if not text:
        fault = f"is a {users.id_column.type_name}" if users.id_column.not_null else "may be null"
        return f"{users.table.quoted}.{users.id_column.quoted} {fault}, so that a download can't be resumed by it"
    with tempfile.TemporaryDirectory() as directory:
        _write_lists(Path(directory), {USERS_LIST: text}, force=True)
        try:
            await load_lists(connection, Path(directory), forbidden=options.list_forbidden)
        except ConfigurationError as error:
            return error.detail
    _make_folder(options.lists_folder)
    _write_lists(options.lists_folder, {USERS_LIST: text}, force=options.force)
    return ""


async def _write_user_search(connection: Connection, drafts: Drafts, options: Options) -> str:
    """Write the proposed search for a user by address if the service can load it; else the reason."""
    text = draft_user_search(drafts.users, drafts.address)
    if not text:
        return f"{drafts.users.table.quoted} has no e-mail address"
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / USER_SEARCH
        path.parent.mkdir()
        path.write_text(text)
        try:
            await load_user_search(connection, Path(name), forbidden=options.forbidden)
        except ConfigurationError as error:
            return error.detail
    path = options.directory / USER_SEARCH
    if options.force or not path.exists():
        _make_folder(path.parent)
        replace_file(path, text.encode(), mode=READABLE)
    return ""


def _write_lists(directory: Path, files: Mapping[str, str], *, force: bool) -> None:
    for name, text in files.items():
        path = directory / f"{name}{SUFFIX}"
        if force or not path.exists():
            replace_file(path, text.encode(), mode=READABLE)

"""Each table and each column of the database with the decision about it, as the files in the datasets folder say."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import asyncpg
import msgspec

from onboarding.catalog import Catalog, Column, Table, read_catalog
from onboarding.comments import Comments, read_comments
from onboarding.paths import Graph
from onboarding.paths import Path as Way
from onboarding.reading import columns_read
from onboarding.rules import Rule, Rules, read_rules
from onboarding.suspicions import suspect
from onboarding.users_table import Users, find_users
from onboarding.verdicts import Verdict
from service.backends.database import Connection
from service.documents.datasets import DECISIONS_FILE, PROFILE, list_paths, naming, read_sql
from service.documents.equality import check_equality, read_functions
from service.errors import ConfigurationError

NEW = "no file decides about it"


class ColumnEntry(msgspec.Struct, frozen=True):
    """`files` are those that decide, or ask."""

    column: Column
    verdict: Verdict
    why: str
    files: tuple[str, ...] = ()


class TableEntry(msgspec.Struct, frozen=True):
    """`way` is how the rows are linked to the user, without links for the users' table; None if nothing links them.

    `verdict` is EXPORT if any of its columns are; then each column has its own. `suspicion` is higher, the likelier it
    is that the rows of a table without a way are a person's.
    """

    table: Table
    verdict: Verdict
    why: str
    columns: tuple[ColumnEntry, ...]
    way: Way | None = None
    files: tuple[str, ...] = ()
    suspicion: int = 0

    @property
    def is_linked(self) -> bool:
        return self.way is not None

    @property
    def undecided(self) -> list[ColumnEntry]:
        return [entry for entry in self.columns if entry.verdict is Verdict.UNDECIDED]


class Ledger(msgspec.Struct, frozen=True):
    """The users' table comes first, then the tables by their distance to it, then those without a way, the most
    suspicious first. `contradictions` and `stale` are sentences.
    """

    users: Users
    tables: tuple[TableEntry, ...]
    contradictions: tuple[str, ...]
    stale: tuple[str, ...]


class Files(msgspec.Struct, frozen=True):
    """The files in a datasets folder by name. `asking` end in `.sql.undecided`: the service doesn't read them."""

    datasets: dict[str, Comments]
    asking: dict[str, Comments]
    rules: Rules

    @property
    def profile(self) -> Comments:
        return self.datasets[f"{PROFILE}.sql"]

    def about(self, table: str) -> dict[str, Comments]:
        return {name: found for name, found in (self.datasets | self.asking).items() if found.table == table}


def read_files(directory: Path) -> Files:
    """Raises ConfigurationError if one can't be read, or the profile is missing."""
    datasets = {path.name: read_comments(path) for path in list_paths(directory)}
    if f"{PROFILE}.sql" not in datasets:
        raise ConfigurationError(f"{directory} has no {PROFILE}.sql")
    asking = {path.name: read_comments(path) for path in sorted(directory.glob("*.sql.undecided"))}
    return Files(datasets, asking, read_rules(directory))


async def read_ledger(connection: Connection, directory: Path) -> Ledger:
    """Raises ConfigurationError if the directory has no profile, or the users' table can't be found."""
    files = read_files(directory)
    catalog = await read_catalog(connection)
    users = find_users(catalog, named=files.profile.users, own=files.profile.own)
    exported, broken = await _read_exported(connection, catalog, users, directory, files)
    writer = _Writer(Graph(catalog, users), files, exported)
    return Ledger(
        users,
        tuple(writer.write()),
        tuple(writer.find_contradictions()),
        (*broken, *_find_stale(catalog, files)),
    )


class _Writer:
    def __init__(self, graph: Graph, files: Files, exported: Mapping[tuple[str, str], list[str]]) -> None:
        """`exported` maps table and column to the files that read them."""
        self._graph = graph
        self._files = files
        self._exported = exported
        self._used = {table for table, _ in exported}
        self._denied = {
            table: (why, name) for name, found in files.datasets.items() for table, why in found.denied_tables.items()
        }

    def write(self) -> Iterator[TableEntry]:
        tables = self._graph.catalog.tables
        ways = {path.table: path for path in (self._graph.start, *self._graph.find_paths())}
        yield from (self._write_table(tables[name], way, suspicion=0) for name, way in ways.items())
        shared = self._graph.find_shared()
        apart = [
            (suspect(self._graph, table, shared.get(name)), table) for name, table in tables.items() if name not in ways
        ]
        for (suspicion, why), table in sorted(apart, key=lambda one: (-one[0][0], one[1].quoted)):
            yield self._write_table(table, None, suspicion=suspicion, why=why)

    def _write_table(self, table: Table, way: Way | None, *, suspicion: int, why: str = "") -> TableEntry:
        verdict, reason, decided_in = self._decide_table(table, way)
        about = self._files.about(table.quoted)
        if verdict is Verdict.UNDECIDED:
            asked = next((found.doubt for found in about.values() if found.doubt), "")
            reason = reason or asked or why or (_describe(way) if way and way.links else "")
        columns = tuple(self._write_column(table, column, verdict, about) for column in table.columns)
        files = tuple(sorted({*about, *decided_in, *(name for entry in columns for name in entry.files)}))
        return TableEntry(table, verdict, reason, columns, way, files, suspicion)

    def _decide_table(  # noqa: PLR0911 (the first decision that is found wins)
        self, table: Table, way: Way | None
    ) -> tuple[Verdict, str, tuple[str, ...]]:
        if table.quoted in self._denied:
            why, name = self._denied[table.quoted]
            return Verdict.DENY, why, (name,)
        rule = self._files.rules.find_for_table(table)
        if rule and rule.verdict is Verdict.NOT_PERSONAL and rule.columns is None and way and way.is_sure:
            return Verdict.UNDECIDED, f"`-- not personal table {'.'.join(rule.names)}`, but {_describe(way)}", ()
        if rule and rule.verdict is not Verdict.UNDECIDED:
            return rule.verdict, rule.why, (DECISIONS_FILE,)
        if table.quoted in self._used and not (rule and not self._has_dataset(table)):
            return Verdict.EXPORT, "", ()
        for parent in self._parents(table):
            found = self._decide_table(parent, way)
            if found[0] in {Verdict.DENY, Verdict.NOT_PERSONAL}:
                return found
        if table.columns and all(self._decide_by_rule(table, column) for column in table.columns):
            return Verdict.DENY, "each of its columns", (DECISIONS_FILE,)
        return Verdict.UNDECIDED, rule.why if rule else "", (DECISIONS_FILE,) if rule else ()

    def _write_column(
        self, table: Table, column: Column, verdict: Verdict, about: Mapping[str, Comments]
    ) -> ColumnEntry:
        name = column.quoted
        if read_in := self._exported.get((table.quoted, name)):
            return ColumnEntry(column, Verdict.EXPORT, "", tuple(read_in))
        live = {file: found for file, found in about.items() if file in self._files.datasets}
        for decided, kind in ((Verdict.DENY, "denied"), (Verdict.KEY, "keys")):
            for file, found in live.items():
                if name in getattr(found, kind):
                    return ColumnEntry(column, decided, getattr(found, kind)[name], (file,))
        if verdict is Verdict.DENY:
            return ColumnEntry(column, verdict, "the whole table is")
        if decided_by_rule := self._decide_by_rule(table, column):
            return decided_by_rule
        for parent in self._parents(table):
            if parent.find_column(name):
                inherited = self._write_column(parent, column, verdict, self._files.about(parent.quoted))
                # An export may be of the parent's rows only.
                if inherited.verdict not in {Verdict.EXPORT, Verdict.UNDECIDED}:
                    return inherited
        why = next((found.undecided[name] for found in about.values() if name in found.undecided), NEW)
        return ColumnEntry(column, Verdict.UNDECIDED, why, tuple(about))

    def _decide_by_rule(self, table: Table, column: Column) -> ColumnEntry | None:
        rules: list[Rule | None] = [
            self._files.rules.find_for_column(table, column),
            self._files.rules.find_for_table(table),
        ]
        for rule in rules:
            is_open = rule is None or rule.verdict is Verdict.UNDECIDED
            if rule and not is_open and (rule.columns is None or column.quoted in rule.columns):
                return ColumnEntry(column, rule.verdict, rule.why, (DECISIONS_FILE,))
        return None

    def _has_dataset(self, table: Table) -> bool:
        return any(found.table == table.quoted for found in self._files.datasets.values())

    def _parents(self, table: Table) -> list[Table]:
        return [self._graph.catalog.tables[name] for name in table.parents if name in self._graph.catalog.tables]

    def find_contradictions(self) -> Iterator[str]:
        tables = self._graph.catalog.tables
        denied = {(found.table, name) for found in self._files.datasets.values() for name in found.denied}
        for table, name in sorted(self._exported):
            rule = self._files.rules.find_for_column(tables[table], tables[table].get_column(name))
            if (table, name) in denied or (rule and rule.verdict is Verdict.DENY):
                yield f"{table}.{name} is denied, and exported"
        for table in sorted(self._used):
            table_rule = self._files.rules.find_for_table(tables[table])
            if table in self._denied or (table_rule and table_rule.verdict is Verdict.DENY):
                yield f"{table} is denied, and exported"


def _describe(way: Way) -> str:
    steps = " > ".join("+".join(link.columns) for link in way.links)
    return f"{steps} leads to {way.links[-1].parent}"


async def _read_exported(
    connection: Connection, catalog: Catalog, users: Users, directory: Path, files: Files
) -> tuple[dict[tuple[str, str], list[str]], list[str]]:
    """All columns that datasets read, with the files' names, and the errors of broken datasets."""
    exported: dict[tuple[str, str], list[str]] = defaultdict(list)
    broken = []
    functions = await read_functions(connection)
    for path in sorted(list_paths(directory)):
        try:
            about = files.datasets[path.name].table
            with naming(path.name):
                sql = read_sql(path)
            for column in sorted(await columns_read(connection, catalog, sql, [users.user_id_type], about=about)):
                exported[column].append(path.name)
            await check_equality(connection, sql, functions)
        except (asyncpg.PostgresError, ConfigurationError) as error:
            broken.append(f"{path.name} doesn't work: {error.args[0]}")
    return exported, broken


def _find_stale(catalog: Catalog, files: Files) -> Iterator[str]:
    """Decisions about tables and columns that no longer exist."""
    for name, comments in files.datasets.items():
        for denied in sorted(comments.denied_tables.keys() - catalog.tables.keys()):
            yield f"{name} denies {denied}, which is not a table"
        columns = {*comments.denied, *comments.keys}
        if comments.table is None:
            if columns:
                yield f"{name} denies columns without naming their table: add `-- table: schema.name`"
            continue
        table = catalog.tables.get(comments.table)
        if table is None:
            yield f"{name} is about {comments.table}, which is not a table"
            continue
        for column in sorted(columns - {column.quoted for column in table.columns}):
            yield f"{name} decides about {comments.table}.{column}, which is not a column"
    yield from (f"{DECISIONS_FILE}: this line is not understood: {line}" for line in files.rules.unread)
    yield from _find_stale_rules(catalog, files.rules)


def _find_stale_rules(catalog: Catalog, rules: Rules) -> Iterator[str]:
    for rule in rules.rules:
        if rule.is_pattern or rule.is_about_columns:
            continue
        table = catalog.tables.get(".".join(rule.names))
        if table is None:
            yield f"{DECISIONS_FILE} decides about {'.'.join(rule.names)}, which is not a table"
        for column in rule.columns or () if table else ():
            if table and not table.find_column(column):
                yield f"{DECISIONS_FILE} decides about {table.quoted}.{column}, which is not a column"

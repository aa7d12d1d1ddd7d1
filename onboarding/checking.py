"""`carryout check`: whether somebody has decided about everything that points to the user."""

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import msgspec

from onboarding.catalog import Catalog, read_catalog
from onboarding.comments import Comments, read_comments
from onboarding.paths import Graph
from onboarding.reading import columns_read
from onboarding.users_table import Users, find_users
from service.database import Connection
from service.datasets import PROFILE, read_sql
from service.errors import ConfigurationError

Columns = set[tuple[str, str]]


class Findings(msgspec.Struct, frozen=True):
    """What isn't as it should be, each a name or a sentence; all empty if everything is decided."""

    undecided_tables: list[str]
    undecided_columns: list[str]
    contradictions: list[str]
    stale: list[str]

    @property
    def is_clean(self) -> bool:
        return not any(msgspec.structs.astuple(self))


async def check(connection: Connection, directory: Path) -> Findings:
    """Raises ConfigurationError if the directory has no profile, or the users' table can't be found."""
    files = {path.name: read_comments(path) for path in sorted(directory.glob("*.sql"))}
    profile = files.get(f"{PROFILE}.sql")
    if profile is None:
        raise ConfigurationError(f"{directory} holds no {PROFILE}.sql")
    catalog = await read_catalog(connection)
    users = find_users(catalog, named=profile.users, own=profile.own)
    exported, broken = await _read_exported(connection, catalog, users, directory, files)
    denied_tables = {table for comments in files.values() for table in comments.denied_tables}
    denied = {(comments.table or "", column) for comments in files.values() for column in comments.denied}
    keys = {(comments.table or "", column) for comments in files.values() for column in comments.keys}
    tables = [users.table.quoted, *(path.table for path in Graph(catalog, users).find_paths())]
    used = {table for table, _ in exported}
    decided = exported | denied | keys
    return Findings(
        undecided_tables=[table for table in tables if table not in used | denied_tables],
        undecided_columns=[
            f"{table}.{column.quoted}"
            for table in tables
            if table in used - denied_tables
            for column in catalog.tables[table].columns
            if (table, column.quoted) not in decided
        ],
        contradictions=[
            *(f"{table}.{column} is denied, and exported" for table, column in sorted(exported & denied)),
            *(f"{table} is denied, and exported" for table in sorted(used & denied_tables)),
        ],
        stale=[*broken, *_find_stale(catalog, files)],
    )


async def _read_exported(
    connection: Connection, catalog: Catalog, users: Users, directory: Path, files: dict[str, Comments]
) -> tuple[Columns, list[str]]:
    """All columns that datasets read, and what is wrong with those that don't work."""
    exported: Columns = set()
    broken = []
    for path in sorted(directory.glob("*.sql")):
        try:
            about = files[path.name].table
            exported |= await columns_read(connection, catalog, read_sql(path), [users.user_id_type], about=about)
        except asyncpg.PostgresError as error:
            broken.append(f"{path.name} doesn't work: {error.args[0]}")
    return exported, broken


def _find_stale(catalog: Catalog, files: dict[str, Comments]) -> Iterator[str]:
    """Decisions about what isn't there any more."""
    for name, comments in files.items():
        for denied in sorted(comments.denied_tables - catalog.tables.keys()):
            yield f"{name} denies {denied}, which is no table"
        columns = comments.denied | comments.keys
        if comments.table is None:
            if columns:
                yield f"{name} denies columns, but names no table (-- table: schema.name)"
            continue
        table = catalog.tables.get(comments.table)
        if table is None:
            yield f"{name} is about {comments.table}, which is no table"
            continue
        for column in sorted(columns - {column.quoted for column in table.columns}):
            yield f"{name} decides about {comments.table}.{column}, which is no column"

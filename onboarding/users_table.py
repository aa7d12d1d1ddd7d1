"""The users' table, the type of its ids, and its columns that lead to rows of one user alone."""

import re
from collections import Counter
from collections.abc import Sequence

import msgspec

from onboarding.catalog import Catalog, Column, Table
from onboarding.words import EMAILS, USERS_TABLES, is_called_like_users, snake, words
from service.errors import ConfigurationError

ID_TYPES = {
    "uuid": "uuid",
    "int2": "bigint",
    "int4": "bigint",
    "int8": "bigint",
    "text": "text",
    "varchar": "text",
    "bpchar": "text",
}
NAME_POINTS = 5
EMAIL_POINTS = 4
MAX_REFERENCE_POINTS = 5
CLEAR_LEAD = 2
CREDENTIAL_POINTS = 4
CREDENTIAL = re.compile(r"passw|pass_crypt|last_(login|sign_?in)|sign_?in_count|mfa|two_?factor|remember_token")


class Users(msgspec.Struct, frozen=True):
    """`id_column` is the id in tokens; the columns `own` point to rows of this user alone."""

    table: Table
    id_column: Column
    own: tuple[str, ...]

    @property
    def user_id_type(self) -> str:
        return ID_TYPES[self.id_column.type_name]

    def is_id(self, column: Column) -> bool:
        return ID_TYPES.get(column.type_name) == self.user_id_type


def find_users(catalog: Catalog, *, named: str | None, own: Sequence[str]) -> Users:
    """Raises ConfigurationError, naming the candidates, if it isn't clear which table is meant."""
    table = _get_table(catalog, named) if named else _guess_table(catalog)
    chosen = {table.get_column(name).quoted for name in own}
    if wrong := chosen - {key.columns[0] for key in table.foreign_keys if len(key.columns) == 1}:
        raise ConfigurationError(f"{table.quoted}.{min(wrong)} is not a foreign key, so it leads nowhere")
    chosen |= {
        key.columns[0]
        for key in table.foreign_keys
        if key.columns in table.keys and len(key.columns) == 1 and key.target != table.quoted
    }
    return Users(table, _find_id(catalog, table), tuple(sorted(chosen)))


def find_email(table: Table) -> Column | None:
    """Names of e-mail columns; in a table of e-mail addresses also `address`."""
    names = (*EMAILS, "address") if "email" in words(table.name) else EMAILS
    by_name = {snake(column.name): column for column in table.columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _get_table(catalog: Catalog, named: str) -> Table:
    schema, _, name = named.rpartition(".")
    found = [
        table
        for table in catalog.tables.values()
        if named == table.quoted or (name == table.name and schema in {table.schema, ""})
    ]
    if len(found) != 1:
        raise ConfigurationError(f"{'No table is' if not found else 'Several tables are'} named {named}")
    return found[0]


def _guess_table(catalog: Catalog) -> Table:
    references = _count_references(catalog)
    scored = sorted(
        ((_score(table, references[table.quoted]), table.quoted) for table in catalog.tables.values()), reverse=True
    )
    best = scored[0][0] if scored else 0
    if best < NAME_POINTS:
        raise ConfigurationError("No table looks like the users' table: name it with --users-table schema.table")
    close = [name for score, name in scored if best - score < CLEAR_LEAD]
    if len(close) > 1:
        raise ConfigurationError(f"The users' table could be {' or '.join(close)}: choose with --users-table")
    return catalog.tables[close[0]]


def _count_references(catalog: Catalog) -> Counter[str]:
    """The number of tables that point to each table."""
    return Counter(target for table in catalog.tables.values() for target in {key.target for key in table.foreign_keys})


def _score(table: Table, references: int) -> int:
    """Rates a table by its name, its e-mail address, its passwords, and the number of tables that point to it."""
    if not _single_keys(table):
        return 0
    name = snake(table.name)
    is_named = name in USERS_TABLES or (has_credentials(table) and is_called_like_users(table.name))
    preferred = 2 if name in USERS_TABLES[:3] else 0
    return (
        NAME_POINTS * is_named
        + preferred
        + EMAIL_POINTS * (find_email(table) is not None)
        + CREDENTIAL_POINTS * has_credentials(table)
        + min(references, MAX_REFERENCE_POINTS)
    )


def has_credentials(table: Table) -> bool:
    """Whether people sign in with its rows, by the names of its columns."""
    return any(CREDENTIAL.search(snake(column.name)) for column in table.columns)


def _single_keys(table: Table) -> list[str]:
    """Unique columns of a known type, those without nulls first: a row without an id belongs to none."""
    singles = [key[0] for key in table.keys if len(key) == 1 and table.get_column(key[0]).type_name in ID_TYPES]
    return sorted(singles, key=lambda name: not table.get_column(name).not_null)


def _find_id(catalog: Catalog, table: Table) -> Column:
    """The identifying column with the most foreign keys to it, else the primary key."""
    singles = _single_keys(table)
    if not singles:
        raise ConfigurationError(
            f"{table.quoted} has no single unique column of a known type (uuid, integer, text) that identifies a user: "
            "add a unique index on the one that does"
        )
    used = Counter(
        key.target_columns[0]
        for other in catalog.tables.values()
        for key in other.foreign_keys
        if key.target == table.quoted and len(key.columns) == 1
    )
    return table.get_column(max(singles, key=lambda name: (used[name], -singles.index(name))))

"""An application's tables as PostgreSQL's catalog describes them; names are quoted as SQL needs them.

Any role that may create tables can choose hostile names. A quoted name is printable, and one line.
"""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from guard.text import is_printable, quote_identifier
from service.backends.database import QUERIES, Connection, using_safe_search_path
from service.errors import ConfigurationError


class Column(msgspec.Struct, frozen=True):
    """`type_name` is pg_type's typname; for a domain, that of its base type. `length` is that of varchar(n), or 0."""

    name: str
    type_name: str
    is_enum: bool
    not_null: bool
    length: int = 0

    @property
    def quoted(self) -> str:
        return quote_identifier(self.name)


class ForeignKey(msgspec.Struct, frozen=True):
    """`columns` point to `target_columns` of the table `target`, in this order; all quoted."""

    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]


class Table(msgspec.Struct, frozen=True):
    """`keys` are unique sets of columns, the primary key first; the others may contain nulls.

    `indexed` are the first columns of its indexes. `parents` are the tables that it inherits from: a query of them
    reads its rows, too. `comment` is the application's own.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    foreign_keys: tuple[ForeignKey, ...]
    keys: tuple[tuple[str, ...], ...]
    indexed: frozenset[str] = frozenset()
    parents: tuple[str, ...] = ()
    comment: str = ""
    is_readable: bool = True

    @property
    def quoted(self) -> str:
        return quote_relation(self.schema, self.name)

    @property
    def is_printable(self) -> bool:
        return is_printable(self.schema) and is_printable(self.name)

    def find_column(self, quoted: str) -> Column | None:
        return next((column for column in self.columns if column.quoted == quoted), None)

    def get_column(self, quoted: str) -> Column:
        found = self.find_column(quoted)
        if found is None:
            raise ConfigurationError(f"{self.quoted} has no column {quoted}")
        return found

    @property
    def unique_keys(self) -> list[tuple[str, ...]]:
        """The keys without nulls, which can order rows."""
        return [key for key in self.keys if all(self.get_column(name).not_null for name in key)]


class Catalog(msgspec.Struct, frozen=True):
    """`tables` by quoted name; `relations` maps schema and relation to the quoted name, a partition to its root's."""

    tables: dict[str, Table]
    relations: dict[tuple[str, str], str]


async def read_catalog(connection: Connection) -> Catalog:
    async with using_safe_search_path(connection):
        rows = await connection.fetch(QUERIES["list_tables"])
        quoted = {row["oid"]: quote_relation(row["schema"], row["name"]) for row in rows}
        roots = [row for row in rows if row["root"] is None]
        oids = [row["oid"] for row in roots]
        columns = await _read_columns(connection, oids)
        foreign_keys = await _read_foreign_keys(connection, oids, quoted, columns)
        keys = await _read_keys(connection, oids, columns)
        indexed = await _read_indexed(connection, oids, columns)
    tables = [
        Table(
            row["schema"],
            row["name"],
            tuple(columns[row["oid"]].values()),
            tuple(foreign_keys[row["oid"]]),
            tuple(keys[row["oid"]]),
            indexed=frozenset(indexed[row["oid"]]),
            parents=tuple(quoted[oid] for oid in row["parents"] if oid in quoted),
            comment=row["comment"],
            is_readable=row["is_readable"],
        )
        for row in roots
    ]
    relations = {
        (row["schema"], row["name"]): quoted.get(row["root"] or row["oid"], quoted[row["oid"]]) for row in rows
    }
    return Catalog({table.quoted: table for table in tables}, relations)


def quote_relation(schema: str, name: str) -> str:
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"


async def _read_columns(connection: Connection, oids: Sequence[int]) -> dict[int, dict[int, Column]]:
    found: dict[int, dict[int, Column]] = defaultdict(dict)
    for row in await connection.fetch(QUERIES["list_columns"], oids):
        found[row["table"]][row["number"]] = Column(
            row["name"], row["type"], row["is_enum"], row["not_null"], row["length"]
        )
    return found


async def _read_foreign_keys(
    connection: Connection, oids: Sequence[int], quoted: dict[int, str], columns: dict[int, dict[int, Column]]
) -> dict[int, list[ForeignKey]]:
    found: dict[int, list[ForeignKey]] = defaultdict(list)
    for row in await connection.fetch(QUERIES["list_foreign_keys"], oids):
        found[row["table"]].append(
            ForeignKey(
                _names(columns, row["table"], row["numbers"]),
                quoted[row["target"]],
                _names(columns, row["target"], row["target_numbers"]),
            )
        )
    return found


async def _read_keys(
    connection: Connection, oids: Sequence[int], columns: dict[int, dict[int, Column]]
) -> dict[int, list[tuple[str, ...]]]:
    found: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for row in await connection.fetch(QUERIES["list_keys"], oids):
        found[row["table"]].append(_names(columns, row["table"], row["numbers"]))
    return found


async def _read_indexed(
    connection: Connection, oids: Sequence[int], columns: dict[int, dict[int, Column]]
) -> dict[int, set[str]]:
    found: dict[int, set[str]] = defaultdict(set)
    for row in await connection.fetch(QUERIES["list_indexed_columns"], oids):
        found[row["table"]] |= set(_names(columns, row["table"], [row["number"]]))
    return found


def _names(columns: dict[int, dict[int, Column]], table: int, numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(columns[table][number].quoted for number in numbers)

"""An application's tables as PostgreSQL's catalog describes them; names are quoted as SQL needs them."""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from service.database import QUERIES, Connection
from service.errors import ConfigurationError


class Column(msgspec.Struct, frozen=True):
    """`type_name` is pg_type's typname, of a domain the one below it."""

    name: str
    quoted: str
    type_name: str
    is_enum: bool
    not_null: bool


class ForeignKey(msgspec.Struct, frozen=True):
    """`columns` point to `target_columns` of the table `target`, in this order; all quoted."""

    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]


class Table(msgspec.Struct, frozen=True):
    """`keys` are sets of columns that no two rows share, the primary key first; nulls are possible in other ones."""

    schema: str
    name: str
    quoted_schema: str
    quoted: str
    columns: tuple[Column, ...]
    foreign_keys: tuple[ForeignKey, ...]
    keys: tuple[tuple[str, ...], ...]

    def find_column(self, quoted: str) -> Column | None:
        return next((column for column in self.columns if column.quoted == quoted), None)

    def get_column(self, quoted: str) -> Column:
        found = self.find_column(quoted)
        if found is None:
            raise ConfigurationError(f"{self.quoted} has no column {quoted}")
        return found

    @property
    def unique_keys(self) -> list[tuple[str, ...]]:
        """Those without nulls, which can order rows."""
        return [key for key in self.keys if all(self.get_column(name).not_null for name in key)]


class Catalog(msgspec.Struct, frozen=True):
    """`tables` by quoted name; `relations` has the quoted name of a schema's relation, of a partition its root's."""

    tables: dict[str, Table]
    relations: dict[tuple[str, str], str]


async def read_catalog(connection: Connection) -> Catalog:
    """Raises ConfigurationError for a name that can't stand in a line of SQL."""
    rows = await connection.fetch(QUERIES["list_tables"])
    quoted = {row["oid"]: row["quoted"] for row in rows}
    roots = [row for row in rows if row["root"] is None]
    oids = [row["oid"] for row in roots]
    columns = await _read_columns(connection, oids)
    foreign_keys = await _read_foreign_keys(connection, oids, quoted, columns)
    keys = await _read_keys(connection, oids, columns)
    tables = [
        Table(
            row["schema"],
            row["name"],
            row["quoted_schema"],
            row["quoted"],
            tuple(columns[row["oid"]].values()),
            tuple(foreign_keys[row["oid"]]),
            tuple(keys[row["oid"]]),
        )
        for row in roots
    ]
    for table in tables:
        _require_printable(table)
    relations = {(row["schema"], row["name"]): quoted.get(row["root"] or row["oid"], row["quoted"]) for row in rows}
    return Catalog({table.quoted: table for table in tables}, relations)


async def _read_columns(connection: Connection, oids: Sequence[int]) -> dict[int, dict[int, Column]]:
    found: dict[int, dict[int, Column]] = defaultdict(dict)
    for row in await connection.fetch(QUERIES["list_columns"], oids):
        found[row["table"]][row["number"]] = Column(
            row["name"], row["quoted"], row["type"], row["is_enum"], row["not_null"]
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


def _names(columns: dict[int, dict[int, Column]], table: int, numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(columns[table][number].quoted for number in numbers)


def _require_printable(table: Table) -> None:
    for name in (table.quoted, *(column.quoted for column in table.columns)):
        if not name.isprintable():
            raise ConfigurationError(f"A name in {table.quoted!r} has a control character: {name!r}")

"""The key of an operators' list: the columns of its unique order, by whose values a download is resumed.

The rows after a key are found by a comparison of rows, which an index on the key's columns serves. It loses rows where
a column is null, and where a collation takes unlike texts for the same; so neither may be part of a key.
"""

import re
from collections.abc import Iterator

from guard.text import unquote_identifier
from service.backends.database import QUERIES, Connection
from service.documents.plans import NAME, Plan, all_nodes, tables_by_alias
from service.documents.unique_order import OrderKey, find_order
from service.errors import ConfigurationError

COLUMN = re.compile(rf"{NAME}\.{NAME}")
PART = re.compile(r"_\d+\Z")  # partitions of the table events are called events_1, events_2, …
NOT_BY_COLUMNS = "its ORDER BY must name columns of the list, ascending, so that it can be resumed"
# The children of a join whose columns may be filled with nulls.
PADDED = {"Left": {"Inner"}, "Right": {"Outer"}, "Full": {"Inner", "Outer"}}


async def find_key(connection: Connection, plan: Plan, column_count: int) -> list[int]:
    """The positions, among the result's `column_count` columns, of those that the rows are ordered by.

    To be called within `using_safe_search_path`. Raises ConfigurationError unless the values of these columns alone say
    where a row stands.
    """
    order = find_order(plan, column_count)
    if not order:
        raise ConfigurationError(NOT_BY_COLUMNS)
    aliases = tables_by_alias(plan)
    aliases |= {PART.sub("", alias): table for alias, table in aliases.items() if PART.sub("", alias) not in aliases}
    padded = set(_padded_aliases(plan))
    for key in order:
        await _check_column(connection, key, aliases, padded)
    return [key.position for key in order]


async def _check_column(
    connection: Connection, key: OrderKey, aliases: dict[str, tuple[str, str]], padded: set[str]
) -> None:
    found = COLUMN.fullmatch(key.name.strip("()"))
    alias, column = map(unquote_identifier, found.groups()) if found else ("", "")
    if alias not in aliases:
        raise ConfigurationError(NOT_BY_COLUMNS)
    collation = unquote_identifier(key.collation.rpartition(".")[2]) if key.collation else None
    fault = await connection.fetchval(QUERIES["find_key_fault"], *aliases[alias], column, collation)
    if alias in padded:
        fault = "may be null where its join finds no row"
    if fault:
        raise ConfigurationError(f"its ORDER BY has {column}, which {fault}: a download could lose rows")


def _padded_aliases(plan: Plan) -> Iterator[str]:
    for node in all_nodes(plan):
        padded = PADDED.get(node.get("Join Type", ""), set())
        for child in node.get("Plans", []):
            if child["Parent Relationship"] in padded:
                yield from (below["Alias"] for below in all_nodes(child) if "Alias" in below)

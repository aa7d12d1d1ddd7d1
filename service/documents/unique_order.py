"""Check that the order of a query's rows is unique, by its plan: what it sorts by, joins on, and groups by."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from guard.text import unquote_identifier
from service.backends.database import QUERIES, Connection
from service.documents.plans import CALL, RENAMING_NODES, Plan, all_nodes, without_literals
from service.errors import ConfigurationError

Key: TypeAlias = frozenset[str]
Source: TypeAlias = tuple[str, str, bool]
"""A table's schema and name, and whether the plan reads it as partitions."""
UniqueKeys: TypeAlias = dict[Source, list[list[str]]]

SORT_OPTIONS = re.compile(r" (?:DESC|NULLS (?:FIRST|LAST)|COLLATE \S+|USING \S+)")
CONSTANT = re.compile(r"'(?:[^']|'')*'|\(InitPlan \d+\)\.col\d+|\$\d+")
COLUMN = r'\(*([\w."$]+)\)*(?:::(?:text|bpchar))?\)*'
EQUATION = re.compile(rf"{COLUMN} = {COLUMN}")
PARTITION_NUMBER = re.compile(r"_\d+(?=\.)")  # those of the table events are called events_1, events_2, …
MULTIPLYING_NODES = {*RENAMING_NODES, "ProjectSet"}
ORDERED_NODES = {"Group", "Limit", "Materialize", "Nested Loop", "Result", "Subquery Scan", "Unique", "WindowAgg"}


async def read_unique_keys(connection: Connection, plans: Sequence[Plan]) -> UniqueKeys:
    """The unique keys of the tables that the plans join. To be called with the safe search path."""
    read = sorted({found for plan in plans for source in _sources(plan) if (found := _table_read(source))})
    keys: UniqueKeys = defaultdict(list)
    for row in await connection.fetch(
        QUERIES["list_unique_keys"], *([source[part] for source in read] for part in range(3))
    ):
        keys[row["schema"], row["name"], row["is_partition"]].append(row["columns"])
    return keys


async def check_unique_order(
    connection: Connection, plan: Plan, unique_keys: UniqueKeys, *, has_order_by: bool
) -> None:
    """Raise ConfigurationError unless rows that compare equal in the plan's order must be one row.

    That is so if the order, and what the conditions equate with it, determine a unique key of everything that is
    joined: tables, and groups. Without an ORDER BY, internal sorts of the plan don't count as an order.
    To be called with the safe search path.
    """
    keys = _sort_keys(plan) if has_order_by else frozenset()
    found = [_unique_keys(source, unique_keys) for source in _sources(plan)]
    if not _determines(keys, found, list(_inferences(plan))):
        fault = "its ORDER BY isn't known to be unique" if keys else "it has no ORDER BY"
        raise ConfigurationError(f"{fault}: rows need a unique order, so end it with the primary key of what it lists")
    await _check_repeatable(connection, plan)


async def _check_repeatable(connection: Connection, plan: Plan) -> None:
    """Raise ConfigurationError if two readings in one snapshot may differ: a document with wide rows takes two."""
    nodes = list(all_nodes(plan))
    if any(node["Node Type"] == "Sample Scan" for node in nodes):
        raise ConfigurationError("TABLESAMPLE gives other rows each time")
    keys = [key for node in nodes for key in node.get("Sort Key", [])]
    names = {unquote_identifier(name) for key in keys for name in CALL.findall(without_literals(key))}
    if volatile := await _find_volatile(connection, sorted(names)):
        raise ConfigurationError(
            f"its ORDER BY must not depend on {volatile}(), which is VOLATILE: two reads may be ordered differently"
        )


async def _find_volatile(connection: Connection, names: list[str]) -> str | None:
    if not names:
        return None
    found: str | None = await connection.fetchval(QUERIES["find_volatile_function"], names)
    return found


def is_ordered_by_first_output(plan: Plan) -> bool:
    """Whether the rows ascend by the first column of the result."""
    return _position(plan["Output"][:1], next(iter(_sort(plan)), "")) == 0


class OrderKey(NamedTuple):
    """A key of the order as the plan names it, without its collation, and its position among the result's columns."""

    name: str
    collation: str | None
    position: int


def find_order(plan: Plan, column_count: int) -> list[OrderKey]:
    """The keys that the rows ascend by. Empty if a key isn't a column of the result, or descends."""
    order = []
    for key in _sort(plan):
        name, _, collation = key.partition(" COLLATE ")
        position = _position(plan["Output"][:column_count], name)
        if position is None:
            return []
        order.append(OrderKey(name, collation or None, position))
    return order


def _position(outputs: Sequence[str], key: str) -> int | None:
    # In a plan of a single table, outputs lack the table's name, but sort keys have it.
    found = (position for position, output in enumerate(outputs) if key == output or key.endswith(f".{output}"))
    return next(found, None)


def _determines(keys: Key, unique_keys: list[list[Key]], inferences: list[tuple[str, str]]) -> bool:
    """Whether values of `keys` leave one row of each source. A known unique key makes all of its table known."""
    known = keys | {"$1"}
    while True:
        found = {_table(column) for uniques in unique_keys for key in uniques if key <= known for column in key}
        found |= {known_too for column, known_too in inferences if column in known or _table(column) in known}
        if found <= known:
            return all(any(key <= known for key in uniques) for uniques in unique_keys)
        known |= found


def _table(column: str) -> str:
    return column.rpartition(".")[0]


def _joined(plan: Plan) -> Iterator[Plan]:
    """The children whose rows become the plan's rows: neither scalar subqueries nor (NOT) EXISTS."""
    existence = plan.get("Join Type") in {"Semi", "Anti"}
    for child in plan.get("Plans", []):
        relation = child["Parent Relationship"]
        if relation not in {"InitPlan", "SubPlan"} and not (existence and relation == "Inner"):
            yield child


def _sources(plan: Plan) -> Iterator[Plan]:
    """The joined nodes, whose rows can multiply each other."""
    children = list(_joined(plan))
    if plan["Node Type"] in {"Result", "Aggregate"} and (not children or plan.get("Strategy") == "Plain"):
        return  # one row
    if _is_grouped(plan) or plan["Node Type"] in MULTIPLYING_NODES or not children:
        yield plan
        return
    for child in children:
        yield from _sources(child)


def _is_grouped(plan: Plan) -> bool:
    return plan["Node Type"] in {"Aggregate", "Group", "Unique"}


def _unique_keys(source: Plan, unique_keys: UniqueKeys) -> list[Key]:
    """Sets of columns as the plan names them; none if we know of none."""
    if _is_grouped(source):
        key = _sort_keys(source) if source["Node Type"] == "Unique" else _bare(source.get("Group Key", []))
        return [key] if key else []
    table = _table_read(source)
    found = unique_keys.get(table, []) if table else []
    return [frozenset(name + column for column in columns) for columns in found for name in _names_read(source)]


def _table_read(source: Plan) -> Source | None:
    partitions = _partitions(source)
    scan = partitions[0] if partitions else source
    if _is_grouped(source) or "Relation Name" not in scan or len(_names_read(source)) > 1:
        return None
    return scan["Schema"], scan["Relation Name"], bool(partitions)


def _names_read(source: Plan) -> set[str]:
    """The table's names in the plan, each with a dot; its partitions have one name, too."""
    partitions = _partitions(source)
    return {PARTITION_NUMBER.sub("", f"{node.get('Alias')}.") for node in partitions} or {f"{source.get('Alias')}."}


def _partitions(source: Plan) -> list[Plan]:
    return source.get("Plans", []) if source["Node Type"] == "Append" else []


def _sort_keys(plan: Plan) -> Key:
    return _bare(_sort(plan))


def _sort(plan: Plan) -> list[str]:
    """The keys of the sort that orders the plan's rows; the nodes above it keep its order."""
    while "Sort Key" not in plan:
        ordered = plan["Node Type"] in ORDERED_NODES or plan.get("Strategy") == "Sorted"
        outer = [child for child in _joined(plan) if child["Parent Relationship"] in {"Outer", "Subquery"}]
        if not ordered or not outer:
            return []
        plan = outer[0]
    keys: list[str] = plan["Sort Key"]
    return keys


def _inferences(plan: Plan) -> Iterator[tuple[str, str]]:
    """Pairs of columns: where the first is known, so is the second."""
    for left, right in _equations(plan.get("Filter", "")):
        yield left, right
        yield right, left
    yield from _join_inferences(plan)
    for child in _joined(plan):
        for pair in _inferences(child):
            yield pair
            if plan["Node Type"] == "Append":
                yield PARTITION_NUMBER.sub("", pair[0]), PARTITION_NUMBER.sub("", pair[1])


def _join_inferences(plan: Plan) -> Iterator[tuple[str, str]]:
    """The inner side of an outer join implies nothing about the other side, as NULLs may pad it."""
    if plan.get("Join Type") not in {"Inner", "Left"}:
        return
    inner = [
        child for child in plan["Plans"] if child["Parent Relationship"] == "Inner" and plan["Join Type"] == "Left"
    ]
    padded = {node.get("Alias") for child in inner for node in all_nodes(child)}
    for left, right in _equations(plan.get("Join Filter", "")):
        if _table(left) not in padded:
            yield left, right
        if _table(right) not in padded:
            yield right, left


def _equations(condition: str) -> Iterator[tuple[str, str]]:
    if " OR " in condition:
        return
    for part in CONSTANT.sub("$1", condition).split(" AND "):
        if found := EQUATION.fullmatch(part):
            yield found[1].replace('"', ""), found[2].replace('"', "")


def _bare(keys: list[str]) -> Key:
    return frozenset(SORT_OPTIONS.sub("", key).strip("()").replace('"', "") for key in keys)

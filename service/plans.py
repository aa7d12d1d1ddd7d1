"""What PostgreSQL's plan of a query reveals: the columns that its results are made of, behind aliases and views, and
whether its order is unique.

The text of a query can hide both; the planner has already resolved them. (What a function, a materialized view or a
foreign table contains, it doesn't show.) Reference: PostgreSQL's manual, EXPLAIN. With the settings of the query
`reveal_plans` orders are made by sorts alone, and joins are nested loops: the outer side gives the order, and in an
outer join it is the one whose rows are all kept.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from service.database import QUERIES, Connection
from service.errors import ConfigurationError

Plan: TypeAlias = dict[str, Any]
Key: TypeAlias = frozenset[str]

# A name may hold apostrophes, a literal quotes. PostgreSQL doubles each in its own, and writes neither E'…' nor U&"…".
NAME_OR_LITERAL = re.compile(r"""("(?:[^"]|"")+")|'(?:[^']|'')*'""")
NAME = r'("(?:[^"]|"")+"|[^\W\d][\w$]*)'
IDENTIFIER = re.compile(rf"{NAME}(\.)?")
REFERENCE = re.compile(rf'(?<![\w$":]){NAME}\.{NAME}(?![\w$(])')  # neither a function nor a type
CALL = re.compile(rf"{NAME}\(")
WHOLE_ROW = re.compile(r'["\w]\.\*')
SORT_OPTIONS = re.compile(r" (?:DESC|NULLS (?:FIRST|LAST)|COLLATE \S+|USING \S+)")
SUBPLAN = re.compile(r"(?:Init|Sub)Plan \d+|\$\d+")  # $n before PostgreSQL 17
CONSTANT = re.compile(r"'(?:[^']|'')*'|\(InitPlan \d+\)\.col\d+|\$\d+")
COLUMN = r'\(*([\w."$]+)\)*(?:::(?:text|bpchar))?\)*'
EQUATION = re.compile(rf"{COLUMN} = {COLUMN}")
PARTITION_NUMBER = re.compile(r"_\d+(?=\.)")  # those of the table events are called events_1, events_2, …

# Below these a result's column has another name than the one it was read by.
RENAMING_NODES = {"Subquery Scan", "CTE Scan", "Append", "Merge Append", "Recursive Union", "SetOp", "WorkTable Scan"}
FUNCTION_CALLS = ("Function Call", "Table Function Call")
MULTIPLYING_NODES = {*RENAMING_NODES, "ProjectSet"}
ORDERED_NODES = {"Group", "Limit", "Materialize", "Nested Loop", "Result", "Subquery Scan", "Unique", "WindowAgg"}
CONDITIONS = ("Filter", "Join Filter", "One-Time Filter")


async def explain(connection: Connection, sql: str, parameter_types: Sequence[str]) -> Plan:
    """The plan's root node. A generic plan keeps parameters unknown; without indexes an order can't hide in a scan."""
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    try:
        await connection.execute(QUERIES["reveal_plans"])
        return await _explain(connection, sql, parameter_types)
    finally:
        await transaction.rollback()  # within another one, too, the settings must end here


async def _explain(connection: Connection, sql: str, parameter_types: Sequence[str]) -> Plan:
    await connection.execute(f"PREPARE carryout_dataset ({', '.join(parameter_types)}) AS {sql}")
    nulls = ", ".join("NULL" for _ in parameter_types)
    try:
        async with connection.transaction():  # after a refusal too, the statement must go
            text = await connection.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE carryout_dataset ({nulls})")
    finally:
        await connection.execute("DEALLOCATE carryout_dataset")
    root: Plan = msgspec.json.decode(text)[0]["Plan"]
    return root


def outputs(plan: Plan, column_count: int) -> Iterator[str]:
    """The expressions that the result's columns are made of; below a renaming node, all that its children give."""
    yield from plan.get("Output", [])[:column_count]
    nodes = list(_nodes(plan))
    yield from (node[call] for node in nodes for call in FUNCTION_CALLS if call in node)
    compared = _compared_subplans(nodes)
    for node in nodes:
        if node.get("Subplan Name", "") not in {"", *compared} or node["Node Type"] == "ProjectSet":
            yield from node.get("Output", [])
        if node["Node Type"] in RENAMING_NODES:
            for child in node.get("Plans", []):
                yield from child.get("Output", [])


def hides_expressions(plan: Plan) -> bool:
    """Whether results may be made of what no plan shows."""
    return any(node["Node Type"] == "Values Scan" for node in _nodes(plan))


def tables(plan: Plan) -> tuple[tuple[str, str], ...]:
    """The schema and the name of each table that is read, also behind views; partitions, not what they are parts of."""
    return tuple(sorted({(node["Schema"], node["Relation Name"]) for node in _nodes(plan) if "Relation Name" in node}))


def _compared_subplans(nodes: list[Plan]) -> set[str]:
    """The names of the subplans whose result serves in conditions alone."""
    compared = _labels([node.get(name, "") for node in nodes for name in CONDITIONS])
    given = _labels([expression for node in nodes for expression in _given(node)])
    names = {node.get("Subplan Name", "") for node in nodes}
    own = {name: set(SUBPLAN.findall(name)) for name in names if not name.startswith("CTE ")}  # that may be called so
    return {name for name, labels in own.items() if labels & compared and not labels & given}


def _labels(expressions: list[str]) -> set[str]:
    return set(SUBPLAN.findall(NAME_OR_LITERAL.sub("", " ".join(expressions))))


def _given(node: Plan) -> list[str]:
    return [*node.get("Output", []), *(node[call] for call in FUNCTION_CALLS if call in node)]


def identifiers(expression: str) -> list[str]:
    """The names in it but those that only say where another one belongs: tables, schemas."""
    found = IDENTIFIER.findall(without_literals(expression))
    return [_unquoted(name) for name, qualifies in found if not qualifies]


def reads_whole_row(expression: str) -> bool:
    return WHOLE_ROW.search(without_literals(expression)) is not None


def without_literals(expression: str) -> str:
    return NAME_OR_LITERAL.sub(r"\1", expression)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


async def check_column_names(connection: Connection, sql: str, parameter_types: Sequence[str]) -> None:
    """Raise ConfigurationError if the query, or a view, gives a table's columns other names: plans show only those."""
    # Of a single table's columns, outputs lack the table's name; a subquery around it brings that back.
    plan = await explain(connection, f'SELECT * FROM ({sql}) AS "row"', parameter_types)  # noqa: S608 (an operator's file)
    read = sorted(_columns_read(list(_nodes(plan))))
    unknown = await connection.fetchrow(
        QUERIES["find_unknown_column"], *([row[part] for row in read] for part in range(3))
    )
    if unknown:
        raise ConfigurationError(
            f"{unknown['table']} has no column called {unknown['column']}: "
            "leave out the list of names after its alias, or make the view anew that knows it by that name"
        )


def _columns_read(nodes: list[Plan]) -> set[tuple[str, str, str]]:
    """The schema, the table and the name of each column that is given by a node."""
    tables_by_alias = {
        node["Alias"]: (node["Schema"], node["Relation Name"]) for node in nodes if "Relation Name" in node
    }
    references = [
        tuple(map(_unquoted, reference))
        for node in nodes
        for expression in _given(node)
        for reference in REFERENCE.findall(without_literals(expression))
    ]
    return {(*tables_by_alias[alias], column) for alias, column in references if alias in tables_by_alias}


async def check_unique_order(connection: Connection, plan: Plan, *, has_order_by: bool) -> None:
    """Raise ConfigurationError unless rows that compare equal in the plan's order must be one row.

    That is so if the order, and what the conditions equate with it, determine a unique key of everything that is
    joined: tables, and groups. Without an ORDER BY, sorts that the plan needs for its own ends are no order.
    """
    keys = _sort_keys(plan) if has_order_by else frozenset()
    unique_keys = [await _unique_keys(connection, source) for source in _sources(plan)]
    if not _determines(keys, unique_keys, list(_inferences(plan))):
        fault = "its ORDER BY isn't known to be unique" if keys else "it has no ORDER BY"
        raise ConfigurationError(f"{fault}: rows need a unique order, so end it with the primary key of what it lists")
    await _check_repeatable(connection, plan)


async def _check_repeatable(connection: Connection, plan: Plan) -> None:
    """Raise ConfigurationError if two readings in one snapshot may differ: a document with wide rows takes two."""
    nodes = list(_nodes(plan))
    if any(node["Node Type"] == "Sample Scan" for node in nodes):
        raise ConfigurationError("TABLESAMPLE gives other rows each time")
    keys = [key for node in nodes for key in node.get("Sort Key", [])]
    names = {_unquoted(name) for key in keys for name in CALL.findall(without_literals(key))}
    if volatile := await connection.fetchval(QUERIES["find_volatile_function"], sorted(names)):
        raise ConfigurationError(f"its order must not hang on {volatile}(), which is VOLATILE: it may differ each time")


def is_ordered_by_first_output(plan: Plan) -> bool:
    """Whether the rows ascend by the first column of the result."""
    # Of a single table's columns, outputs lack the table's name, and sort keys have it.
    return any(plan["Output"][0] in {key, key.rpartition(".")[2]} for key in _sort(plan)[:1])


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


def _nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _joined(plan: Plan) -> Iterator[Plan]:
    """The children whose rows become the plan's rows: neither scalar subqueries nor (NOT) EXISTS."""
    existence = plan.get("Join Type") in {"Semi", "Anti"}
    for child in plan.get("Plans", []):
        relation = child["Parent Relationship"]
        if relation not in {"InitPlan", "SubPlan"} and not (existence and relation == "Inner"):
            yield child


def _sources(plan: Plan) -> Iterator[Plan]:
    """What is joined: the nodes whose rows can multiply the others'."""
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


async def _unique_keys(connection: Connection, source: Plan) -> list[Key]:
    """Sets of columns as the plan names them; none if we know of none."""
    if _is_grouped(source):
        key = _sort_keys(source) if source["Node Type"] == "Unique" else _bare(source.get("Group Key", []))
        return [key] if key else []
    partitions = source.get("Plans", []) if source["Node Type"] == "Append" else []
    scan = partitions[0] if partitions else source
    names = {PARTITION_NUMBER.sub("", f"{node.get('Alias')}.") for node in partitions} or {f"{source.get('Alias')}."}
    if "Relation Name" not in scan or len(names) > 1:
        return []
    rows = await connection.fetch(QUERIES["list_unique_keys"], scan["Schema"], scan["Relation Name"], bool(partitions))
    return [frozenset(name + column for column in row["columns"]) for row in rows for name in names]


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
    """Where an outer join's inner side is padded with NULLs, it says nothing of the other."""
    if plan.get("Join Type") not in {"Inner", "Left"}:
        return
    inner = [
        child for child in plan["Plans"] if child["Parent Relationship"] == "Inner" and plan["Join Type"] == "Left"
    ]
    padded = {node.get("Alias") for child in inner for node in _nodes(child)}
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

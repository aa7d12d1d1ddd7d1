"""Facts from PostgreSQL's plan of a query: the columns that its results are made of, behind aliases and views.

The text of a query can hide both; the planner has already resolved them. (What a function, a materialized view or a
foreign table contains, it doesn't show.) Reference: PostgreSQL's manual, EXPLAIN. With the settings of the query
`reveal_plans` orders are made by sorts alone, and joins are nested loops: the outer side gives the order, and in an
outer join it is the one whose rows are all kept.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from guard.text import unquote_identifier
from service.backends.database import QUERIES, Connection, using_settings
from service.documents.query_trees import logged_tree
from service.errors import ConfigurationError

Plan: TypeAlias = dict[str, Any]

# A name may hold apostrophes, a literal quotes. PostgreSQL doubles each in its own, and writes neither E'…' nor U&"…".
NAME_OR_LITERAL = re.compile(r"""("(?:[^"]|"")+")|'(?:[^']|'')*'""")
NAME = r'("(?:[^"]|"")+"|[^\W\d][\w$]*)'
IDENTIFIER = re.compile(rf"{NAME}(\.)?")
REFERENCE = re.compile(rf'(?<![\w$":]){NAME}\.{NAME}(?![\w$(])')  # neither a function nor a type
CALL = re.compile(rf"{NAME}\(")
WHOLE_ROW = re.compile(r'["\w]\.\*')
SUBPLAN = re.compile(r"(?:Init|Sub)Plan \d+|\$\d+")  # $n before PostgreSQL 17

PARAMETER_TYPES = {
    "uuid": "pg_catalog.uuid",
    "bigint": "pg_catalog.int8",
    "text": "pg_catalog.text",
    "numeric": "pg_catalog.numeric",
    "boolean": "pg_catalog.bool",
    "date": "pg_catalog.date",
    "timestamptz": "pg_catalog.timestamptz",
}

# Below these a result's column has another name than the one it was read by.
RENAMING_NODES = {"Subquery Scan", "CTE Scan", "Append", "Merge Append", "Recursive Union", "SetOp", "WorkTable Scan"}
FUNCTION_CALLS = ("Function Call", "Table Function Call")
CONDITIONS = ("Filter", "Join Filter", "One-Time Filter")


async def explain(connection: Connection, sql: str, parameter_types: Sequence[str]) -> Plan:
    """The plan's root node. A generic plan keeps parameters unknown; without indexes an order can't hide in a scan."""
    async with using_settings(connection, QUERIES["reveal_plans"]) as cleanup:
        name = await _prepare(connection, sql, parameter_types, cleanup)
        return await _explain(connection, name, parameter_types)


class Inspection(msgspec.Struct, frozen=True):
    """`row_plan` is the plan of the query as a subquery: its outputs have their tables' names.

    In `plan`, if it is of a single table, they lack it. `tree` is the text of the query's tree.
    """

    plan: Plan
    row_plan: Plan
    tree: str


async def inspect(connection: Connection, sql: str, parameter_types: Sequence[str], cleanup: list[str]) -> Inspection:
    """To be called with the settings of `reveal_plans`, and their list for statements that clean up behind them."""
    row_sql = f'SELECT * FROM ({sql}) AS "row"'  # noqa: S608 (an operator's file)
    async with logged_tree(connection) as tree:
        name = await _prepare(connection, sql, parameter_types, cleanup, settings=QUERIES["reveal_query_trees"])
        row_name = await _prepare(connection, row_sql, parameter_types, cleanup, settings=QUERIES["hide_query_trees"])
    plan = await _explain(connection, name, parameter_types)
    row_plan = await _explain(connection, row_name, parameter_types)
    return Inspection(plan, row_plan, tree.text)


async def _prepare(
    connection: Connection, sql: str, parameter_types: Sequence[str], cleanup: list[str], *, settings: str = ""
) -> str:
    """The name of the statement, which goes with `cleanup`."""
    name = f"carryout_dataset_{len(cleanup)}"
    types = _in_parentheses([PARAMETER_TYPES[type_] for type_ in parameter_types])
    await connection.execute(f"{settings};\nPREPARE {name}{types} AS {sql}")
    cleanup.append(f"DEALLOCATE {name}")
    return name


async def _explain(connection: Connection, name: str, parameter_types: Sequence[str]) -> Plan:
    nulls = _in_parentheses(["NULL" for _ in parameter_types])
    text = await connection.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE {name}{nulls}")
    plan: Plan = msgspec.json.decode(text)[0]["Plan"]
    return plan


def _in_parentheses(parts: Sequence[str]) -> str:
    """Empty without parts, where PostgreSQL allows no parentheses."""
    return f" ({', '.join(parts)})" if parts else ""


def outputs(plan: Plan, column_count: int) -> Iterator[str]:
    """The expressions that the result's columns are made of; below a renaming node, all that its children give."""
    yield from plan.get("Output", [])[:column_count]
    nodes = list(all_nodes(plan))
    yield from (node[call] for node in nodes for call in FUNCTION_CALLS if call in node)
    compared = _compared_subplans(nodes)
    for node in nodes:
        if node.get("Subplan Name", "") not in {"", *compared} or node["Node Type"] == "ProjectSet":
            yield from node.get("Output", [])
        if node["Node Type"] in RENAMING_NODES:
            for child in node.get("Plans", []):
                yield from child.get("Output", [])


def hides_expressions(plan: Plan) -> bool:
    """Whether results may come from sources that no plan shows."""
    return any(node["Node Type"] == "Values Scan" for node in all_nodes(plan))


def tables(plan: Plan) -> tuple[tuple[str, str], ...]:
    """The schema and the name of each table that is read, also behind views; partitions, not what they are parts of."""
    return tuple(
        sorted({(node["Schema"], node["Relation Name"]) for node in all_nodes(plan) if "Relation Name" in node})
    )


def tables_by_alias(plan: Plan) -> dict[str, tuple[str, str]]:
    """The schema and the name of each table that is read, by what the plan calls it."""
    return _tables_by_alias(list(all_nodes(plan)))


def _tables_by_alias(nodes: list[Plan]) -> dict[str, tuple[str, str]]:
    return {node["Alias"]: (node["Schema"], node["Relation Name"]) for node in nodes if "Relation Name" in node}


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
    return [unquote_identifier(name) for name, qualifies in found if not qualifies]


def reads_whole_row(expression: str) -> bool:
    return WHOLE_ROW.search(without_literals(expression)) is not None


def without_literals(expression: str) -> str:
    return NAME_OR_LITERAL.sub(r"\1", expression)


async def check_column_names(connection: Connection, row_plans: Sequence[Plan]) -> None:
    """Raise ConfigurationError if a query, or a view, gives a table's columns other names: plans show only those.

    `row_plans` are those of `inspect`. To be called with the safe search path.
    """
    read = sorted({column for plan in row_plans for column in _columns_read(list(all_nodes(plan)))})
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
    aliases = _tables_by_alias(nodes)
    references = [
        tuple(map(unquote_identifier, reference))
        for node in nodes
        for expression in _given(node)
        for reference in REFERENCE.findall(without_literals(expression))
    ]
    return {(*aliases[alias], column) for alias, column in references if alias in aliases}


def all_nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", []):
        yield from all_nodes(child)

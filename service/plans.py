"""What PostgreSQL's plan of a query reveals: the columns that its results are made of, behind aliases and views, and
whether its order is unique.

The text of a query can hide both; the planner has already resolved them. Reference: PostgreSQL's manual, EXPLAIN.
"""

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from service.database import QUERIES, Connection
from service.errors import ConfigurationError

Plan: TypeAlias = dict[str, Any]

LITERAL = re.compile(r"'(?:[^']|'')*'")
IDENTIFIER = re.compile(r'"(?:[^"]|"")+"|[^\W\d][\w$]*')
WHOLE_ROW = re.compile(r'(?:"[^"]+"|\w)\.\*')
COLUMN = r'\(?([\w."$]+)\)?(?:::[\w ]+)?\)?'
EQUATION = re.compile(rf"{COLUMN} = {COLUMN}")
SORT_OPTIONS = re.compile(r" (?:DESC|NULLS (?:FIRST|LAST)|COLLATE \S+|USING \S+)")
# Below these a result's column has another name than the one it was read by.
RENAMING_NODES = {"Subquery Scan", "CTE Scan", "Append", "Merge Append", "Recursive Union", "SetOp", "WorkTable Scan"}
CONDITIONS = ("Filter", "Join Filter", "Hash Cond", "Merge Cond", "Index Cond", "Recheck Cond")


async def explain(connection: Connection, sql: str, user_id_type: str) -> Plan:
    """The plan's root node. A generic plan keeps `$1` unknown; without indexes an order can't hide in a scan.

    Raises ConfigurationError if `sql` is no SELECT.
    """
    async with connection.transaction(readonly=True):
        await connection.execute(QUERIES["reveal_plans"])
        await connection.execute(f"PREPARE carryout_dataset ({user_id_type}) AS {sql}")
        text = await connection.fetchval("EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE carryout_dataset (NULL)")
        await connection.execute("DEALLOCATE carryout_dataset")
    root: Plan = msgspec.json.decode(text)[0]["Plan"]
    if root["Node Type"] == "ModifyTable":
        raise ConfigurationError("it is not a SELECT")
    return root


def outputs(plan: Plan, column_count: int) -> Iterator[str]:
    """The expressions that the result's columns are made of; below a renaming node, all that its children give."""
    yield from plan.get("Output", [])[:column_count]
    for node in _nodes(plan):
        if node.get("Parent Relationship") in {"InitPlan", "SubPlan"}:
            yield from node.get("Output", [])
        if node["Node Type"] in RENAMING_NODES:
            for child in node.get("Plans", []):
                yield from child.get("Output", [])


def identifiers(expression: str) -> list[str]:
    return [name.strip('"') for name in IDENTIFIER.findall(LITERAL.sub("", expression))]


def reads_whole_row(expression: str) -> bool:
    return WHOLE_ROW.search(LITERAL.sub("", expression)) is not None


async def check_unique_order(connection: Connection, plan: Plan) -> None:
    """Raise ConfigurationError unless rows that compare equal in the plan's order must be one row.

    That is so if the order, and what the conditions equate with it, determine a unique key of every table read; or if
    it covers all that the rows are grouped by.
    """
    keys = _sort_keys(plan)
    known = keys | {"$1"}
    if any(_bare(*node["Group Key"]) <= keys for node in _nodes(plan) if "Group Key" in node):
        return
    if keys and _is_distinct(plan):
        return
    tables = list(_tables(plan))
    equations = [set(pair) for node in _nodes(plan) for pair in _equations(node)]
    undetermined = {node["Alias"]: await _unique_keys(connection, node) for node in tables}
    while determined := _determine(undetermined, known, equations):
        del undetermined[determined]
    if not tables or undetermined:
        fault = "its ORDER BY isn't known to be unique" if keys else "it has no ORDER BY"
        raise ConfigurationError(f"{fault}: rows need a unique order, so end it with the primary key of what it lists")


def _determine(undetermined: dict[str, list[set[str]]], known: set[str], equations: list[set[str]]) -> str | None:
    """A table one of whose unique keys is known; all its columns then join `known`."""
    for equation in equations:
        if any(name in known or _owner(name) in known for name in equation):
            known |= equation
    for alias, uniques in undetermined.items():
        if any(unique <= known for unique in uniques):
            known.add(alias)
            return alias
    return None


def _owner(column: str) -> str:
    return column.rpartition(".")[0]


def _nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _tables(plan: Plan) -> Iterator[Plan]:
    """The scans that can multiply rows: all but those of sub-plans and the inner side of EXISTS and NOT EXISTS."""
    if "Relation Name" in plan or plan["Node Type"] in {"Function Scan", "Values Scan", *RENAMING_NODES}:
        yield plan
    existence = plan.get("Join Type") in {"Semi", "Anti"}
    for child in plan.get("Plans", []):
        relation = child.get("Parent Relationship")
        if relation in {"InitPlan", "SubPlan"} or (existence and relation == "Inner"):
            continue
        yield from _tables(child)


async def _unique_keys(connection: Connection, node: Plan) -> list[set[str]]:
    """Sets of `alias.column`; none for what isn't a table."""
    if "Relation Name" not in node:
        return []
    rows = await connection.fetch(QUERIES["list_unique_keys"], node["Schema"], node["Relation Name"])
    return [{f"{node['Alias']}.{name}" for name in row["columns"]} for row in rows]


def _sort_keys(plan: Plan) -> set[str]:
    """The keys of the sort that orders the result; nodes above it keep its order."""
    while "Sort Key" not in plan:
        ordered = [c for c in plan.get("Plans", []) if c.get("Parent Relationship") in {"Outer", "Subquery"}]
        if not ordered or plan["Node Type"] in {"Hash Join", "Append"}:
            return set()
        plan = ordered[0]
    return _bare(*plan["Sort Key"])


def _is_distinct(plan: Plan) -> bool:
    return plan["Node Type"] == "Unique" or (
        plan["Node Type"] in {"Result", "Limit"} and any(map(_is_distinct, plan.get("Plans", [])))
    )


def _equations(node: Plan) -> list[tuple[str, str]]:
    conditions = " ".join(str(node.get(name, "")) for name in CONDITIONS)
    found = EQUATION.findall(LITERAL.sub("", conditions)) if " OR " not in conditions else []
    return [(left.replace('"', ""), right.replace('"', "")) for left, right in found]


def _bare(*keys: str) -> set[str]:
    return {SORT_OPTIONS.sub("", key).strip("()").replace('"', "") for key in keys}

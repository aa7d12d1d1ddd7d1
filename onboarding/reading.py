"""Which columns of which tables a query's results are made of, after its plan."""

import re
from collections.abc import Iterator, Sequence

from onboarding.catalog import Catalog
from service.database import Connection
from service.plans import NAME, Plan, explain, outputs, without_literals

REFERENCE = re.compile(rf"(?:{NAME}\.)?{NAME}")


async def columns_read(
    connection: Connection, catalog: Catalog, sql: str, parameter_types: Sequence[str], *, about: str | None = None
) -> set[tuple[str, str]]:
    """Pairs of a table and a column, both quoted. Raises PostgresError if the query doesn't work (any more).

    A plan that reads nothing, of a partitioned table that has no partitions yet, names no table: `about` is meant then.
    """
    async with connection.transaction():  # also within one, a query that fails ends no more than itself
        statement = await connection.prepare(sql)
        plan = await explain(connection, sql, parameter_types)
    scanned = dict(_scans(plan, catalog))
    found = set()
    for expression in outputs(plan, len(statement.get_attributes())):
        for alias, column in REFERENCE.findall(without_literals(expression)):
            # Of a single table's columns, PostgreSQL leaves out the table's name.
            table = scanned.get(alias.strip('"')) if alias and scanned else next(iter(scanned.values()), about)
            if table in catalog.tables and catalog.tables[table].find_column(column):
                found.add((table, column))
    return found


def _scans(plan: Plan, catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Pairs of an alias and the table's quoted name."""
    name = catalog.relations.get((plan.get("Schema", ""), plan.get("Relation Name", "")))
    if name in catalog.tables:
        yield plan["Alias"], name
    for child in plan.get("Plans", []):
        yield from _scans(child, catalog)

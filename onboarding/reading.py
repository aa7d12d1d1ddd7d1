"""Finds the table columns that a query's results use, from its plan."""

import re
from collections.abc import Iterator, Sequence

from guard.text import quote_identifier, unquote_identifier
from onboarding.catalog import Catalog
from service.backends.database import Connection
from service.documents.plans import NAME, Plan, explain, outputs, without_literals

REFERENCE = re.compile(rf"(?:{NAME}\.)?{NAME}")


async def columns_read(
    connection: Connection, catalog: Catalog, sql: str, parameter_types: Sequence[str], *, about: str | None = None
) -> set[tuple[str, str]]:
    """Pairs of a table and a column, both quoted. Raises PostgresError if the query doesn't work (any more).

    The plan of a partitioned table without partitions names no table; `about` is used instead.
    """
    async with connection.transaction(readonly=True):  # a savepoint, if one is open: a failing query must not abort it
        statement = await connection.prepare(sql, name="")
        plan = await explain(connection, sql, parameter_types)
    scanned = dict(_scans(plan, catalog))
    found = set()
    for expression in outputs(plan, len(statement.get_attributes())):
        for reference in REFERENCE.findall(without_literals(expression)):
            alias, name = map(unquote_identifier, reference)
            # PostgreSQL omits the table's name if there is only one table.
            table = scanned.get(alias) if alias and scanned else next(iter(scanned.values()), about)
            column = quote_identifier(name)
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

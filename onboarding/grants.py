"""The SQL of the reader role: the columns that the datasets and the operators' lists use.

PostgreSQL itself provides the columns: it records which columns the body of a SQL function depends on. These include
the columns of joins, conditions and orders, and for a view the view's own columns, which are exactly those that a role
needs. The function is temporary, and rolled back.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import asyncpg

from guard.text import quote_identifier
from onboarding.catalog import quote_relation
from onboarding.comments import comment
from service.backends.database import QUERIES, Connection, using_safe_search_path
from service.documents.datasets import LISTS_FOLDER, PROFILE, USER_SEARCH, list_paths, naming, read_sql
from service.errors import ConfigurationError

ROLE = "carryout_reader"
FILES_AT_ONCE = 100
"""In one transaction, whose locks are limited."""
OPEN_TO_ALL = (
    "Every role may create objects in these schemas, including this one. If no application needs that, run the "
    "following statements without their dashes:"
)

EXISTS = "The role exists. If you didn't create it, drop it, or choose another name with --role: its maker can use it"


async def list_grants(connection: Connection, directory: Path, lists_folder: Path, *, role: str = ROLE) -> list[str]:
    """Statements that create the role, unless it exists, and grant it the columns that the files in the folders read.

    A comment names the rights that the role has through PUBLIC: an application of the operator's may need them.
    Raises ConfigurationError if there is no profile, a file doesn't work, or this connection may not create
    temporary objects.
    """
    if not (directory / f"{PROFILE}.sql").exists():
        raise ConfigurationError(f"{directory} has no {PROFILE}.sql")
    granted: dict[tuple[str, str], set[str]] = defaultdict(set)
    lists = [*(directory / LISTS_FOLDER).glob("*.sql"), *lists_folder.glob("*.sql")]
    paths = sorted([*list_paths(directory), *lists, *directory.glob(USER_SEARCH)])
    for first in range(0, len(paths), FILES_AT_ONCE):
        for row in await _list_columns(connection, paths[first : first + FILES_AT_ONCE]):
            granted[row["schema"], row["relation"]].add(row["column"])
    schemas, names = [schema for schema, _ in granted], [name for _, name in granted]
    async with using_safe_search_path(connection):
        exists = await connection.fetchval(QUERIES["find_role"], role)
        members = await connection.fetch(QUERIES["list_members"], role)
        guarded = await connection.fetchval(QUERIES["has_row_security"], schemas, names)
        open_to_all = await connection.fetch(QUERIES["list_schemas_open_to_all"])
    quoted = quote_identifier(role)
    return [
        *([comment(EXISTS)] if exists else [f"CREATE ROLE {quoted} LOGIN PASSWORD '…';"]),
        *(comment(f"Can do what it can: {quote_identifier(name)}") for (name,) in members),
        *([f"ALTER ROLE {quoted} BYPASSRLS;"] if guarded else []),
        *(f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {quoted};" for schema in sorted(set(schemas))),
        *(_grant(relation, columns, quoted) for relation, columns in sorted(granted.items())),
        *([comment(OPEN_TO_ALL)] if open_to_all else []),
        *(comment(f"REVOKE CREATE ON SCHEMA {quote_identifier(schema)} FROM PUBLIC;") for (schema,) in open_to_all),
    ]


def _grant(relation: tuple[str, str], columns: Iterable[str], role: str) -> str:
    listed = ", ".join(map(quote_identifier, sorted(columns)))
    return f"GRANT SELECT ({listed}) ON {quote_relation(*relation)} TO {role};"


async def _list_columns(connection: Connection, paths: Iterable[Path]) -> list[asyncpg.Record]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        for number, path in enumerate(paths):
            await _create_function(connection, number, path)
        async with using_safe_search_path(connection):
            return await connection.fetch(QUERIES["list_columns_of_datasets"])
    finally:
        await transaction.rollback()


async def _create_function(connection: Connection, number: int, path: Path) -> None:
    with naming(path.name):
        sql = read_sql(path)
    try:
        statement = await connection.prepare(sql, name="")  # refuses a second statement, too
        types = ", ".join(f'"{type_.schema}"."{type_.name}"' for type_ in statement.get_parameters())
        name = f"pg_temp.carryout_dataset_{number}"
        await connection.execute(f"CREATE FUNCTION {name}({types}) RETURNS pg_catalog.void BEGIN ATOMIC {sql}; END")
    except (asyncpg.ReadOnlySQLTransactionError, asyncpg.InsufficientPrivilegeError) as error:
        raise ConfigurationError(
            f"The columns for Carryout's role can't be determined here ({error.args[0]}): run this on the primary, "
            "as a role that may use the tables' schemas and create temporary objects"
        ) from None
    except asyncpg.PostgresError as error:
        raise ConfigurationError(f"{path.name} doesn't work: {error.args[0]}") from None

"""The role that reads for Carryout: what the datasets and the operators' lists name, column by column.

PostgreSQL itself tells: it records which columns the body of a SQL function depends on, those of joins, conditions and
orders too, and of a view the view's own, which are just the ones that a role needs. The function is temporary, and
rolled back.
"""

from collections import defaultdict
from pathlib import Path

import asyncpg

from service.database import QUERIES, Connection
from service.datasets import LISTS_FOLDER, PROFILE, read_sql
from service.errors import ConfigurationError

ROLE = "carryout_reader"


async def list_grants(connection: Connection, directory: Path, *, role: str = ROLE) -> list[str]:
    """Statements that make the role, unless it is there, and grant it what the files in `directory` read.

    What it may do because everybody may is said in a comment: an application of the operator's may need it.
    Raises ConfigurationError if there is no profile, a file doesn't work, or this connection may not make temporary
    objects.
    """
    if not (directory / f"{PROFILE}.sql").exists():
        raise ConfigurationError(f"{directory} holds no {PROFILE}.sql")
    schemas: set[str] = set()
    granted: dict[str, set[str]] = defaultdict(set)
    for path in sorted([*directory.glob("*.sql"), *(directory / LISTS_FOLDER).glob("*.sql")]):
        for row in await _list_columns(connection, path):
            schemas.add(row["schema"])
            granted[row["relation"]].add(row["column"])
    found = await connection.fetchrow(QUERIES["find_role"], role)
    assert found is not None
    quoted = found["quoted"]
    guarded = await connection.fetchval(QUERIES["has_row_security"], sorted(granted))
    open_to_all = await connection.fetch(QUERIES["list_schemas_open_to_all"])
    return [
        *([] if found["exists"] else [f"CREATE ROLE {quoted} LOGIN PASSWORD '…';"]),
        *([f"ALTER ROLE {quoted} BYPASSRLS;"] if guarded else []),
        *(f"GRANT USAGE ON SCHEMA {schema} TO {quoted};" for schema in sorted(schemas)),
        *(
            f"GRANT SELECT ({', '.join(sorted(columns))}) ON {relation} TO {quoted};"
            for relation, columns in sorted(granted.items())
        ),
        *(
            f"-- Everybody may make objects in {schema}, so this role, too. "
            f"If nobody needs it: REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;"
            for (schema,) in open_to_all
        ),
    ]


async def _list_columns(connection: Connection, path: Path) -> list[asyncpg.Record]:
    sql = read_sql(path)
    transaction = connection.transaction()
    await transaction.start()
    try:
        statement = await connection.prepare(sql)  # refuses a second statement, too
        types = ", ".join(parameter.name for parameter in statement.get_parameters())
        await connection.execute(
            f"CREATE FUNCTION pg_temp.carryout_dataset({types}) RETURNS void BEGIN ATOMIC {sql}; END"
        )
        return await connection.fetch(QUERIES["list_columns_of_dataset"])
    except (asyncpg.ReadOnlySQLTransactionError, asyncpg.InsufficientPrivilegeError) as error:
        raise ConfigurationError(
            f"What Carryout's role must read can't be told here ({error.args[0]}): ask the primary, as a role that "
            "may use the tables' schemas and make temporary objects"
        ) from None
    except asyncpg.PostgresError as error:
        raise ConfigurationError(f"{path.name} doesn't work: {error.args[0]}") from None
    finally:
        await transaction.rollback()

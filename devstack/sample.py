"""The sample application: its tables and people, for `carryout dev`, the demo and the tests."""

from typing import Final
from uuid import UUID

import asyncpg

from devstack.roles import with_role
from service.backends.database import connect
from service.errors import ConfigurationError
from service.settings import SQL_DIR

SAMPLE_DIR: Final = SQL_DIR / "sample"
READER: Final = "carryout_reader"

# The number counts the user's records, including the profile.
ADA: Final = UUID("ada00000-0000-4000-8000-000000000000")
USER_999: Final = UUID("00000999-0000-4000-8000-000000000000")
USER_1000: Final = UUID("00001000-0000-4000-8000-000000000000")
USER_50000: Final = UUID("00050000-0000-4000-8000-000000000000")
USER_100000: Final = UUID("00100000-0000-4000-8000-000000000000")
USER_100001: Final = UUID("00100001-0000-4000-8000-000000000000")

# Her records have texts that break CSV readers, spreadsheets and terminals.
MALLORY: Final = UUID("bad00000-0000-4000-8000-000000000000")


async def load_sample(database_url: str) -> None:
    """Create and fill the tables in one transaction.

    A database with a table `public.users` stays unchanged: it has the sample, or other data.
    """
    async with connect(database_url) as connection, connection.transaction():
        if await connection.fetchval("SELECT to_regclass('public.users') IS NULL"):
            await connection.execute((SAMPLE_DIR / "schema.sql").read_text(encoding="utf-8"))
            await connection.execute((SAMPLE_DIR / "data.sql").read_text(encoding="utf-8"))


async def grant_reader(database_url: str, password: str) -> str:
    """Create a role that can read only the columns of the sample's datasets; return its URL.

    Raises ConfigurationError if the tables aren't the sample's and lack its columns.
    """
    async with connect(database_url) as connection, connection.transaction():
        await connection.execute("SELECT set_config('carryout_sample.reader_password', $1, true)", password)
        try:
            await connection.execute((SAMPLE_DIR / "grants.sql").read_text(encoding="utf-8"))
        except asyncpg.PostgresError as error:
            raise ConfigurationError(f"The sample's grants don't fit the tables: {error.args[0]}") from error
    return with_role(database_url, READER, password)

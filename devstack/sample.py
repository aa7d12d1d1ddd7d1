"""The sample application: its tables and people, for `carryout dev`, the demo and the tests."""

from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from service.database import connect
from service.errors import ConfigurationError
from service.settings import SQL_DIR

SAMPLE_DIR: Final = SQL_DIR / "sample"

# The number is that of the user's records, the profile included.
ADA: Final = UUID("ada00000-0000-4000-8000-000000000000")
USER_999: Final = UUID("00000999-0000-4000-8000-000000000000")
USER_1000: Final = UUID("00001000-0000-4000-8000-000000000000")
USER_50000: Final = UUID("00050000-0000-4000-8000-000000000000")
USER_100000: Final = UUID("00100000-0000-4000-8000-000000000000")
USER_100001: Final = UUID("00100001-0000-4000-8000-000000000000")

# Her records hold every text that has ever broken a CSV reader, a spreadsheet or a terminal.
MALLORY: Final = UUID("bad00000-0000-4000-8000-000000000000")


async def load_sample(database_url: str) -> None:
    """Make and fill the tables, all or nothing.

    A database that already has a table `public.users` is left as it is: it holds the sample, or somebody's own data.
    """
    async with connect(database_url) as connection, connection.transaction():
        if await connection.fetchval("SELECT to_regclass('public.users') IS NULL"):
            await connection.execute((SAMPLE_DIR / "schema.sql").read_text(encoding="utf-8"))
            await connection.execute((SAMPLE_DIR / "data.sql").read_text(encoding="utf-8"))


async def grant_reader(database_url: str, password: str) -> str:
    """Make the role that may read what the sample's datasets read, and nothing else; returns its URL.

    Raises ConfigurationError if the tables are somebody's own, without the sample's columns.
    """
    async with connect(database_url) as connection, connection.transaction():
        await connection.execute("SELECT set_config('carryout_sample.reader_password', $1, true)", password)
        try:
            await connection.execute((SAMPLE_DIR / "grants.sql").read_text(encoding="utf-8"))
        except asyncpg.PostgresError as error:
            raise ConfigurationError(f"The sample's grants don't fit the tables: {error.args[0]}") from error
    url = urlsplit(database_url)
    return url._replace(netloc=f"carryout_reader:{password}@{url.hostname}:{url.port}").geturl()

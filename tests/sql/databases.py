from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import msgspec

from devstack.roles import make_roles, with_role
from devstack.sample import READER
from devstack.stack import Stack
from service.backends.database import MIGRATION_URL, Connection, connect, grant_serving_role, migrate
from service.settings import Settings


@asynccontextmanager
async def open_database(server_url: str, options: str = "") -> AsyncIterator[str]:
    """The URL of a new, empty database that is dropped at the end; `options` are those of CREATE DATABASE.

    No connection is kept meanwhile: the server may be stopped and started.
    """
    name = f"test_{uuid4().hex}"
    async with connect(server_url) as server:
        await create_database(server, name, options)
    try:
        yield with_database(server_url, name)
    finally:
        async with connect(server_url) as server:
            await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def create_database(server: Connection, name: str, options: str = "") -> None:
    """Copies its template's files, as PostgreSQL 14 does anyway: block by block through the log takes twice the CPU."""
    strategy = "STRATEGY FILE_COPY" if server.get_server_version() >= (15,) else ""
    await server.execute(f"CREATE DATABASE {name} {options} {strategy}")


@asynccontextmanager
async def open_transaction(database_url: str) -> AsyncIterator[Connection]:
    """A connection whose changes are rolled back."""
    connection: Connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("BEGIN")
        yield connection
    finally:
        await connection.close()


async def migrate_as_owner(stack: Stack, url: str, user_id_type: str = "uuid") -> None:
    """As `carryout migrate` does in production: by the role that owns the schema, for one that owns nothing."""
    await make_roles(url, stack.role_urls)
    await migrate(owner_url(stack, url), user_id_type=user_id_type, owner=stack.environ["CARRYOUT_SCHEMA_OWNER"])
    await grant_serving_role(owner_url(stack, url), serving_url(stack, url))


def owner_url(stack: Stack, url: str) -> str:
    """The database of `url` as the role that migrates."""
    return _in_database_of(url, stack.migration[MIGRATION_URL])


def serving_url(stack: Stack, url: str) -> str:
    """The database of `url` as the role that serves."""
    return _in_database_of(url, stack.environ["CARRYOUT_DATABASE_URL"])


def reader_url(stack: Stack, url: str) -> str:
    """The database of `url` as the role that reads the sample application."""
    return with_role(url, READER, stack.reader_password)


def database_environ(stack: Stack, url: str) -> dict[str, str]:
    """The settings that lead to the database of `url`, each by the role that is for it in production."""
    return {
        "CARRYOUT_DATABASE_URL": serving_url(stack, url),
        "CARRYOUT_SOURCE_DATABASE_URL": reader_url(stack, url),
    }


def with_text_ids(settings: Settings, stack: Stack, url: str, *, datasets: Path) -> Settings:
    """The settings for the database of `url`, whose users have ids of the type text; its administrator reads it."""
    return msgspec.structs.replace(
        settings,
        database_url=serving_url(stack, url),
        source_database_url=url,
        datasets_dir=str(datasets),
        user_id_type="text",
    )


def _in_database_of(url: str, other: str) -> str:
    return with_database(other, urlsplit(url).path.removeprefix("/"))


def with_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()

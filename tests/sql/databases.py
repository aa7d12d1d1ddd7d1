from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from service.database import Connection, connect


@asynccontextmanager
async def open_database(server_url: str, options: str = "") -> AsyncIterator[str]:
    """The URL of a new, empty database that is dropped at the end; `options` are those of CREATE DATABASE.

    No connection is kept meanwhile: the server may be stopped and started.
    """
    name = f"test_{uuid4().hex}"
    async with connect(server_url) as server:
        await server.execute(f"CREATE DATABASE {name} {options}")
    try:
        yield with_database(server_url, name)
    finally:
        async with connect(server_url) as server:
            await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@asynccontextmanager
async def open_transaction(database_url: str) -> AsyncIterator[Connection]:
    """A connection whose changes are rolled back."""
    connection: Connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("BEGIN")
        yield connection
    finally:
        await connection.close()


def with_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()

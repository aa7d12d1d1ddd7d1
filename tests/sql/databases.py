from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from service.database import Connection


@asynccontextmanager
async def open_database(server_url: str, options: str = "") -> AsyncIterator[str]:
    """The URL of a new, empty database that is dropped at the end; `options` are those of CREATE DATABASE."""
    name = f"sample_{uuid4().hex}"
    server = await asyncpg.connect(server_url)
    try:
        await server.execute(f"CREATE DATABASE {name} {options}")
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await server.close()


@asynccontextmanager
async def open_transaction(database_url: str) -> AsyncIterator[Connection]:
    """A connection whose changes are rolled back."""
    connection: Connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("BEGIN")
        yield connection
    finally:
        await connection.close()

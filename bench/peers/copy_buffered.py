"""Collects the blocks, one per row, that psycopg yields, as an optimized implementation would.

`/rendered` copies the query RENDERED_ROWS, whose lines another program has rendered.
"""

import os
from collections.abc import AsyncIterator

from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from bench.peers.table import COPY, DATABASE_URL

CHUNK_BYTES = 64 * 1024

pool = AsyncConnectionPool(DATABASE_URL, min_size=1, max_size=8, open=False)


RENDERED = f"COPY ({os.environ['RENDERED_ROWS']}) TO STDOUT"


async def chunks(statement: str) -> AsyncIterator[bytes]:
    await pool.open()  # does nothing from the second time on
    async with pool.connection() as connection, connection.cursor() as cursor, cursor.copy(statement) as copy:
        buffer = bytearray()
        async for block in copy:
            buffer += block
            if len(buffer) >= CHUNK_BYTES:
                yield bytes(buffer)
                buffer.clear()
        yield bytes(buffer)


async def export(_request: Request) -> StreamingResponse:
    return StreamingResponse(chunks(COPY), media_type="text/csv")


async def export_rendered(_request: Request) -> StreamingResponse:
    return StreamingResponse(chunks(RENDERED), media_type="text/csv")


app = Starlette(routes=[Route("/", export), Route("/rendered", export_rendered)])

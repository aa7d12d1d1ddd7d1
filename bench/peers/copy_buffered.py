"""Collects the blocks, one per row, that psycopg yields, as an optimized implementation would."""

from collections.abc import AsyncIterator

from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from bench.peers.table import COPY, DATABASE_URL

CHUNK_BYTES = 64 * 1024

pool = AsyncConnectionPool(DATABASE_URL, min_size=1, max_size=8, open=False)


async def chunks() -> AsyncIterator[bytes]:
    await pool.open()  # does nothing from the second time on
    async with pool.connection() as connection, connection.cursor() as cursor, cursor.copy(COPY) as copy:
        buffer = bytearray()
        async for block in copy:
            buffer += block
            if len(buffer) >= CHUNK_BYTES:
                yield bytes(buffer)
                buffer.clear()
        yield bytes(buffer)


async def export(_request: Request) -> StreamingResponse:
    return StreamingResponse(chunks(), media_type="text/csv")


app = Starlette(routes=[Route("/", export)])

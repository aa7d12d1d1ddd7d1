"""Sends each block that psycopg yields as its own chunk."""

from collections.abc import AsyncIterator

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from bench.peers.table import COPY, DATABASE_URL


async def blocks() -> AsyncIterator[memoryview]:
    async with (
        await psycopg.AsyncConnection.connect(DATABASE_URL) as connection,
        connection.cursor() as cursor,
        cursor.copy(COPY) as copy,
    ):
        async for block in copy:
            yield block  # type: ignore[misc] # psycopg: "bytes", though it gives memoryviews


async def export(_request: Request) -> StreamingResponse:
    return StreamingResponse(blocks(), media_type="text/csv")


app = Starlette(routes=[Route("/", export)])

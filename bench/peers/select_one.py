"""The minimum of any such service: one route that selects 1 from the database."""

from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bench.peers.table import DATABASE_URL

pool = AsyncConnectionPool(DATABASE_URL, min_size=1, max_size=2, open=False)


async def select_one(_request: Request) -> PlainTextResponse:
    await pool.open()
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT 1")
        return PlainTextResponse(str(await cursor.fetchone()))


app = Starlette(routes=[Route("/", select_one)])

"""What any such service needs at least: one route that asks the database for 1."""

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

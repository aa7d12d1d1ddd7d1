"""Uses a server-side cursor, rows as tuples, csv.writer, and a thousand rows per chunk."""

import csv
import io
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine

from bench.peers.models import User
from bench.peers.table import COLUMNS, DATABASE_URL

ROWS = 1_000

engine = create_async_engine(DATABASE_URL.replace("postgresql://", "postgresql+asyncpg://"))
statement = select(*(getattr(User, name) for name in COLUMNS)).order_by(User.id)
app = FastAPI()


async def chunks() -> AsyncIterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    async with engine.connect() as connection:
        result = await connection.stream(statement, execution_options={"yield_per": ROWS})
        async for rows in result.partitions():
            writer.writerows(rows)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()


@app.get("/")
async def export() -> StreamingResponse:
    return StreamingResponse(chunks(), media_type="text/csv")

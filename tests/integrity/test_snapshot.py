"""An export shows one instant, however many rows other sessions write meanwhile."""

import asyncio
import csv
import io
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import httpx

from service.exports import files
from service.resources import Resources
from tests.api.problems import bearer
from tests.conftest import Token
from tests.support.exports import start_export
from tests.support.factories import Connection, create_user
from worker.running import run_export

ROWS = 4_000
ROUNDS = 5
# Takes some rows from one table to the other: their numbers' sum, and their number, stay.
MOVES = (
    """
    WITH moved AS (
      DELETE FROM public.activity WHERE id IN (SELECT id FROM public.activity WHERE user_id = $1 ORDER BY id LIMIT 40)
      RETURNING detail ->> 'n' AS n
    )
    INSERT INTO public.content (user_id, title) SELECT $1, 'Note ' || n FROM moved
    """,
    """
    WITH moved AS (
      DELETE FROM public.content WHERE id IN (SELECT id FROM public.content WHERE user_id = $1 ORDER BY id LIMIT 40)
      RETURNING substr(title, 6) AS n
    )
    INSERT INTO public.activity (user_id, kind, detail) SELECT $1, 'moved', jsonb_build_object('n', n::int) FROM moved
    """,
)


@asynccontextmanager
async def busy_writers(database_url: str, user_id: UUID) -> AsyncIterator[None]:
    """Rows move to and fro, in as many transactions as there is time for; some, before anything is read."""
    begun = asyncio.Event()

    async def write(connection: Connection) -> None:
        while True:
            await connection.execute(random.choice(MOVES), user_id)  # noqa: S311 (no secret)
            begun.set()

    connection = await asyncpg.connect(database_url)
    writing = asyncio.create_task(write(connection))
    try:
        await begun.wait()
        yield
    finally:
        assert not writing.done()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await connection.close()


def assert_whole(document: str) -> None:
    rows = list(csv.DictReader(io.StringIO(document, newline="")))
    numbers = [
        int(row["activity_detail"].removeprefix('{"n": ').removesuffix("}")) for row in rows if row["activity_id"]
    ]
    numbers += [int(row["content_title"].removeprefix("Note ")) for row in rows if row["content_id"]]
    assert len(rows) == 1 + ROWS
    assert sorted(numbers) == list(range(1, ROWS + 1))


async def test_streams(api: httpx.AsyncClient, database: Connection, database_url: str, token: Token) -> None:
    user_id = await create_user(database, activity=ROWS)
    async with busy_writers(database_url, user_id):
        for _ in range(ROUNDS):
            response = await api.get("/api/export/stream?format=csv", headers=bearer(token(user_id)))
            assert_whole(response.text)


async def test_queued_exports(resources: Resources, database: Connection, database_url: str) -> None:
    user_id = await create_user(database, activity=ROWS)
    async with busy_writers(database_url, user_id):
        for _ in range(ROUNDS):
            export = await start_export(resources, user_id)
            await run_export(resources, export.id)
            async with resources.connection() as connection:
                export = await files.get_file(resources, connection, export.id)
            async with resources.storage.open_download(files.key_of(export)) as chunks:
                document = b"".join([chunk async for chunk in chunks])
            assert export.record_count == 1 + ROWS
            assert_whole(document.decode())

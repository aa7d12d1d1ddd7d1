"""A workbook from the database to the user's disk: queued, made by a worker, fetched by the client, and opened."""

from pathlib import Path
from typing import Any
from uuid import UUID

from devstack.ports import ask, keep_port
from devstack.stack import Stack
from service.access.tokens import create_token
from service.backends.database import Connection
from tests.documents.test_xlsx import HOSTILE, LIMIT
from tests.faults.world import open_world
from tests.support.documents import read_xlsx
from tests.support.processes import run

TOKEN_TTL_SECONDS = 600
TITLES = [*HOSTILE, "=1+1" * LIMIT, "", "_x000D_"]
TIME = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""
ADD_ACTIVITY = """
INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at)
SELECT $1, 'login', '2001:db8::1', jsonb_build_object('n', n, '=', '<&>'),
  timestamptz '2024-02-28 23:00Z' + n * interval '1 hour'
FROM generate_series(1, 1500) AS n
"""
ADD_CONTENT = """
INSERT INTO public.content (user_id, title, body, created_at)
SELECT $1, title, nullif(title, ''), timestamptz '2024-02-28 23:00Z' + n * interval '1 day'
FROM unnest($2::text[]) WITH ORDINALITY AS given (title, n)
"""
SHEETS = {
    "user": f"SELECT id::text, email, name, {TIME.format('created_at')} FROM public.users WHERE id = $1",
    "activity": f"""SELECT id, kind, host(ip), detail::text, {TIME.format("occurred_at")}
        FROM public.activity WHERE user_id = $1 ORDER BY occurred_at""",
    "content": f"""SELECT id, title, body, {TIME.format("created_at")}
        FROM public.content WHERE user_id = $1 ORDER BY created_at""",
}


async def create_user(connection: Connection) -> UUID:
    user_id: UUID = await connection.fetchval(
        """INSERT INTO public.users (email, name, password_hash, created_at)
        VALUES ('ada@example.com', '=Ada', 'x', '2024-02-28 23:00Z') RETURNING id"""
    )
    await connection.execute(ADD_ACTIVITY, user_id)
    await connection.execute(ADD_CONTENT, user_id, TITLES)
    return user_id


async def read_database(connection: Connection, user_id: UUID) -> dict[str, list[list[Any]]]:
    return {name: [list(row) for row in await connection.fetch(query, user_id)] for name, query in SHEETS.items()}


async def test_queued_workbook_is_equal_to_the_database(stack: Stack, tmp_path: Path) -> None:
    port = keep_port(tmp_path / "port")
    url = f"http://127.0.0.1:{port}"
    async with open_world(stack, tmp_path, CARRYOUT_PUBLIC_URL=url) as world:
        async with world.database() as connection:
            user_id = await create_user(connection)
            expected = await read_database(connection, user_id)
        await world.start_api(port)

        async def is_ready() -> bool:
            return b" 200 " in await ask(port, b"GET /readyz HTTP/1.0\r\n\r\n")

        await world.until(is_ready, "the API to be ready")
        await world.start_worker()
        token = create_token(world.resources.settings, str(user_id), TOKEN_TTL_SECONDS)
        options = ("--url", url, "--format", "xlsx", "-o", tmp_path / "copy.xlsx")
        ended = await run({"CARRYOUT_TOKEN": token}, "export", *options)
        assert (ended.status, ended.out) == (0, ""), ended.err
        async with world.database() as connection:
            assert await connection.fetchval("SELECT queued AND format = 'xlsx' FROM carryout.export_jobs")

    *sheets, _ = read_xlsx((tmp_path / "copy.xlsx").read_bytes()).items()
    assert {name: rows[1:] for name, rows in sheets} == expected

"""Real rows for tests."""

from typing import TypeAlias
from uuid import UUID

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# In every password hash: no document or mail may contain it.
CANARY = "canary-never-exported"

_INSERT_USER = """
INSERT INTO public.users (email, name, password_hash)
SELECT 'user-' || gen_random_uuid() || '@example.com', 'Ada Lovelace', $1
RETURNING id
"""
_INSERT_ACTIVITY = """
INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at)
SELECT $1, 'login', '192.0.2.1', jsonb_build_object('n', n), timestamptz '2026-01-01 00:00Z' + n * interval '1 second'
FROM generate_series(1, $2::int) AS n
"""
_INSERT_CONTENT = """
INSERT INTO public.content (user_id, title, body, created_at)
SELECT $1, 'Note ' || n, repeat('x', $3::int), timestamptz '2026-01-01 00:00Z' + n * interval '1 second'
FROM generate_series(1, $2::int) AS n
"""


async def create_user(connection: Connection, *, activity: int = 0, content: int = 0, body_bytes: int = 10) -> UUID:
    """A user with so many rows: their export has `1 + activity + content` records."""
    user_id: UUID = await connection.fetchval(_INSERT_USER, CANARY)
    await connection.execute(_INSERT_ACTIVITY, user_id, activity)
    await connection.execute(_INSERT_CONTENT, user_id, content, body_bytes)
    return user_id


async def create_user_with(connection: Connection, records: int) -> UUID:
    """A user whose export has so many records, of every dataset that they suffice for."""
    activity = records // 2
    return await create_user(connection, activity=activity, content=records - 1 - activity)


async def list_audit(connection: Connection) -> list[asyncpg.Record]:
    """Everything audited so far, oldest first."""
    return await connection.fetch("SELECT * FROM carryout.export_audit ORDER BY id")


async def list_actions(connection: Connection) -> list[str]:
    return [event["action"] for event in await list_audit(connection)]


async def refuse_audit(connection: Connection, action: str, code: str = "P0001") -> None:
    """From now on events of that action can't be written: PostgreSQL raises an error with that code."""
    await connection.execute(f"""
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON carryout.export_audit
        FOR EACH ROW WHEN (NEW.action = '{action}') EXECUTE FUNCTION public.refuse();
    """)

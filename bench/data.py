"""The exported data: the sample's users and further ones; the run's size fixes their number."""

from typing import NamedTuple
from uuid import UUID

import asyncpg

SMALL_USERS = 64
SMALL_RECORDS = 400
DRAINED_RECORDS = 2_000


class Size(NamedTuple):
    """The size of a run; `histories` are the numbers of records of one user each, the largest last.

    `parallel_rows` is the number of rows of each of the concurrent `streams`; `columns` and `widths` are the scaled
    dimensions; `attachments` the numbers of a package's files of 50 MiB. `trail_rows` are purged, after `load_seconds`
    of the same load without a purge.
    """

    rounds: int
    users: int
    histories: tuple[int, ...]
    streams: int
    parallel_rows: int
    small_seconds: float
    drained_users: int
    trail_rows: int
    load_seconds: float
    columns: tuple[int, ...]
    widths: tuple[int, ...]
    attachments: tuple[int, ...]


FULL = Size(
    rounds=9,
    users=100_000,
    histories=(1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    streams=100,
    parallel_rows=10_000,
    small_seconds=2.0,
    drained_users=1_000,
    trail_rows=1_000_000,
    load_seconds=60.0,
    columns=(1, 2, 4, 8, 16, 32, 64),
    widths=(64, 256, 1_024, 4_096, 16_384, 65_536),
    attachments=(4, 41, 93),
)
QUICK = Size(
    rounds=2,
    users=20_000,
    histories=(1_000, 10_000, 100_000),
    streams=30,
    parallel_rows=2_000,
    small_seconds=0.6,
    drained_users=40,
    trail_rows=20_000,
    load_seconds=5.0,
    columns=(1, 8, 64),
    widths=(64, 1_024, 16_384),
    attachments=(4,),
)


def history_user(records: int) -> UUID:
    """The user with this number of records."""
    return UUID(int=(0xBE << 120) + records)


def small_user(number: int) -> UUID:
    return UUID(int=(0x5A << 120) + number)


def drained_user(number: int) -> UUID:
    return UUID(int=(0xD2 << 120) + number)


async def load(database_url: str, size: Size) -> None:
    """Fill the operators' list up to `size.users`; all existing users count."""
    connection = await asyncpg.connect(database_url)
    try:
        histories = {history_user(records): records for records in size.histories}
        smalls = {small_user(number): SMALL_RECORDS for number in range(SMALL_USERS)}
        smalls |= {drained_user(number): DRAINED_RECORDS for number in range(size.drained_users)}
        await connection.executemany(
            """INSERT INTO public.users (id, email, name, password_hash)
            VALUES ($1, $2, 'Katherine "Kate" Johnson, Dr.', 'x')""",
            [(user_id, f"{user_id}@example.com") for user_id in histories | smalls],
        )
        # The foreign key would look up the user once per row.
        await connection.execute("SET session_replication_role = replica")
        for user_id, records in (histories | smalls).items():
            await _add_history(connection, user_id, records - 1)
        await connection.execute(
            """INSERT INTO public.users (email, name, password_hash, is_active)
            SELECT 'user-' || n || '@example.com', 'Benchmark User ' || n, repeat('x', 97), n % 17 <> 0
            FROM generate_series(1, $1::int - (SELECT count(*)::int FROM public.users)) AS n""",
            size.users,
        )
        await connection.execute("VACUUM ANALYZE public.users")
        await connection.execute("VACUUM ANALYZE public.activity")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _add_history(connection: "asyncpg.Connection[asyncpg.Record]", user_id: UUID, rows: int) -> None:
    await connection.execute(
        """INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at)
        SELECT $1, (ARRAY['login', 'page_view', 'search'])[n % 3 + 1], inet '203.0.113.0' + n % 256,
               jsonb_build_object('path', '/articles/' || n % 400, 'milliseconds', n % 700),
               timestamptz '2024-01-01 09:00:00Z' + n * interval '1 s'
        FROM generate_series(1, $2::int) AS n""",
        user_id,
        rows,
    )

"""A snapshot while other sessions lock, rebuild and exchange the tables that it reads."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import pytest

from service.backends.database import Pool
from service.documents.chunks import short_lines
from service.documents.csv_encoder import CsvEncoder
from service.documents.datasets import Column, Dataset, load_user_lists
from service.documents.lists import open_list
from service.documents.selection import Query
from service.documents.snapshots import open_snapshot
from service.documents.streaming import require_subject
from service.documents.survey import FEW_RECORDS
from service.errors import OutageError, UnavailableError
from service.settings import SQL_DIR
from tests.sql.sources import load
from tests.support.documents import POOL_NAME, make_document, open_patiently, read_csv
from tests.support.factories import Connection, create_user

T = TypeVar("T")
Make: TypeAlias = Callable[[], Awaitable[bytes]]

REBUILT = "was being rebuilt"
UNFINISHED = "could not finish a query"
EXCHANGE = """
ALTER TABLE public.activity RENAME TO old_activity;
CREATE TABLE public.activity AS SELECT * FROM public.old_activity;
"""
FILLED = "LOCK TABLE public.activity; INSERT INTO next.activity SELECT * FROM public.activity;"
SWAPS = {
    "by name": f"""{FILLED}
        ALTER TABLE public.activity RENAME TO old_activity;
        ALTER TABLE next.activity RENAME TO new_activity;
        ALTER TABLE next.new_activity SET SCHEMA public;
        ALTER TABLE public.new_activity RENAME TO activity;""",
    "by schema": f"""{FILLED}
        ALTER TABLE public.activity RENAME TO old_activity;
        ALTER TABLE next.activity SET SCHEMA public;""",
}
PARTITIONED = """
CREATE TABLE events (id int PRIMARY KEY, user_id uuid) PARTITION BY RANGE (id);
CREATE TABLE events_first PARTITION OF events FOR VALUES FROM (0) TO (10);
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE TABLE events_next (LIKE events INCLUDING ALL);
"""
PARTITION_SWAPS = {
    "with another": """LOCK TABLE events; INSERT INTO events_next SELECT * FROM events_first;
        ALTER TABLE events DETACH PARTITION events_first;
        ALTER TABLE events ATTACH PARTITION events_next FOR VALUES FROM (0) TO (10);""",
    "with the default one": """LOCK TABLE events; ALTER TABLE events DETACH PARTITION events_first;
        INSERT INTO events SELECT * FROM events_first;""",
}


@pytest.fixture
async def user_id(database: Connection) -> UUID:
    return await create_user(database, activity=3, content=3)


@pytest.fixture
def make(pool: Pool, datasets: tuple[Dataset, ...], user_id: UUID) -> Make:
    return lambda: make_document(pool, datasets, user_id, CsvEncoder())


@pytest.fixture
async def make_of_partitions(pool: Pool, database: Connection, user_id: UUID, tmp_path: Path) -> Make:
    await database.execute(PARTITIONED)
    await database.execute("INSERT INTO events SELECT n, $1 FROM generate_series(1, 3) AS n", user_id)
    profile = "SELECT id, email FROM public.users WHERE id = $1"
    events = "SELECT id FROM events WHERE user_id = $1 ORDER BY id"
    datasets = await load(database, tmp_path, {"profile.sql": profile, "events.sql": events})
    return lambda: make_document(pool, datasets, user_id, CsvEncoder())


@pytest.fixture
async def migrating(database_url: str) -> AsyncIterator[Connection]:
    """A session whose transaction has begun."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("BEGIN")
    yield connection
    await connection.close()


async def until_waiting(reading: "asyncio.Future[T]", database: Connection) -> None:
    waiting = "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
    while not reading.done() and not await database.fetchval(waiting, POOL_NAME):
        await asyncio.sleep(0.01)


async def while_waited_for(migrating: Connection, database: Connection, reading: Awaitable[T]) -> T:
    """The result of `reading`, if `migrating` commits as soon as `reading` waits for it."""
    task = asyncio.ensure_future(reading)
    await until_waiting(task, database)
    await migrating.execute("COMMIT")
    return await task


async def make_list(pool: Pool, dataset: Dataset) -> bytes:
    async with (
        open_list(pool, Query(dataset, (None, None)), acquire_timeout_seconds=10) as users,
        aclosing(users.chunks(CsvEncoder())) as chunks,
    ):
        return b"".join([chunk async for chunk in chunks])


class TestRewrittenTables:
    """To a snapshot that is older they are empty, and were quietly left out."""

    @pytest.mark.parametrize("table", ["users", "activity", "content"])
    async def test_no_document_is_made_without_their_rows(
        self, database: Connection, migrating: Connection, make: Make, table: str
    ) -> None:
        await migrating.execute(f"ALTER TABLE public.{table} ADD COLUMN extra uuid DEFAULT gen_random_uuid()")
        with pytest.raises(UnavailableError, match=REBUILT):
            await while_waited_for(migrating, database, make())

        document = await make()

        assert len(read_csv(document.decode())) == 1 + 7

    async def test_no_document_is_made_without_a_new_tables_rows(
        self, database: Connection, migrating: Connection, make: Make
    ) -> None:
        await migrating.execute(EXCHANGE)
        with pytest.raises(UnavailableError, match=REBUILT):
            await while_waited_for(migrating, database, make())

        document = await make()

        assert len(read_csv(document.decode())) == 1 + 7

    @pytest.mark.parametrize("swap", SWAPS)
    async def test_no_document_is_made_without_the_rows_of_one_that_was_made_before(
        self, database: Connection, migrating: Connection, make: Make, swap: str
    ) -> None:
        await database.execute("CREATE SCHEMA next; CREATE TABLE next.activity (LIKE public.activity)")
        await migrating.execute(SWAPS[swap])
        with pytest.raises(UnavailableError, match=REBUILT):
            await while_waited_for(migrating, database, make())

        document = await make()

        assert len(read_csv(document.decode())) == 1 + 7

    @pytest.mark.parametrize("swap", PARTITION_SWAPS)
    async def test_no_document_is_made_without_the_rows_of_a_partition(
        self, database: Connection, migrating: Connection, make_of_partitions: Make, swap: str
    ) -> None:
        await migrating.execute(PARTITION_SWAPS[swap])
        with pytest.raises(UnavailableError, match=REBUILT):
            await while_waited_for(migrating, database, make_of_partitions())

        document = await make_of_partitions()

        assert len(read_csv(document.decode())) == 1 + 4

    async def test_no_document_is_made_without_the_rows_of_a_child(
        self, pool: Pool, database: Connection, migrating: Connection, user_id: UUID, tmp_path: Path
    ) -> None:
        await database.execute("CREATE TABLE notes (id int, user_id uuid)")
        await database.execute("CREATE TABLE notes_first () INHERITS (notes)")
        await database.execute("INSERT INTO notes_first SELECT n, $1 FROM generate_series(1, 3) AS n", user_id)
        profile = "SELECT id, email FROM public.users WHERE id = $1"
        notes = "SELECT DISTINCT id FROM notes WHERE user_id = $1 ORDER BY id"
        datasets = await load(database, tmp_path, {"profile.sql": profile, "notes.sql": notes})
        await migrating.execute("CREATE TABLE notes_next () INHERITS (notes)")
        await migrating.execute("INSERT INTO notes_next SELECT * FROM notes_first; DROP TABLE notes_first")
        with pytest.raises(UnavailableError, match=REBUILT):
            await while_waited_for(migrating, database, make_document(pool, datasets, user_id, CsvEncoder()))

        document = await make_document(pool, datasets, user_id, CsvEncoder())

        assert len(read_csv(document.decode())) == 1 + 4

    async def test_none_is_made_of_two_schemas_of_one_name(
        self, pool: Pool, database: Connection, user_id: UUID, tmp_path: Path
    ) -> None:
        for schema in ("shop", "next"):
            await database.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.notes (id int PRIMARY KEY, by uuid)")
            rows = f"INSERT INTO {schema}.notes SELECT n, $1 FROM generate_series(1, $2::int) AS n"
            await database.execute(rows, user_id, FEW_RECORDS)  # more than are read at once
        profile = "SELECT id, email FROM public.users WHERE id = $1"
        notes = "SELECT id FROM shop.notes WHERE by = $1 ORDER BY id"
        datasets = await load(database, tmp_path, {"profile.sql": profile, "notes.sql": notes})
        async with open_patiently(pool, datasets, user_id) as document:
            await database.execute("ALTER SCHEMA shop RENAME TO former; ALTER SCHEMA next RENAME TO shop")
            with pytest.raises(UnavailableError, match=REBUILT):
                _ = [chunk async for chunk in document.chunks(CsvEncoder())]

    async def test_nor_a_list(self, pool: Pool, database: Connection) -> None:
        await database.execute("CREATE SCHEMA next; CREATE TABLE next.users (LIKE public.users INCLUDING ALL)")
        lists = await load_user_lists(database, SQL_DIR / "datasets", forbidden=["*_hash"])
        async with open_list(pool, Query(lists["export"], (None, None)), acquire_timeout_seconds=10) as users:
            await database.execute("ALTER SCHEMA public RENAME TO former; ALTER SCHEMA next RENAME TO public")
            with pytest.raises(UnavailableError, match=REBUILT):
                _ = [chunk async for chunk in users.chunks(CsvEncoder())]

    async def test_no_list_is_made_without_their_rows(
        self, pool: Pool, database: Connection, migrating: Connection, user_id: UUID
    ) -> None:
        lists = await load_user_lists(database, SQL_DIR / "datasets", forbidden=["*_hash"])
        await migrating.execute("ALTER TABLE public.users ADD COLUMN extra uuid DEFAULT gen_random_uuid()")
        with pytest.raises(UnavailableError, match=REBUILT):
            await while_waited_for(migrating, database, make_list(pool, lists["export"]))

        document = await make_list(pool, lists["export_full"])

        assert str(user_id) not in document.decode()
        assert len(read_csv(document.decode())) == 1 + 1

    async def test_no_user_is_taken_for_erased(
        self,
        pool: Pool,
        database: Connection,
        migrating: Connection,
        datasets: tuple[Dataset, ...],
        user_id: UUID,
    ) -> None:
        await migrating.execute("ALTER TABLE public.users ADD COLUMN extra uuid DEFAULT gen_random_uuid()")
        now = dt.datetime.now(dt.UTC)
        checking = require_subject(pool, datasets[0], user_id, since=now, acquire_timeout_seconds=10)
        with pytest.raises(UnavailableError, match=REBUILT):
            await while_waited_for(migrating, database, checking)

        await require_subject(pool, datasets[0], user_id, since=now, acquire_timeout_seconds=10)

    @pytest.mark.parametrize(
        "change", ["ALTER TABLE public.content ADD COLUMN extra text", "REINDEX TABLE public.content"]
    )
    async def test_a_change_that_leaves_the_rows_in_place_does_no_harm(
        self, database: Connection, migrating: Connection, make: Make, change: str
    ) -> None:
        await migrating.execute(change)
        await migrating.execute("LOCK TABLE public.content")

        document = await while_waited_for(migrating, database, make())

        assert len(read_csv(document.decode())) == 1 + 7

    async def test_a_refreshed_view_shows_its_rows_to_everybody(
        self, pool: Pool, database: Connection, migrating: Connection, user_id: UUID, tmp_path: Path
    ) -> None:
        await database.execute("CREATE MATERIALIZED VIEW digest AS SELECT id, user_id, title FROM public.content")
        await database.execute("CREATE UNIQUE INDEX ON digest (id)")
        profile = "SELECT id, email FROM public.users WHERE id = $1"
        digest = "SELECT id, title FROM digest WHERE user_id = $1 GROUP BY id, title ORDER BY id, title"
        datasets = await load(database, tmp_path, {"profile.sql": profile, "digest.sql": digest})
        await migrating.execute("REFRESH MATERIALIZED VIEW digest")

        reading = make_document(pool, datasets, user_id, CsvEncoder())
        document = await while_waited_for(migrating, database, reading)

        assert len(read_csv(document.decode())) == 1 + 4


class TestPassingTroubles:
    async def test_a_lock_that_takes_too_long(self, database: Connection, migrating: Connection, make: Make) -> None:
        name = await database.fetchval("SELECT current_database()")
        await database.execute(f"ALTER DATABASE {name} SET lock_timeout = '100ms'")
        await migrating.execute("LOCK TABLE public.users, public.activity")

        with pytest.raises(UnavailableError, match=UNFINISHED):
            await make()

    @pytest.mark.slow
    async def test_a_deadlock(self, database: Connection, migrating: Connection, make: Make) -> None:
        """Ours is the session that PostgreSQL ends: the other looks for none."""
        await migrating.execute("SET LOCAL deadlock_timeout = '10min'")
        await migrating.execute("LOCK TABLE public.content")
        making = asyncio.ensure_future(make())
        await until_waiting(making, database)
        await migrating.execute("LOCK TABLE public.activity")

        with pytest.raises(UnavailableError, match=UNFINISHED):
            await making

    async def test_a_sort_that_finds_no_room(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, content=2_000, body_bytes=1_000)
        name = await database.fetchval("SELECT current_database()")
        await database.execute("DROP INDEX public.content_by_user")
        await database.execute(f"ALTER DATABASE {name} SET work_mem = '64kB'")
        await database.execute(f"ALTER DATABASE {name} SET temp_file_limit = '64kB'")

        with pytest.raises(UnavailableError, match=UNFINISHED):
            await make_document(pool, datasets, user_id, CsvEncoder())

    @pytest.mark.parametrize("code", ["53100", "53200", "58030"])
    async def test_a_server_in_trouble_is_an_outage(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...], code: str
    ) -> None:
        """An export waits for it, and it costs no try."""
        user_id = await create_user(database, content=2)
        await database.execute(f"""
            CREATE FUNCTION public.fail(text) RETURNS text LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$;
            ALTER TABLE public.content RENAME TO stored;
            CREATE VIEW public.content AS SELECT id, user_id, public.fail(title) AS title, body, created_at
                FROM public.stored""")

        with pytest.raises(OutageError):
            await make_document(pool, datasets, user_id, CsvEncoder())


async def test_the_role_may_have_a_limit_for_transactions(pool: Pool, database: Connection) -> None:
    """Known since PostgreSQL 17: a document that takes longer would be tried again for a day."""
    if database.get_server_version().major >= 17:
        name = await database.fetchval("SELECT current_database()")
        await database.execute(f"ALTER DATABASE {name} SET transaction_timeout = '1min'")

    async with open_snapshot(pool, 10) as connection:
        assert await connection.fetchval("SELECT current_setting('transaction_timeout', true)") in {"0", None}


async def test_an_index_gives_all_rows_whatever_the_database_sets(
    pool: Pool, database: Connection, user_id: UUID, tmp_path: Path
) -> None:
    await database.execute("CREATE TABLE chats (id int PRIMARY KEY, members uuid[])")
    await database.execute("INSERT INTO chats SELECT n, ARRAY[$1::uuid] FROM generate_series(1, 400) AS n", user_id)
    await database.execute("CREATE INDEX ON chats USING gin (members)")
    name = await database.fetchval("SELECT current_database()")
    for setting in ("gin_fuzzy_search_limit = 1", "enable_seqscan = off", "enable_indexscan = off"):
        await database.execute(f"ALTER DATABASE {name} SET {setting}")
    profile = "SELECT id, email FROM public.users WHERE id = $1"
    chats = "SELECT id FROM chats WHERE members @> ARRAY[$1::uuid] ORDER BY id"
    datasets = await load(database, tmp_path, {"profile.sql": profile, "chats.sql": chats})

    document = await make_document(pool, datasets, user_id, CsvEncoder())

    assert len(read_csv(document.decode())) == 1 + 401


ORDERS = """
CREATE TABLE orders (id int PRIMARY KEY, user_number int);
INSERT INTO orders SELECT n, CASE WHEN n % 10 = 0 THEN 0 ELSE n % 1000 END FROM generate_series(1, 50000) AS n;
"""
OFTEN, SELDOM = 0, 7


async def explain(pool: Pool, user_number: int) -> str:
    """How PostgreSQL reads that user's orders for a document."""
    columns = (Column("id", "int4", "N", "integer"),)
    orders = Dataset("orders", "SELECT id FROM orders WHERE user_number = $1 ORDER BY id", columns, ())
    async with open_snapshot(pool, 10) as connection:
        lines = await connection.fetch(f"EXPLAIN {short_lines(CsvEncoder().row_text(orders))}", user_number)
    return "\n".join(line[0] for line in lines)


async def test_few_rows_are_found_by_their_user_and_not_among_all_in_order(pool: Pool, database: Connection) -> None:
    await database.execute(f"{ORDERS}; CREATE INDEX ON orders (user_number); ANALYZE orders")
    plan = await explain(pool, SELDOM)
    assert "Index Cond: (user_number = 7)" in plan
    assert "Filter:" not in plan


async def test_the_first_of_many_rows_waits_for_no_sort_that_an_index_spares(pool: Pool, database: Connection) -> None:
    await database.execute(f"{ORDERS}; CREATE INDEX ON orders (user_number, id); ANALYZE orders")
    assert "Sort" not in await explain(pool, OFTEN)

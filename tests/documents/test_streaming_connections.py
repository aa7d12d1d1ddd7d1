"""A document returns its connection however it ends. A failure of the connection gets its right name."""

import asyncio
import datetime as dt
from contextlib import aclosing
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from service.backends.database import Pool, open_pool
from service.documents.csv_encoder import CsvEncoder
from service.documents.datasets import Dataset
from service.documents.streaming import open_document, require_subject
from service.errors import DocumentError, ExportInProgressError, UnavailableError
from service.export_spec import ExportSpec
from service.formats import Format
from tests.sql.sources import load
from tests.support.documents import POOL_NAME, make_document, open_patiently
from tests.support.factories import Connection, create_user
from tests.support.waiting import until

PROFILE = "SELECT $1::uuid AS id, 'ada@example.com' AS email"
SLEEPING = "SELECT pg_sleep(600) IS NULL AS slept WHERE $1::uuid IS NOT NULL"


@pytest.fixture
async def sleeping(database: Connection, tmp_path: Path) -> tuple[Dataset, ...]:
    """Datasets that are quickly counted and never read to the end."""
    return await load(database, tmp_path, {"profile.sql": PROFILE, "sleep.sql": SLEEPING})


async def list_states(database: Connection) -> list[str]:
    rows = await database.fetch(
        "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1", POOL_NAME
    )
    return [row["state"] for row in rows]


async def is_asleep(database: Connection) -> bool:
    query = "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    asleep: bool = await database.fetchval(query)
    return asleep


async def is_idle_in_transaction(database: Connection) -> bool:
    return await list_states(database) == ["idle in transaction"]


async def signal_backend(database: Connection, function: str) -> None:
    await database.execute(
        f"SELECT {function} FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
        POOL_NAME,
    )


class TestConnection:
    async def test_leaving_early_gives_the_connection_back(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, activity=5_000)
        async with (
            open_patiently(pool, datasets, user_id) as document,
            aclosing(document.chunks(CsvEncoder())) as chunks,
        ):
            await anext(chunks)
            await until(partial(is_idle_in_transaction, database))

        assert (pool.get_idle_size(), pool.get_size()) == (1, 1)
        assert await list_states(database) == ["idle"]

    async def test_being_cancelled_while_fetching_gives_the_connection_back(
        self, pool: Pool, database: Connection, sleeping: tuple[Dataset, ...], datasets: tuple[Dataset, ...]
    ) -> None:
        making = asyncio.create_task(make_document(pool, sleeping, uuid4(), CsvEncoder()))
        await until(partial(is_asleep, database))
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making

        assert pool.get_idle_size() == pool.get_size()
        assert await list_states(database) in (["idle"], [])
        await make_document(pool, datasets, await create_user(database), CsvEncoder())

    async def test_settings_changed_by_a_dataset_are_undone_before_the_next_user(
        self, pool: Pool, database: Connection, tmp_path: Path
    ) -> None:
        profile = "SELECT $1::uuid AS id, set_config('app.user_id', $1::uuid::text, false) AS email"
        datasets = await load(database, tmp_path, {"profile.sql": profile})
        user_id = uuid4()

        document = await make_document(pool, datasets, user_id, CsvEncoder())
        await require_subject(pool, datasets[0], user_id, since=dt.datetime.now(dt.UTC), acquire_timeout_seconds=10)

        assert document.count(str(user_id).encode()) == 2
        assert not await pool.fetchval("SELECT current_setting('app.user_id', true)")

    async def test_a_callers_own_error_stays_what_it_is(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database)
        with pytest.raises(ConnectionResetError, match="of another server"):
            async with open_patiently(pool, datasets, user_id):
                raise ConnectionResetError("of another server")

        assert await list_states(database) == ["idle"]

    async def test_a_full_pool_is_unavailable(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database)
        async with open_patiently(pool, datasets, user_id, exclusive=True):  # its connection is held to the end
            with pytest.raises(UnavailableError):
                await open_document(
                    pool, datasets, ExportSpec(user_id, Format.CSV), max_records=1, acquire_timeout_seconds=0.01
                ).__aenter__()


class TestFailures:
    async def test_a_session_that_ends_while_fetching(
        self, pool: Pool, database: Connection, sleeping: tuple[Dataset, ...], datasets: tuple[Dataset, ...]
    ) -> None:
        making = asyncio.create_task(make_document(pool, sleeping, uuid4(), CsvEncoder()))
        await until(partial(is_asleep, database))
        await signal_backend(database, "pg_terminate_backend(pid)")
        with pytest.raises(UnavailableError):
            await making

        await make_document(pool, datasets, await create_user(database), CsvEncoder())

    async def test_a_session_that_ends_between_two_chunks(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, activity=5_000)

        async def read_all() -> None:
            async with (
                open_patiently(pool, datasets, user_id) as document,
                aclosing(document.chunks(CsvEncoder())) as chunks,
            ):
                await anext(chunks)
                await signal_backend(database, "pg_terminate_backend(pid, 10000)")
                async for _ in chunks:
                    pass

        with pytest.raises(UnavailableError):
            await read_all()

        await make_document(pool, datasets, user_id, CsvEncoder())

    async def test_a_query_that_is_cancelled(
        self, pool: Pool, database: Connection, sleeping: tuple[Dataset, ...]
    ) -> None:
        making = asyncio.create_task(make_document(pool, sleeping, uuid4(), CsvEncoder()))
        await until(partial(is_asleep, database))
        await signal_backend(database, "pg_cancel_backend(pid)")

        with pytest.raises(UnavailableError):
            await making

    async def test_a_row_that_cannot_be_read(self, pool: Pool, database: Connection, tmp_path: Path) -> None:
        broken = "SELECT 1 / (length($1::uuid::text) - 36) AS n"
        datasets = await load(database, tmp_path, {"profile.sql": PROFILE, "broken.sql": broken})

        with pytest.raises(DocumentError):
            await make_document(pool, datasets, uuid4(), CsvEncoder())

    async def test_a_table_that_is_gone_since_the_start(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database)
        await database.execute("DROP TABLE public.content")

        with pytest.raises(DocumentError):
            await make_document(pool, datasets, user_id, CsvEncoder())


class TestExclusive:
    async def test_a_second_one_of_the_same_user_is_refused_until_the_first_ends(
        self, database_url: str, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        ada, grace = await create_user(database), await create_user(database)
        async with open_pool(database_url, size=2, application_name=POOL_NAME, own_search_path=True) as pool:
            async with open_patiently(pool, datasets, ada, exclusive=True):
                with pytest.raises(ExportInProgressError):
                    await open_patiently(pool, datasets, ada, exclusive=True).__aenter__()
                async with open_patiently(pool, datasets, grace, exclusive=True):
                    pass
                async with open_patiently(pool, datasets, ada):
                    pass

            async with open_patiently(pool, datasets, ada, exclusive=True) as document:
                assert document.records_total == 1

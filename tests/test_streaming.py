"""One snapshot, counted; bounded fetches; and a connection that always comes back."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from service.database import Pool, UserId, open_pool
from service.datasets import Dataset, load_datasets
from service.encoders import CsvEncoder, JsonEncoder
from service.errors import (
    DocumentError,
    ExportInProgressError,
    ExportTooLargeError,
    SubjectNotFoundError,
    UnavailableError,
)
from service.settings import SQL_DIR
from service.streaming import CHUNK_BYTES, MAX_FETCHED_SLICES, SLICE_BYTES, Document, open_document

from .documents import make_document, read_csv
from .factories import Connection, create_user, create_user_with
from .sql.sources import load

APPLICATION = "streaming-test"
MIB = 1024 * 1024
PROFILE = "SELECT $1::uuid AS id, 'ada@example.com' AS email"
SLEEPING = "SELECT pg_sleep(600) IS NULL AS slept WHERE $1::uuid IS NOT NULL"


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with open_pool(database_url, size=1, application_name=APPLICATION) as opened:
        yield opened


@pytest.fixture
async def datasets(database: Connection) -> tuple[Dataset, ...]:
    return await load_datasets(database, SQL_DIR / "datasets", user_id_type="uuid", forbidden=["*_hash"])


@pytest.fixture
async def sleeping(database: Connection, tmp_path: Path) -> tuple[Dataset, ...]:
    """Datasets that are quickly counted and never read to the end."""
    return await load(database, tmp_path, {"profile.sql": PROFILE, "sleep.sql": SLEEPING})


def open_(
    pool: Pool, datasets: tuple[Dataset, ...], user_id: UserId, *, max_records: int = 100_000, exclusive: bool = False
) -> AbstractAsyncContextManager[Document]:
    return open_document(
        pool, datasets, user_id, max_records=max_records, acquire_timeout_seconds=0.05, exclusive=exclusive
    )


async def list_states(database: Connection) -> list[str]:
    rows = await database.fetch("SELECT state FROM pg_stat_activity WHERE application_name = $1", APPLICATION)
    return [row["state"] for row in rows]


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    while not await condition():
        await asyncio.sleep(0.01)


async def is_asleep(database: Connection) -> bool:
    query = "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = $1 AND wait_event = 'PgSleep'"
    asleep: bool = await database.fetchval(query, APPLICATION)
    return asleep


async def signal_backend(database: Connection, function: str) -> None:
    await database.execute(
        f"SELECT {function} FROM pg_stat_activity WHERE application_name = $1",
        APPLICATION,
    )


class TestSnapshot:
    async def test_rows_that_move_meanwhile_are_seen_once(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, activity=3_000, content=3_000)
        move = """
            WITH moved AS (
              DELETE FROM public.activity
              WHERE id IN (SELECT id FROM public.activity WHERE user_id = $1 ORDER BY id DESC LIMIT 20)
              RETURNING occurred_at
            )
            INSERT INTO public.content (user_id, title, created_at) SELECT $1, 'moved', occurred_at FROM moved
        """
        moves = 0
        made = []
        async with (
            open_(pool, datasets, user_id) as document,
            aclosing(document.chunks(JsonEncoder())) as chunks,
        ):
            await database.execute(move, user_id)
            async for chunk in chunks:
                made.append(chunk)
                await database.execute(move, user_id)
                moves += 1
        content = json.loads(b"".join(made))

        assert moves > 5
        assert document.records_total == document.records_done == 6_001
        assert [row["detail"]["n"] for row in content["activity"]] == list(range(1, 3_001))
        assert [row["title"] for row in content["content"]] == [f"Note {n}" for n in range(1, 3_001)]

    async def test_rows_that_come_and_go_meanwhile_are_not_seen(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, activity=8_000)
        made = []
        async with (
            open_(pool, datasets, user_id) as document,
            aclosing(document.chunks(CsvEncoder())) as chunks,
        ):
            async for chunk in chunks:
                made.append(chunk)
                await database.execute("INSERT INTO public.content (user_id, title) VALUES ($1, 'new')", user_id)
                await database.execute(
                    "DELETE FROM public.activity WHERE id = (SELECT max(id) FROM public.activity WHERE user_id = $1)",
                    user_id,
                )

        assert len(made) > 5
        assert len(read_csv(b"".join(made).decode())) == 1 + 8_001

    async def test_a_user_erased_meanwhile_is_in_the_snapshot_and_not_in_the_next(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user_with(database, 10)
        async with open_(pool, datasets, user_id) as document:
            await database.execute("DELETE FROM public.users WHERE id = $1", user_id)
            chunks = [chunk async for chunk in document.chunks(CsvEncoder())]

        assert len(read_csv(b"".join(chunks).decode())) == 11
        with pytest.raises(SubjectNotFoundError):
            await make_document(pool, datasets, user_id, CsvEncoder())

    async def test_rows_that_do_not_match_their_count_are_no_document(
        self, pool: Pool, database: Connection, tmp_path: Path
    ) -> None:
        once = (
            "SELECT 1 AS n WHERE current_setting('test.seen', true) "
            "IS DISTINCT FROM set_config('test.seen', $1::uuid::text, true)"
        )
        datasets = await load(database, tmp_path, {"profile.sql": PROFILE, "once.sql": once})

        with pytest.raises(DocumentError, match=r"^Dataset once gave 0 rows, but counted 1$"):
            await make_document(pool, datasets, uuid4(), CsvEncoder())

    async def test_a_profile_of_two_rows_is_no_document(self, pool: Pool, database: Connection, tmp_path: Path) -> None:
        profile = "SELECT $1::uuid AS id, email FROM (VALUES ('a'), ('b')) AS v (email)"
        datasets = await load(database, tmp_path, {"profile.sql": profile})

        with pytest.raises(DocumentError):
            await make_document(pool, datasets, uuid4(), JsonEncoder())


class TestCounts:
    async def test_facts_are_those_of_the_chunks(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, activity=1_500, content=500)
        async with open_(pool, datasets, user_id) as document:
            assert (document.records_total, document.records_done, document.size_bytes) == (2_001, 0, 0)
            made = [chunk async for chunk in document.chunks(CsvEncoder())]

        assert all(made)
        assert (document.records_done, document.size_bytes) == (2_001, len(b"".join(made)))
        assert document.sha256 == hashlib.sha256(b"".join(made)).digest()

    async def test_the_cap_is_exact(self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]) -> None:
        user_id = await create_user_with(database, 10)
        async with open_(pool, datasets, user_id, max_records=10) as document:
            assert document.records_total == 10

        with pytest.raises(ExportTooLargeError) as raised:
            await open_(pool, datasets, user_id, max_records=9).__aenter__()

        assert raised.value.fields["limit"] == 9

    async def test_an_unknown_user_has_no_document(self, pool: Pool, datasets: tuple[Dataset, ...]) -> None:
        with pytest.raises(SubjectNotFoundError):
            await make_document(pool, datasets, uuid4(), CsvEncoder())

    @pytest.mark.parametrize(("user_id", "stranger"), [(7, 2**63 - 1), ("ada o'neil \U0001f680", "nobody")])
    async def test_users_may_have_numbers_and_names(
        self, pool: Pool, database: Connection, tmp_path: Path, user_id: UserId, stranger: UserId
    ) -> None:
        type_ = "bigint" if isinstance(user_id, int) else "text"
        await database.execute(f"CREATE TABLE members (id {type_} PRIMARY KEY, email text)")
        await database.execute("INSERT INTO members VALUES ($1, 'ada@example.com')", user_id)
        datasets = await load(
            database, tmp_path, {"profile.sql": "SELECT id, email FROM members WHERE id = $1"}, user_id_type=type_
        )

        document = json.loads(await make_document(pool, datasets, user_id, JsonEncoder()))

        assert document["user"]["id"] == user_id
        with pytest.raises(SubjectNotFoundError):
            await make_document(pool, datasets, stranger, JsonEncoder())


class TestChunks:
    async def test_wide_rows_after_narrow_ones_are_fetched_a_few_at_a_time(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, activity=5_000)
        await database.execute(
            "INSERT INTO public.content (user_id, title, body) "
            f"SELECT $1, 'wide', repeat('x', {MIB}) FROM generate_series(1, 20)",
            user_id,
        )
        async with open_(pool, datasets, user_id) as document:
            sizes = [len(chunk) async for chunk in document.chunks(JsonEncoder())]

        assert document.records_done == 5_021
        assert max(sizes) < MAX_FETCHED_SLICES * SLICE_BYTES + MIB + 2 * CHUNK_BYTES
        # After the first fetch that met them, one at a time.
        assert sum(MIB < size < MIB + 2 * CHUNK_BYTES for size in sizes) >= 15

    async def test_narrow_rows_after_wide_ones_are_fetched_many_at_a_time(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, content=3, body_bytes=MIB)
        await database.execute(
            "INSERT INTO public.content (user_id, title) SELECT $1, 'narrow' FROM generate_series(1, 5000)", user_id
        )
        async with open_(pool, datasets, user_id) as document:
            sizes = [len(chunk) async for chunk in document.chunks(CsvEncoder())]

        assert document.records_done == 5_004
        assert len(sizes) < 5 + document.size_bytes / CHUNK_BYTES

    @pytest.mark.parametrize("length", [0, 1, SLICE_BYTES - 1, SLICE_BYTES, SLICE_BYTES + 1, 2 * SLICE_BYTES])
    async def test_a_line_of_any_length_arrives_whole(
        self, pool: Pool, database: Connection, tmp_path: Path, length: int
    ) -> None:
        """Its only cell is its line; multi-byte characters are cut between slices."""
        text = "x" * (length % 3) + "\u20ac" * (length // 3)
        line = (
            f"SELECT nullif(repeat('x', {length % 3}) || repeat('\u20ac', {length // 3}), '') AS cell "
            "WHERE $1::uuid IS NOT NULL"
        )
        datasets = await load(database, tmp_path, {"profile.sql": PROFILE, "line.sql": line})

        document = await make_document(pool, datasets, uuid4(), CsvEncoder())

        assert read_csv(document.decode())[-1][-1] == (text or None)


class TestConnection:
    async def test_leaving_early_gives_the_connection_back(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, activity=5_000)
        async with (
            open_(pool, datasets, user_id) as document,
            aclosing(document.chunks(CsvEncoder())) as chunks,
        ):
            await anext(chunks)
            assert await list_states(database) == ["idle in transaction"]

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

    async def test_a_callers_own_error_stays_what_it_is(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database)
        with pytest.raises(ConnectionResetError, match="of another server"):
            async with open_(pool, datasets, user_id):
                raise ConnectionResetError("of another server")

        assert await list_states(database) == ["idle"]

    async def test_a_full_pool_is_unavailable(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database)
        async with open_(pool, datasets, user_id):
            with pytest.raises(UnavailableError):
                await open_(pool, datasets, user_id).__aenter__()


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
                open_(pool, datasets, user_id) as document,
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
        async with open_pool(database_url, size=2, application_name=APPLICATION) as pool:
            async with open_(pool, datasets, ada, exclusive=True):
                with pytest.raises(ExportInProgressError):
                    await open_(pool, datasets, ada, exclusive=True).__aenter__()
                async with open_(pool, datasets, grace, exclusive=True):
                    pass
                async with open_(pool, datasets, ada):
                    pass

            async with open_(pool, datasets, ada, exclusive=True) as document:
                assert document.records_total == 1

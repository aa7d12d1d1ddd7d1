"""One snapshot, counted, in chunks that stay small."""

import json
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from asyncpg.cursor import Cursor

from service.backends.database import Pool, connect, open_pool
from service.documents.chunks import CHUNK_BYTES, MAX_FETCHED, SLICE_BYTES
from service.documents.csv_encoder import CsvEncoder
from service.documents.datasets import Dataset, load_user_lists
from service.documents.json_encoder import JsonEncoder
from service.documents.lists import open_list
from service.documents.selection import Query
from service.documents.streaming import MAX_ADDED_BYTES
from service.errors import DocumentError, ExportTooLargeError, InvalidRequestError, SubjectNotFoundError
from service.user_ids import UserId
from tests.sql.databases import open_database
from tests.sql.sources import Folder, load
from tests.support.documents import POOL_NAME, make_document, open_patiently, read_csv
from tests.support.factories import Connection, create_user, create_user_with

MIB = 1024 * 1024
PROFILE = "SELECT $1::uuid AS id, 'ada@example.com' AS email"


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
            open_patiently(pool, datasets, user_id, encoder=JsonEncoder()) as document,
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
            open_patiently(pool, datasets, user_id) as document,
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
        async with open_patiently(pool, datasets, user_id) as document:
            await database.execute("DELETE FROM public.users WHERE id = $1", user_id)
            chunks = [chunk async for chunk in document.chunks(CsvEncoder())]

        assert len(read_csv(b"".join(chunks).decode())) == 11
        with pytest.raises(SubjectNotFoundError):
            await make_document(pool, datasets, user_id, CsvEncoder())

    async def test_rows_that_do_not_match_their_count_are_refused(
        self, pool: Pool, database: Connection, tmp_path: Path
    ) -> None:
        once = (
            "SELECT 1 AS n WHERE $1::uuid IS NOT NULL AND current_setting('test.seen', true) "
            "IS DISTINCT FROM set_config('test.seen', 'yes', true)"
        )
        datasets = await load(database, tmp_path, {"profile.sql": PROFILE, "once.sql": once})

        with pytest.raises(DocumentError, match=r"^Dataset once gave 0 rows, but counted 1$"):
            await make_document(pool, datasets, uuid4(), CsvEncoder())

    async def test_a_profile_of_two_rows_is_refused(self, pool: Pool, database: Connection, tmp_path: Path) -> None:
        profile = "SELECT $1::uuid AS id, email FROM (SELECT 'a' AS email UNION ALL SELECT 'b') AS v"
        datasets = await load(database, tmp_path, {"profile.sql": profile})

        with pytest.raises(DocumentError):
            await make_document(pool, datasets, uuid4(), JsonEncoder())


class TestCounts:
    async def test_facts_are_those_of_the_chunks(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, activity=1_500, content=500)
        async with open_patiently(pool, datasets, user_id) as document:
            assert (document.records_total, document.records_done, document.size_bytes) == (2_001, 0, 0)
            made = [chunk async for chunk in document.chunks(CsvEncoder())]

        assert all(made)
        assert (document.records_done, document.size_bytes) == (2_001, len(b"".join(made)))

    async def test_the_cap_is_exact(self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]) -> None:
        user_id = await create_user_with(database, 10)
        async with open_patiently(pool, datasets, user_id, max_records=10) as document:
            assert document.records_total == 10

        with pytest.raises(ExportTooLargeError) as raised:
            await open_patiently(pool, datasets, user_id, max_records=9).__aenter__()

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
        async with open_patiently(pool, datasets, user_id, encoder=JsonEncoder()) as document:
            sizes = [len(chunk) async for chunk in document.chunks(JsonEncoder())]

        assert document.records_done == 5_021
        assert max(sizes) < MAX_FETCHED * SLICE_BYTES + MIB + 2 * CHUNK_BYTES
        # After the first fetch that met them, one at a time.
        assert sum(MIB < size < MIB + 2 * CHUNK_BYTES for size in sizes) >= 15

    async def test_narrow_rows_after_wide_ones_are_fetched_many_at_a_time(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, content=3, body_bytes=MIB)
        await database.execute(
            "INSERT INTO public.content (user_id, title) SELECT $1, 'narrow' FROM generate_series(1, 5000)", user_id
        )
        async with open_patiently(pool, datasets, user_id) as document:
            sizes = [len(chunk) async for chunk in document.chunks(CsvEncoder())]

        assert document.records_done == 5_004
        assert len(sizes) < 5 + document.size_bytes / CHUNK_BYTES

    async def test_a_wide_profile_makes_no_large_chunks_of_narrow_rows(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...]
    ) -> None:
        user_id = await create_user(database, activity=1_000)
        await database.execute("UPDATE public.users SET name = repeat('x', $1) WHERE id = $2", 100_000, user_id)
        async with open_patiently(pool, datasets, user_id) as document:
            sizes = [len(chunk) async for chunk in document.chunks(CsvEncoder())]

        assert document.records_done == 1_001
        assert sum(sizes) > 1_001 * 100_000
        assert max(sizes) < MAX_ADDED_BYTES + 2 * CHUNK_BYTES

    @pytest.mark.slow
    async def test_wide_rows_that_take_long_arrive_whole(
        self, pool: Pool, database: Connection, tmp_path: Path
    ) -> None:
        """The next fetch after the first wide row would take longer than its time limit."""
        user_id = await create_user(database, content=160, body_bytes=SLICE_BYTES)
        slow = """
            SELECT body, CASE WHEN substr(title, length('Note ') + 1)::int > 100 THEN pg_sleep(0.02)::text END AS nap
            FROM public.content WHERE user_id = $1 ORDER BY created_at, id
        """
        datasets = await load(database, tmp_path, {"profile.sql": PROFILE, "slow.sql": slow})

        document = await make_document(pool, datasets, user_id, CsvEncoder())

        assert len(read_csv(document.decode())) == 1 + 161

    async def test_nothing_is_fetched_in_vain_after_a_wide_row(
        self, pool: Pool, database: Connection, datasets: tuple[Dataset, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It would render a thousand rows as wide, only to begin with the first of them again, in slices."""
        user_id = await create_user(database, content=300, body_bytes=SLICE_BYTES)
        in_slices: list[bool] = []
        fetch = Cursor.fetch

        async def counted(self: Cursor, n: int, *, timeout: float | None = None) -> list[asyncpg.Record]:  # noqa: ASYNC109 (asyncpg's)
            in_slices.append("generate_series" in self._query)  # type: ignore[attr-defined]
            return await fetch(self, n, timeout=timeout)

        monkeypatch.setattr(Cursor, "fetch", counted)
        document = await make_document(pool, datasets, user_id, CsvEncoder())

        assert len(read_csv(document.decode())) == 1 + 301
        assert in_slices == [False, *[True] * (len(in_slices) - 1)]

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


async def test_an_id_that_the_databases_encoding_lacks_belongs_to_no_user(server_url: str, tmp_path: Path) -> None:
    options = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    async with (
        open_database(server_url, options) as url,
        connect(url, own_search_path=True) as database,
        open_pool(url, size=1, application_name=POOL_NAME, own_search_path=True) as pool,
    ):
        await database.execute("CREATE TABLE people (number int PRIMARY KEY, email text NOT NULL)")
        files: Folder = {"profile.sql": "SELECT email AS id, email FROM people WHERE email = $1"}
        datasets = await load(database, tmp_path, files, user_id_type="text")
        (tmp_path / "users").mkdir()
        (tmp_path / "users" / "export.sql").write_text(
            "SELECT number AS id, email FROM people WHERE email = $1::text AND ($2::bigint IS NULL OR number > $2)"
            " ORDER BY number"
        )
        lists = await load_user_lists(database, tmp_path, forbidden=())
        with pytest.raises(SubjectNotFoundError):
            await make_document(pool, datasets, "łukasz@example.com", CsvEncoder())
        with pytest.raises(InvalidRequestError, match="can't hold"):
            async with open_list(
                pool, Query(lists["export"], ("łukasz@example.com", None)), acquire_timeout_seconds=10
            ):
                pass

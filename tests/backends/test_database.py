"""The states that the schema refuses, the pool, and the queries."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from devstack.roles import OWNER
from devstack.stack import Stack
from service.backends import database as database_module
from service.backends.database import (
    Pool,
    acquire,
    check_schema,
    connect,
    load_queries,
    open_pool,
)
from service.backends.failures import NO_ANSWER, describe_postgresql
from service.errors import ConfigurationError, OutageError, UnavailableError, find_cause
from tests.sql.databases import open_database, serving_url, with_database
from tests.support.factories import Connection, create_user
from tests.support.waiting import until

AZURES_IDLE_SECONDS = 240
NOWHERE = "postgresql://127.0.0.1:1/nothing"
INSERT_EXPORT = (
    "INSERT INTO carryout.export_jobs (user_id, format, queued, estimated_records{}) VALUES ($1, 'csv', true, 1{})"
)
COMPLETED = {
    "status": "'completed'",
    "file_url": "'s3://bucket/key'",
    "size_bytes": "1",
    "sha256": "sha256('')",
    "record_count": "1",
    "completed_at": "now()",
    "expires_at": "now()",
}
WRONG_EXPORTS = {
    "unknown status": ({"status": "'done'"}, "export_jobs_status_check"),
    "processing without a lease": ({"status": "'processing'", "attempt": "1"}, "leased_while_processing"),
    "processing before any attempt": (
        {"status": "'processing'", "lease_expires_at": "now()"},
        "leased_while_processing",
    ),
    "pending with a lease": ({"lease_expires_at": "now()"}, "leased_while_processing"),
    "completed without a file": (COMPLETED | {"file_url": "NULL"}, "completed_has_file"),
    "completed without a checksum": (COMPLETED | {"sha256": "NULL"}, "completed_has_file"),
    "completed without an end": (COMPLETED | {"completed_at": "NULL"}, "ended_at"),
    "pending with a file": (COMPLETED | {"status": "'pending'", "completed_at": "NULL"}, "completed_has_file"),
    "file elsewhere": (COMPLETED | {"file_url": "'https://bucket/key'"}, "export_jobs_file_url_check"),
    "no records": (COMPLETED | {"record_count": "0"}, "export_jobs_record_count_check"),
    "half a checksum": (COMPLETED | {"sha256": r"'\x00'"}, "export_jobs_sha256_check"),
    "failed without a reason": ({"status": "'failed'", "completed_at": "now()"}, "failed_says_why"),
    "pending with a reason": ({"error_message": "'no'"}, "failed_says_why"),
    "deleted before it was made": ({"file_deleted_at": "now()"}, "deleted_only_if_made"),
    "empty idempotency key": ({"idempotency_key": "''"}, "export_jobs_idempotency_key_check"),
}


class TestConstraints:
    @pytest.mark.parametrize(("values", "constraint"), WRONG_EXPORTS.values(), ids=WRONG_EXPORTS)
    async def test_an_export_in_an_impossible_state_is_refused(
        self, database: Connection, values: dict[str, str], constraint: str
    ) -> None:
        user_id = await create_user(database)
        insert = INSERT_EXPORT.format(
            "".join(f", {name}" for name in values), "".join(f", {v}" for v in values.values())
        )

        with pytest.raises(asyncpg.CheckViolationError) as raised:
            await database.execute(insert, user_id)

        assert raised.value.constraint_name == constraint

    async def test_one_export_of_a_user_runs_at_a_time(self, database: Connection) -> None:
        ada, grace = await create_user(database), await create_user(database)
        await database.execute(INSERT_EXPORT.format("", ""), ada)
        await database.execute(INSERT_EXPORT.format("", ""), grace)
        leased = INSERT_EXPORT.format(", status, attempt, lease_expires_at", ", 'processing', 1, now()")

        with pytest.raises(asyncpg.UniqueViolationError) as raised:
            await database.execute(leased, ada)
        assert raised.value.constraint_name == "one_running_export_per_user"

        failed = "status = 'failed', error_message = 'x', completed_at = now()"
        await database.execute(f"UPDATE carryout.export_jobs SET {failed} WHERE user_id = $1", ada)
        await database.execute(leased, ada)

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE carryout.export_audit SET outcome = 'nothing happened'",
            "UPDATE carryout.export_audit SET outcome = '' WHERE false",
            "DELETE FROM carryout.export_audit",
            "TRUNCATE carryout.export_audit",
        ],
    )
    async def test_the_trail_only_grows(self, database: Connection, change: str) -> None:
        await database.execute(
            "INSERT INTO carryout.export_audit (actor_type, action) VALUES ('system', 'export:started')"
        )

        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await database.execute(change)

        assert await database.fetchval("SELECT count(*) FROM carryout.export_audit WHERE outcome IS NULL") == 1

    async def test_an_actor_has_a_name_or_needs_none(self, database: Connection) -> None:
        insert = "INSERT INTO carryout.export_audit (actor_type, actor, action) VALUES ($1, $2, 'export:requested')"
        with pytest.raises(asyncpg.CheckViolationError):
            await database.execute(insert, "user", None)

        await database.execute(insert, "system", None)


class TestPool:
    async def test_a_process_starts_without_its_database(self) -> None:
        async with open_pool(NOWHERE, size=1, application_name="test") as pool:
            with pytest.raises(UnavailableError):
                await acquire(pool, timeout_seconds=5).__aenter__()

    async def test_a_full_pool_is_unavailable(self, database_url: str) -> None:
        async with open_pool(database_url, size=1, application_name="test") as pool:
            async with acquire(pool, timeout_seconds=5):
                with pytest.raises(UnavailableError):
                    await acquire(pool, timeout_seconds=0.01).__aenter__()
            async with acquire(pool, timeout_seconds=5) as connection:
                assert await connection.fetchval("SELECT 1") == 1

    async def test_a_server_that_refuses_to_connect_is_unavailable(self, database_url: str) -> None:
        async with open_pool(with_database(database_url, "no_such"), size=1, application_name="test") as pool:
            with pytest.raises(OutageError) as raised:
                await acquire(pool, timeout_seconds=5, server="source").__aenter__()
        assert (raised.value.server, describe_postgresql(find_cause(raised.value))) == (
            "source",
            "has no such database",
        )

    async def test_a_query_that_gets_no_answer_in_time_means_an_outage(self, database_url: str) -> None:
        async def query(pool: Pool) -> None:
            async with acquire(pool, timeout_seconds=5) as connection:
                await connection.fetchval("SELECT pg_sleep(600)", timeout=0.1)

        async with open_pool(database_url, size=1, application_name="test") as pool:
            with pytest.raises(OutageError) as raised:
                await query(pool)
        assert describe_postgresql(find_cause(raised.value)) == NO_ANSWER

    async def test_a_lost_session_is_unavailable_and_replaced(self, database_url: str, database: Connection) -> None:
        async def lose(pool: Pool) -> None:
            async with acquire(pool, timeout_seconds=5) as connection:
                await database.execute("SELECT pg_terminate_backend($1, 10000)", connection.get_server_pid())
                await connection.execute("SELECT")

        async with open_pool(database_url, size=1, application_name="test") as pool:
            with pytest.raises(UnavailableError):
                await lose(pool)
            async with acquire(pool, timeout_seconds=5) as connection:
                await connection.execute("SELECT")

    async def test_an_idle_connection_is_closed_before_a_network_forgets_it(
        self, database_url: str, database: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Asyncpg's five minutes are longer than Azure's four, and a forgotten connection answers nothing."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idle'"

        async def is_closed() -> bool:
            return bool(await database.fetchval(query) == 0)

        assert database_module.IDLE_SECONDS < AZURES_IDLE_SECONDS
        monkeypatch.setattr(database_module, "IDLE_SECONDS", 0.1)
        async with open_pool(database_url, size=1, application_name="idle") as pool:
            await pool.execute("SELECT")
            await until(is_closed)
            await pool.execute("SELECT")

    async def test_a_primary_that_became_a_replica_is_unavailable_and_asked_anew(self, database_url: str) -> None:
        async def write(pool: Pool) -> None:
            async with acquire(pool, timeout_seconds=5) as connection:
                await connection.execute("CREATE TABLE public.written ()")

        async with open_pool(database_url, size=1, application_name="test") as pool:
            await pool.execute("SET default_transaction_read_only = on")
            with pytest.raises(OutageError) as raised:
                await write(pool)
            await write(pool)
        assert describe_postgresql(find_cause(raised.value)) == "is read-only"

    async def test_a_table_that_was_migrated_is_unavailable_and_asked_anew(self, database_url: str) -> None:
        async def find(pool: Pool) -> None:
            async with acquire(pool, timeout_seconds=5) as connection, connection.transaction():
                await connection.fetch("SELECT * FROM carryout.export_jobs")

        async with open_pool(database_url, size=1, application_name="test") as pool:
            await find(pool)
            await pool.execute("ALTER TABLE carryout.export_jobs ADD COLUMN of_a_newer_release text")
            with pytest.raises(OutageError) as raised:
                await find(pool)
            await find(pool)
        assert describe_postgresql(find_cause(raised.value)) == "was migrated a moment ago"

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("42501", "denies the user access to the database"),
            ("53100", "has no disk space left"),
            ("53200", "has no memory left"),
            ("53300", "has no connection left"),
            ("53400", "has reached a limit of its settings"),
            ("57014", "canceled a query: statement_timeout is too short, or an operator did it"),
            ("57P01", "ended the connection"),
            ("57P03", "is starting or stopping"),
            ("57P04", "has no such database"),
            ("57P05", "ended the connection"),
            ("58030", "can't read or write its files"),
            ("58P01", "can't read or write its files"),
        ],
    )
    async def test_a_server_in_trouble_is_an_outage(self, database_url: str, code: str, words: str) -> None:
        async with open_pool(database_url, size=1, application_name="test") as pool:
            with pytest.raises(OutageError) as raised:
                async with acquire(pool, timeout_seconds=5) as connection:
                    await connection.execute(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$")
        assert describe_postgresql(find_cause(raised.value)) == words

    async def test_a_dataset_that_reads_too_much_is_not_an_outage(self, database_url: str) -> None:
        async with open_pool(database_url, size=1, application_name="test") as pool:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with acquire(pool, timeout_seconds=5, server="source") as connection:
                    await connection.execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '42501'; END $$")

    async def test_a_dataset_that_writes_is_not_an_outage(self, database_url: str) -> None:
        async with open_pool(database_url, size=1, application_name="test") as pool:
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                async with (
                    acquire(pool, timeout_seconds=5, server="source") as connection,
                    connection.transaction(readonly=True),
                ):
                    await connection.execute("CREATE TABLE public.written ()")

    @pytest.mark.parametrize("error", [asyncpg.DataError("x"), TimeoutError("x"), OSError("x"), KeyError("x")])
    async def test_a_callers_own_error_stays_what_it_is(self, database_url: str, error: Exception) -> None:
        async with open_pool(database_url, size=1, application_name="test") as pool:
            with pytest.raises(type(error)) as raised:
                async with acquire(pool, timeout_seconds=5):
                    raise error

            assert raised.value is error
            assert pool.get_idle_size() == 1

    async def test_closing_cuts_a_query_that_does_not_end(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.backends.database.CLOSE_TIMEOUT_SECONDS", 0.05)

        async def sleep() -> None:
            async with acquire(pool, timeout_seconds=5) as connection:
                sleeping.set()
                await connection.execute("SELECT pg_sleep(600)")

        sleeping = asyncio.Event()
        async with open_pool(database_url, size=1, application_name="test") as pool:
            sleeper = asyncio.create_task(sleep())
            await sleeping.wait()

        with pytest.raises(UnavailableError):
            await sleeper


class TestConnect:
    async def test_a_server_that_goes_away_meanwhile(self, database_url: str, database: Connection) -> None:
        async def lose_connection() -> None:
            async with connect(database_url) as connection, connection.transaction():
                await database.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
                await connection.execute("SELECT 1")

        with pytest.raises(ConfigurationError, match="CARRYOUT_DATABASE_URL"):
            await lose_connection()

    async def test_an_error_of_the_command_stays_what_it_is(self, database_url: str) -> None:
        with pytest.raises(asyncpg.UndefinedTableError):
            async with connect(database_url) as connection:
                await connection.execute("SELECT FROM nowhere")


class TestQueries:
    def test_every_query_has_a_name_of_its_own(self, tmp_path: Path) -> None:
        (tmp_path / "a.sql").write_text("-- name: find_it\nSELECT 1\n")
        (tmp_path / "b.sql").write_text(
            "-- about b\n\n-- name: count_it\n-- why\nSELECT 2;\n\n-- name: find_it\nSELECT 3\n"
        )

        with pytest.raises(ConfigurationError, match="Two queries are called find_it"):
            load_queries(tmp_path)

        (tmp_path / "a.sql").unlink()
        assert load_queries(tmp_path) == {"count_it": "-- why\nSELECT 2", "find_it": "SELECT 3"}


async def test_settings_of_the_database_change_nothing_of_ours(stack: Stack) -> None:
    """A request that waited for its user's turn must see what the request before it did, or limits don't count."""
    async with open_database(stack.admin_url) as url:
        async with connect(url) as connection:
            name = url.rpartition("/")[2]
            for setting in (
                "default_transaction_isolation = 'repeatable read'",
                "standard_conforming_strings = off",
                "quote_all_identifiers = on",
            ):
                await connection.execute(f"ALTER DATABASE {name} SET {setting}")
        async with (
            open_pool(url, size=1, application_name="test") as pool,
            pool.acquire() as pooled,
            connect(url) as one,
        ):
            for session in (pooled, one):
                async with session.transaction():
                    assert await session.fetchval("SHOW transaction_isolation") == "read committed"
                    assert await session.fetchval("SHOW standard_conforming_strings") == "on"
                    assert await session.fetchval("SHOW quote_all_identifiers") == "off"


@pytest.mark.parametrize("level", ["off", "local", "on"])
async def test_a_database_that_may_lose_commits_is_refused(
    stack: Stack, database: Connection, database_url: str, level: str
) -> None:
    name = database_url.rpartition("/")[2].partition("?")[0]
    await database.execute(f"ALTER DATABASE {name} SET synchronous_commit = {level}")
    async with connect(serving_url(stack, database_url)) as serving:
        if level == "off":
            with pytest.raises(ConfigurationError, match=r"^synchronous_commit is off for this role or database: "):
                await check_schema(serving, user_id_type="uuid", owner=OWNER)
        else:
            await check_schema(serving, user_id_type="uuid", owner=OWNER)


@pytest.mark.parametrize(
    ("setting", "query"),
    [
        ("statement_timeout", "SELECT pg_sleep(30)"),
        ("lock_timeout", "LOCK TABLE carryout.export_jobs"),
        ("idle_in_transaction_session_timeout", None),
    ],
)
async def test_a_timeout_of_the_role_is_an_outage(
    database: Connection, database_url: str, setting: str, query: str | None
) -> None:
    async with open_pool(database_url, size=1, application_name="test") as pool, database.transaction():
        await database.execute("LOCK TABLE carryout.export_jobs IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(OutageError):
            await _run_impatiently(pool, setting, query)


async def _run_impatiently(pool: Pool, setting: str, query: str | None) -> None:
    async with acquire(pool, timeout_seconds=5) as connection:
        await connection.execute(f"SET {setting} = '10ms'")
        async with connection.transaction():
            while query is None and not connection.is_closed():
                await asyncio.sleep(0.01)
            await connection.execute(query or "SELECT 1")

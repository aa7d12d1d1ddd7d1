"""Migrations, the states the schema refuses, and the pool."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from devstack.stack import Stack
from service.database import (
    Pool,
    acquire,
    check_schema,
    connect,
    describe_failure,
    load_queries,
    migrate,
    open_pool,
)
from service.errors import ConfigurationError, OutageError, UnavailableError, find_cause
from service.settings import SQL_DIR
from service.unreachable import NO_ANSWER
from tests.factories import Connection, create_user
from tests.sql.databases import open_database, with_database

MIGRATIONS = [path.stem for path in sorted((SQL_DIR / "migrations").glob("*.sql"))]
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


@pytest.fixture
async def empty_url(stack: Stack) -> AsyncIterator[str]:
    async with open_database(stack.environ["CARRYOUT_DATABASE_URL"]) as url:
        yield url


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A copy to edit."""
    return Path(shutil.copytree(SQL_DIR / "migrations", tmp_path / "migrations"))


class TestMigrate:
    async def test_three_at_once_apply_everything_once(self, empty_url: str) -> None:
        applied = await asyncio.gather(*(migrate(empty_url, user_id_type="uuid") for _ in range(3)))

        assert sorted(applied) == [[], [], MIGRATIONS]
        assert await migrate(empty_url, user_id_type="uuid") == []

    async def test_new_files_are_applied_in_order(self, empty_url: str, migrations: Path) -> None:
        await migrate(empty_url, user_id_type="uuid", directory=migrations)
        (migrations / "9002_second.sql").write_text("ALTER TABLE carryout.first ADD n int")
        (migrations / "9001_first.sql").write_text("CREATE TABLE carryout.first ()")

        applied = await migrate(empty_url, user_id_type="uuid", directory=migrations)

        assert applied == ["9001_first", "9002_second"]

    async def test_a_file_that_fails_leaves_nothing_of_itself(self, empty_url: str, migrations: Path) -> None:
        (migrations / "9001_broken.sql").write_text("CREATE TABLE carryout.broken (); SELECT 1 / 0")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await migrate(empty_url, user_id_type="uuid", directory=migrations)

        async with connect(empty_url) as connection:
            assert await connection.fetchval("SELECT to_regclass('carryout.broken')") is None
            await check_schema(connection, user_id_type="uuid")
        (migrations / "9001_broken.sql").write_text("CREATE TABLE carryout.broken ()")
        assert await migrate(empty_url, user_id_type="uuid", directory=migrations) == ["9001_broken"]

    async def test_an_edited_file_is_refused(self, empty_url: str, migrations: Path) -> None:
        await migrate(empty_url, user_id_type="uuid", directory=migrations)
        edited = migrations / f"{MIGRATIONS[0]}.sql"
        edited.write_text(edited.read_text() + "-- one more word")
        (migrations / "9001_new.sql").write_text("CREATE TABLE carryout.new ()")

        with pytest.raises(ConfigurationError, match=f"^Migration {MIGRATIONS[0]} was edited after it was applied"):
            await migrate(empty_url, user_id_type="uuid", directory=migrations)

        async with connect(empty_url) as connection:
            assert await connection.fetchval("SELECT to_regclass('carryout.new')") is None

    @pytest.mark.parametrize("user_id_type", ["uuid", "bigint", "text"])
    async def test_the_type_of_user_ids_is_fixed_by_the_first(self, empty_url: str, user_id_type: str) -> None:
        await migrate(empty_url, user_id_type=user_id_type)
        other = "text" if user_id_type == "uuid" else "uuid"

        with pytest.raises(ConfigurationError, match=f"is {other}, but this database was made with {user_id_type}"):
            await migrate(empty_url, user_id_type=other)

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("role=pg_monitor", "permission denied for schema carryout"),
            ("default_transaction_read_only=on", "cannot execute .* in a read-only transaction"),
        ],
    )
    async def test_what_the_server_refuses_is_said(self, database_url: str, option: str, words: str) -> None:
        with pytest.raises(ConfigurationError, match=rf"^PostgreSQL refuses this: {words} \(CARRYOUT_DATABASE_URL\)$"):
            await migrate(f"{database_url}?options=-c%20{option}", user_id_type="uuid")

    async def test_a_server_that_is_not_there_is_named(self) -> None:
        with pytest.raises(ConfigurationError, match="PostgreSQL can't be reached"):
            await migrate(NOWHERE, user_id_type="uuid")


class TestCheckSchema:
    async def test_a_migrated_database_passes(self, database: Connection) -> None:
        await check_schema(database, user_id_type="uuid")

    async def test_an_empty_database_is_told_what_it_lacks(self, empty_url: str) -> None:
        async with connect(empty_url) as connection:
            with pytest.raises(ConfigurationError, match=f"^The database lacks migration {MIGRATIONS[0]}: run"):
                await check_schema(connection, user_id_type="uuid")

    async def test_a_database_behind_is_told_what_it_lacks(self, database: Connection) -> None:
        await database.execute("DELETE FROM carryout.schema_migrations WHERE name = $1", MIGRATIONS[-1])

        with pytest.raises(ConfigurationError, match=f"^The database lacks migration {MIGRATIONS[-1]}: run"):
            await check_schema(database, user_id_type="uuid")

    async def test_a_database_ahead_passes(self, database: Connection) -> None:
        """While a new release is being rolled out, processes of the old one still start."""
        await database.execute("INSERT INTO carryout.schema_migrations (name, sha256) VALUES ('9999_later', '')")

        await check_schema(database, user_id_type="uuid")

    async def test_another_type_of_user_ids_is_refused(self, database: Connection) -> None:
        with pytest.raises(ConfigurationError, match="CARRYOUT_USER_ID_TYPE is text"):
            await check_schema(database, user_id_type="text")


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
        assert (raised.value.server, describe_failure(find_cause(raised.value))) == ("source", "has no such database")

    async def test_a_query_that_gets_no_answer_in_time_means_an_outage(self, database_url: str) -> None:
        async def query(pool: Pool) -> None:
            async with acquire(pool, timeout_seconds=5) as connection:
                await connection.fetchval("SELECT pg_sleep(600)", timeout=0.1)

        async with open_pool(database_url, size=1, application_name="test") as pool:
            with pytest.raises(OutageError) as raised:
                await query(pool)
        assert describe_failure(find_cause(raised.value)) == NO_ANSWER

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

    async def test_a_primary_that_became_a_replica_is_unavailable_and_asked_anew(self, database_url: str) -> None:
        async def write(pool: Pool) -> None:
            async with acquire(pool, timeout_seconds=5) as connection:
                await connection.execute("CREATE TABLE public.written ()")

        async with open_pool(database_url, size=1, application_name="test") as pool:
            await pool.execute("SET default_transaction_read_only = on")
            with pytest.raises(OutageError) as raised:
                await write(pool)
            await write(pool)
        assert describe_failure(find_cause(raised.value)) == "is read-only"

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
        assert describe_failure(find_cause(raised.value)) == "was migrated a moment ago"

    async def test_a_dataset_that_writes_is_no_outage(self, database_url: str) -> None:
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
        monkeypatch.setattr("service.database.CLOSE_TIMEOUT_SECONDS", 0.05)

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

"""Migrations, and the check of the schema at the start."""

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from devstack.roles import OWNER
from service.backends.database import check_schema, connect, migrate
from service.errors import ConfigurationError
from service.settings import SQL_DIR
from tests.support.factories import Connection

MIGRATIONS = [path.stem for path in sorted((SQL_DIR / "migrations").glob("*.sql"))]
NOWHERE = "postgresql://127.0.0.1:1/nothing"


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A copy to edit."""
    return Path(shutil.copytree(SQL_DIR / "migrations", tmp_path / "migrations"))


class TestMigrate:
    async def test_three_at_once_apply_everything_once(self, empty_url: str) -> None:
        applied = await asyncio.gather(*(migrate(empty_url, user_id_type="uuid") for _ in range(3)))

        assert sorted(name for names in applied for name in names) == MIGRATIONS
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
            ("role=pg_monitor", "permission denied for database .*"),
            ("default_transaction_read_only=on", "cannot execute .* in a read-only transaction"),
        ],
    )
    async def test_a_refusal_by_postgresql_is_quoted(self, empty_url: str, option: str, words: str) -> None:
        with pytest.raises(ConfigurationError, match=rf"^PostgreSQL refuses this: {words} \(CARRYOUT_DATABASE_URL\)$"):
            await migrate(f"{empty_url}?options=-c%20{option}", user_id_type="uuid")

    async def test_a_server_that_is_not_there_is_named(self) -> None:
        with pytest.raises(ConfigurationError, match="PostgreSQL can't be reached"):
            await migrate(NOWHERE, user_id_type="uuid")


class TestCheckSchema:
    async def test_a_migrated_database_passes(self, database: Connection) -> None:
        await check_schema(database, user_id_type="uuid", owner=OWNER)

    async def test_an_empty_database_is_told_what_it_lacks(self, empty_url: str) -> None:
        async with connect(empty_url) as connection:
            with pytest.raises(ConfigurationError, match=f"^The database lacks migration {MIGRATIONS[0]}: run"):
                await check_schema(connection, user_id_type="uuid")

    async def test_a_database_behind_is_told_what_it_lacks(self, database: Connection) -> None:
        await database.execute("DELETE FROM carryout.schema_migrations WHERE name = $1", MIGRATIONS[-1])

        with pytest.raises(ConfigurationError, match=f"^The database lacks migration {MIGRATIONS[-1]}: run"):
            await check_schema(database, user_id_type="uuid", owner=OWNER)

    async def test_a_database_ahead_passes(self, database: Connection) -> None:
        """While a new release is being rolled out, processes of the old one still start."""
        await database.execute("INSERT INTO carryout.schema_migrations (name, sha256) VALUES ('9999_later', '')")

        await check_schema(database, user_id_type="uuid", owner=OWNER)

    async def test_another_type_of_user_ids_is_refused(self, database: Connection) -> None:
        with pytest.raises(ConfigurationError, match="CARRYOUT_USER_ID_TYPE is text"):
            await check_schema(database, user_id_type="text", owner=OWNER)

"""Other roles of a shared database may make objects in the schema public, and take any advisory lock."""

import secrets
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from devstack.stack import Stack
from onboarding.checking import check
from onboarding.grants import list_grants
from onboarding.initializing import Options, initialize
from service.backends import database as database_module
from service.backends.database import connect, migrate
from service.errors import ConfigurationError
from service.settings import SQL_DIR
from tests.api.conftest import CSV
from tests.api.problems import bearer
from tests.conftest import Token
from tests.sql.databases import owner_url
from tests.sql.sources import FORBIDDEN, OPERATORS_FORBIDDEN
from tests.support.factories import Connection, create_user_with

STREAM = "/api/export/stream?format=csv"
STEAL = "INSERT INTO public.loot SELECT current_user RETURNING true"
PLANTED = {
    "an argument's type": (
        "CREATE FUNCTION public.hashtextextended(text, integer) RETURNS bigint LANGUAGE sql"
        f" AS $$ {STEAL}; SELECT 1::bigint $$"
    ),
    "a name of the catalog": (
        f"CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE sql AS $$ {STEAL}; SELECT $1::text $$"
    ),
    "an operator of the domain": (
        "CREATE FUNCTION public.same(carryout.user_id, carryout.user_id) RETURNS boolean LANGUAGE sql"
        f" AS $$ {STEAL} $$;"
        "CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = carryout.user_id, RIGHTARG = carryout.user_id)"
    ),
}


class Stranger(NamedTuple):
    name: str
    connection: Connection


@pytest.fixture
async def stranger(database: Connection, database_url: str) -> AsyncIterator[Stranger]:
    """A role of the application's: not ours, and no superuser."""
    name, password = f"app_{uuid.uuid4().hex}", secrets.token_hex(16)
    await database.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    await database.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {name}; GRANT USAGE ON SCHEMA carryout TO {name}")
    host = urlsplit(database_url).netloc.rpartition("@")[2]
    connection = await asyncpg.connect(urlsplit(database_url)._replace(netloc=f"{name}:{password}@{host}").geturl())
    yield Stranger(name, connection)
    await connection.close()
    await database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


class TestPlanted:
    @pytest.mark.parametrize("statement", PLANTED.values(), ids=PLANTED)
    async def test_is_not_called(  # noqa: PLR0913, PLR0917 (fixtures)
        self,
        api: httpx.AsyncClient,
        database: Connection,
        database_url: str,
        stranger: Stranger,
        token: Token,
        tmp_path: Path,
        statement: str,
    ) -> None:
        user_id = await create_user_with(database, 3)
        await stranger.connection.execute("CREATE TABLE public.loot (taken_by text)")
        await stranger.connection.execute(statement)

        answers = [
            await api.post("/api/export", json=CSV, headers=bearer(token(user_id))),
            await api.get("/api/export", headers=bearer(token(user_id))),
            await api.get(STREAM, headers=bearer(token(user_id))),
        ]
        shutil.copytree(SQL_DIR / "datasets", tmp_path / "datasets")
        async with connect(database_url, own_search_path=True) as connection:
            options = Options(directory=tmp_path / "new", forbidden=FORBIDDEN, list_forbidden=OPERATORS_FORBIDDEN)
            await initialize(connection, options)
            await check(connection, tmp_path / "datasets")
            await list_grants(connection, tmp_path / "datasets", tmp_path / "lists")

        assert [answer.status_code for answer in answers] == [201, 200, 200]
        assert await database.fetch("SELECT * FROM public.loot") == []


class TestLocks:
    async def test_held_by_another_role_do_not_delay_requests(
        self, api: httpx.AsyncClient, database: Connection, stranger: Stranger, token: Token
    ) -> None:
        user_id = await create_user_with(database, 3)
        for key in ("carryout:user:", "carryout:stream:"):
            await stranger.connection.execute(f"SELECT pg_advisory_lock(hashtextextended('{key}{user_id}', 0))")

        assert (await api.post("/api/export", json=CSV, headers=bearer(token(user_id)))).status_code == 201
        assert (await api.get(STREAM, headers=bearer(token(user_id)))).text.count("\r\n") == 4

    async def test_held_by_another_role_do_not_delay_migrations(
        self, stack: Stack, database: Connection, database_url: str, stranger: Stranger, tmp_path: Path
    ) -> None:
        held = int.from_bytes(b"carryou")  # by which migrations once took turns
        await stranger.connection.execute("SELECT pg_advisory_lock($1)", held)

        assert await migrate(owner_url(stack, database_url), user_id_type="uuid", directory=_one_more(tmp_path)) == [
            "9001_new"
        ]
        assert await database.fetchval("SELECT to_regclass('carryout.new')")

    async def test_held_by_our_own_role_end_a_migration_with_one_sentence(
        self, stack: Stack, database: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "MIGRATION_LOCK_SECONDS", 1)
        directory = _one_more(tmp_path)
        async with database.transaction():
            await database.execute("LOCK TABLE carryout.schema_migrations IN SHARE MODE")
            with pytest.raises(ConfigurationError, match="Another session has held a lock"):
                await migrate(owner_url(stack, database_url), user_id_type="uuid", directory=directory)

        assert await migrate(owner_url(stack, database_url), user_id_type="uuid", directory=directory) == ["9001_new"]

    async def test_no_stranger_may_take_a_users_turn(self, stranger: Stranger) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await stranger.connection.execute("SELECT FROM carryout.turns FOR KEY SHARE")


def _one_more(tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(SQL_DIR / "migrations", tmp_path / "migrations"))
    (directory / "9001_new.sql").write_text("CREATE TABLE carryout.new ()")
    return directory


async def test_the_trails_guard_has_a_fixed_search_path(database: Connection) -> None:
    settings = await database.fetchval("SELECT proconfig FROM pg_proc WHERE proname = 'refuse_audit_change'")

    assert settings == ["search_path=pg_catalog, pg_temp"]

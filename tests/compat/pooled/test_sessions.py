"""Behind PgBouncer: every statement has our settings, and a pooler that no setting names is refused with a sentence."""

from pathlib import Path

import pytest

from devstack.stack import Stack
from service.backends.database import Connection as AnyConnection
from service.backends.database import connect, open_pool
from service.bookkeeping.exports import ExportStatus
from service.errors import ConfigurationError
from service.resources import Resources
from service.settings import Settings
from tests.api.conftest import ASYNC, Create
from tests.compat.pgbouncer import open_pgbouncer, through
from tests.conftest import PUBLIC_URL
from tests.sql.databases import database_environ, with_database
from tests.support.factories import Connection, create_user_with
from tests.support.processes import run
from worker.orphans import sweep
from worker.running import run_export

OURS = {
    "search_path": "pg_catalog, pg_temp",
    "transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
}
SENTENCE = (
    "carryout: PostgreSQL is reached through a pooler: set CARRYOUT_POOLER=transaction, or add pgbouncer=true to the "
    "URL's parameters (CARRYOUT_DATABASE_URL)\n"
)
STARTUP_PARAMETERS = "search_path,default_transaction_isolation,standard_conforming_strings"


async def read_settings(connection: AnyConnection) -> dict[str, str]:
    return {name: await connection.fetchval(f"SHOW {name}") for name in OURS}


class TestSettings:
    async def test_ours_hold_for_every_statement(self, settings: Settings, database: Connection) -> None:
        """Also where the database has others."""
        name = await database.fetchval("SELECT current_database()")
        await database.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
        await database.execute(f"ALTER DATABASE {name} SET search_path = public")
        async with (
            open_pool(settings.database_url, size=1, application_name="test") as pool,
            pool.acquire() as pooled,
            connect(settings.database_url) as one,
        ):
            for connection in (pooled, one):
                assert await read_settings(connection) == OURS
                async with connection.transaction():
                    assert await read_settings(connection) == OURS
                    async with connection.transaction():
                        assert await read_settings(connection) == OURS
                assert await read_settings(connection) == OURS

    async def test_a_sessions_backend_changes(self, settings: Settings) -> None:
        """Otherwise the tests here would show nothing."""
        async with connect(settings.database_url) as connection:
            backends = {await connection.fetchval("SELECT pg_backend_pid()") for _ in range(3)}
        assert len(backends) == 3

    async def test_those_of_the_url_hold_for_the_operators_sql(self, settings: Settings) -> None:
        url = f"{settings.source_database_url}&search_path=shop,public&statement_timeout=5432"
        async with connect(url, own_search_path=True) as connection:
            for _ in range(2):
                assert await connection.fetchval("SHOW search_path") == "shop,public"
                assert await connection.fetchval("SHOW statement_timeout") == "5432ms"

    async def test_a_cursor_has_no_named_statement(self, settings: Settings) -> None:
        async with connect(settings.source_database_url, own_search_path=True) as connection, connection.transaction():
            cursor = await connection.cursor("SELECT generate_series(1, $1::int)", 3)
            assert [row[0] for row in await cursor.fetch(2)] == [1, 2]
            assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
            assert [row[0] for row in await cursor.fetch(2)] == [3]


class TestWork:
    async def test_a_worker_makes_exports_and_sweeps(
        self, create: Create, resources: Resources, database: Connection
    ) -> None:
        user_id = await create_user_with(database, 5)
        answer = (await create(user_id, headers=ASYNC)).json()
        await run_export(resources, answer["job_id"])
        async with resources.connection() as connection:
            export = await resources.exports.find(connection, answer["job_id"])
        assert export is not None
        assert export.status is ExportStatus.COMPLETED
        assert await sweep(resources)


async def test_session_mode_takes_the_same_setting(
    stack: Stack, database_url: str, common_settings: Settings, tmp_path: Path
) -> None:
    async with open_pgbouncer(tmp_path, stack.admin_url, stack.role_urls, mode="session") as port:
        url = through(with_database(common_settings.database_url, database_url.rpartition("/")[2]), port)
        async with connect(url) as connection:
            assert await read_settings(connection) == OURS


class TestUnnamed:
    async def test_is_refused_with_a_sentence(self, stack: Stack, database_url: str, pooler: int) -> None:
        ended = await run(_environ(stack, database_url, pooler), "serve")
        assert (ended.status, ended.out, ended.err) == (2, "", SENTENCE)

    @pytest.mark.parametrize("mode", ["transaction", "session"])
    async def test_also_if_it_drops_our_settings(
        self, stack: Stack, database_url: str, tmp_path: Path, mode: str
    ) -> None:
        roles = list(stack.role_urls)
        async with open_pgbouncer(tmp_path, stack.admin_url, roles, mode=mode, ignored=STARTUP_PARAMETERS) as port:
            ended = await run(_environ(stack, database_url, port), "serve")
        assert (ended.status, ended.out, ended.err) == (2, "", SENTENCE)

    async def test_a_wrong_parameter_is_named(self, settings: Settings) -> None:
        with pytest.raises(ConfigurationError, match="doesn't know the parameter no_such that the URL gives"):
            async with connect(f"{settings.database_url}&no_such=1"):
                pass


def _environ(stack: Stack, database_url: str, port: int) -> dict[str, str]:
    urls = {name: through(url, port) for name, url in database_environ(stack, database_url).items()}
    return stack.environ | urls | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}

"""The role that reads the application's data can read what is exported and no secret; one that can is reported."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from devstack.stack import Stack
from service.backends.database import Pool, open_pool
from service.documents.csv_encoder import CsvEncoder
from service.documents.datasets import Dataset, list_exposed_columns, load_datasets, load_user_lists
from service.errors import ConfigurationError, DocumentError
from service.settings import SQL_DIR, Settings
from tests.api.conftest import CSV
from tests.api.problems import bearer
from tests.conftest import Token, open_client
from tests.sql.sources import FORBIDDEN, OPERATORS_FORBIDDEN, load, open_source
from tests.support.documents import POOL_NAME, make_document
from tests.support.factories import CANARY, Connection, create_user
from tests.support.operators import create_key
from tests.support.scraping import scrape

EXPOSED = "carryout_source_exposed_columns"
ANY_TOKEN = "tokens_of_any_purpose_accepted"  # the stack has a secret, and no audience
HASH = "public.users.password_hash"


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[Connection]:
    """The sample's role, in this test's database."""
    connection = await asyncpg.connect(settings.source_database_url)
    yield connection
    await connection.close()


class TestRole:
    @pytest.mark.parametrize(
        "query",
        [
            "SELECT password_hash FROM public.users",
            "SELECT * FROM public.users",
            "SELECT u FROM public.users u",
            "SELECT to_jsonb(u) FROM public.users u",
            "SELECT count(*) FROM public.users WHERE password_hash LIKE 'c%'",
            "SELECT id FROM public.users ORDER BY password_hash",
            "COPY public.users TO STDOUT",
            "SELECT key_hash FROM carryout.api_keys",
            "SELECT * FROM carryout.export_jobs",
            "UPDATE public.users SET name = 'Eve'",
            "DELETE FROM public.content",
            "INSERT INTO public.activity (user_id, kind) SELECT id, 'x' FROM public.users",
            "CREATE TABLE public.mine (id int)",
            "SET ROLE carryout",
        ],
    )
    async def test_may_not(self, database: Connection, reader: Connection, query: str) -> None:
        await create_user(database)
        await reader.execute("SET default_transaction_read_only = off")  # its own to change: no part of the defence
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(query)

    async def test_cannot_read_a_column_that_is_added_later(self, database: Connection, reader: Connection) -> None:
        await database.execute("ALTER TABLE public.users ADD COLUMN recovery_phrase text")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute("SELECT recovery_phrase FROM public.users")

    async def test_a_dataset_that_wants_more_stops_the_start(self, reader: Connection, tmp_path: Path) -> None:
        (tmp_path / "profile.sql").write_text("SELECT id, email, password_hash AS code FROM public.users WHERE id = $1")
        with pytest.raises(ConfigurationError, match="permission denied for table users"):
            await load_datasets(reader, tmp_path, user_id_type="uuid", forbidden=())

    async def test_is_told_of_rows_that_policies_keep_back(
        self, pool: Pool, datasets: tuple[Dataset, ...], database: Connection, reader: Connection, settings: Settings
    ) -> None:
        """Both at the start and, where a policy came later, by a document that is none: it would look whole."""
        user_id = await create_user(database, activity=3)
        await database.execute("ALTER TABLE public.activity ENABLE ROW LEVEL SECURITY")
        with pytest.raises(ConfigurationError, match=r"activity\.sql: .*row-level security policy"):
            await load_datasets(reader, SQL_DIR / "datasets", user_id_type="uuid", forbidden=())
        async with open_pool(
            settings.source_database_url, size=1, application_name=POOL_NAME, own_search_path=True
        ) as restricted:
            with pytest.raises(DocumentError, match="can't be read"):
                await make_document(restricted, datasets, user_id, CsvEncoder())

        document = await make_document(pool, datasets, user_id, CsvEncoder())

        assert len(document.splitlines()) == 1 + 4

    async def test_is_all_that_exports_need(self, settings: Settings, database: Connection, token: Token) -> None:
        user_id = await create_user(database, activity=3, content=3)
        key = {"X-API-Key": await create_key(database)}
        with capture_logs() as lines:
            async with open_client(settings) as client:
                owner = bearer(token(user_id))
                answers = [
                    await client.post("/api/export", json=CSV, headers=owner),
                    await client.get("/api/export/stream?format=json", headers=owner),
                    await client.get("/api/v1/users/export", headers=key),
                    await client.get("/api/v1/users/export-full", headers=key),
                ]
                exposed = (await scrape(client)).value(EXPOSED)
        assert [answer.status_code for answer in answers] == [201, 200, 200, 200]
        assert CANARY not in "".join(answer.text for answer in answers)
        assert exposed == 0
        assert [line["event"] for line in lines if line["log_level"] == "warning"] == [ANY_TOKEN]


class TestWarning:
    async def test_a_role_that_could_read_a_secret_is_reported_once(
        self, settings: Settings, database_url: str
    ) -> None:
        exposed_settings = msgspec.structs.replace(settings, source_database_url=database_url)
        with capture_logs() as lines:
            async with open_client(exposed_settings) as client:
                exposed = (await scrape(client)).value(EXPOSED)
        warning, other = [line for line in lines if line["log_level"] == "warning"]
        assert other["event"] == ANY_TOKEN
        assert warning["event"] == "source_role_can_read_forbidden_columns"
        assert warning["columns"] == [HASH]
        assert exposed == 1

    async def test_the_operators_columns_do_not_count_as_exposed(self, database: Connection) -> None:
        datasets = await load_datasets(database, SQL_DIR / "datasets", user_id_type="uuid", forbidden=FORBIDDEN)
        lists = await load_user_lists(database, SQL_DIR / "datasets", forbidden=OPERATORS_FORBIDDEN)
        assert await list_exposed_columns(database, datasets, forbidden=FORBIDDEN) == ["public.users.internal_id", HASH]
        assert await list_exposed_columns(database, list(lists.values()), forbidden=OPERATORS_FORBIDDEN) == [HASH]

    @pytest.mark.parametrize(
        ("sql", "exposed"),
        [
            ("SELECT id, title FROM posts WHERE user_id = $1 ORDER BY id", []),
            ("SELECT id, platform FROM device_tokens WHERE user_id = $1 ORDER BY id", ["public.device_tokens.token"]),
            ("SELECT id, called FROM people WHERE id = $1 ORDER BY id", [HASH, "public.users.internal_id"]),
            ("SELECT id FROM vault WHERE user_id = $1 ORDER BY id", ["public.vault.secret", "public.vault_0.secret"]),
        ],
        ids=["none", "table", "view", "partition"],
    )
    async def test_every_table_that_is_read_counts(
        self, server_url: str, tmp_path: Path, sql: str, exposed: list[str]
    ) -> None:
        async with open_source(server_url) as source:
            await source.execute("""
                CREATE TABLE vault (id int, user_id uuid NOT NULL, secret text, PRIMARY KEY (user_id, id))
                  PARTITION BY HASH (user_id);
                CREATE TABLE vault_0 PARTITION OF vault FOR VALUES WITH (MODULUS 1, REMAINDER 0);
            """)
            profile = "SELECT $1::uuid AS id, 'ada@example.com' AS email"
            datasets = await load(source, tmp_path, {"profile.sql": profile, "things.sql": sql})
            assert await list_exposed_columns(source, datasets, forbidden=FORBIDDEN) == sorted(exposed)


class TestStack:
    async def test_the_password_is_private(self, postgres: Stack) -> None:
        secrets_file = postgres.data_dir / "secrets.json"
        assert json.loads(secrets_file.read_bytes())["reader_password"] == postgres.reader_password
        assert secrets_file.stat().st_mode & 0o777 == 0o600
        assert postgres.postgres
        assert postgres.reader_password not in {"", postgres.postgres.url.split(":")[2].partition("@")[0]}

"""A document belongs to the user whose id is exactly the token's `sub`, even where the database takes ids for equal."""

import datetime as dt
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from uuid import UUID

import httpx
import msgspec
import pytest

from devstack.stack import Stack
from onboarding.checking import check
from onboarding.initializing import Options, initialize
from service.access.tokens import create_token
from service.backends.database import Connection, connect, open_pool
from service.documents.datasets import Dataset
from service.documents.json_encoder import JsonEncoder
from service.documents.subjects import find_owner
from service.errors import ConfigurationError, DocumentError, SubjectNotFoundError
from service.settings import Settings
from service.user_ids import UserId
from tests.api.problems import bearer
from tests.sql.databases import migrate_as_owner, open_database, with_text_ids
from tests.sql.sources import FORBIDDEN, OPERATORS_FORBIDDEN, Folder, load
from tests.support.documents import POOL_NAME, make_document

PROFILE = "SELECT id, email FROM public.users WHERE id = $1"
ALIKE = ["ALICE", "alic\u00e9", "\uff21\uff2c\uff29\uff23\uff25"]
# Without ICU PostgreSQL has none, and compares by this one byte by byte; but its catalog says the same of it.
COLLATIONS = {
    True: "CREATE COLLATION level1 (provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
    False: "CREATE COLLATION level1 (provider = libc, locale = 'C');"
    "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'level1'",
}
HAS_ICU = "SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu')"
SCHEMA = """
CREATE DOMAIN folded AS text COLLATE level1;
CREATE TABLE users (id text PRIMARY KEY, email text NOT NULL, nick text COLLATE level1);
CREATE TABLE loose_users (id text COLLATE level1 PRIMARY KEY, email text NOT NULL);
CREATE TABLE domain_users (id folded PRIMARY KEY, email text NOT NULL);
CREATE TABLE orders (
  id int PRIMARY KEY, user_id text NOT NULL, loose_id text COLLATE level1, ids text[] COLLATE level1
);
CREATE TABLE parts (id int PRIMARY KEY, user_id text COLLATE level1 NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (9);
CREATE VIEW seen AS SELECT id, loose_id AS owner FROM orders;
INSERT INTO users VALUES ('alice', 'alice@example.com', 'Al');
INSERT INTO loose_users VALUES ('alice', 'alice@example.com');
INSERT INTO domain_users VALUES ('alice', 'alice@example.com');
"""


@pytest.fixture
async def source_url(stack: Stack) -> AsyncIterator[str]:
    async with open_database(stack.admin_url) as url:
        async with connect(url, own_search_path=True) as connection:
            await connection.execute(COLLATIONS[await connection.fetchval(HAS_ICU)])
            await connection.execute(SCHEMA)
        yield url


@pytest.fixture
async def source(source_url: str) -> AsyncIterator[Connection]:
    async with connect(source_url, own_search_path=True) as connection:
        yield connection


async def refusal(source: Connection, folder: Path, sql: str, *, name: str = "orders.sql") -> str:
    files: Folder = {"profile.sql": PROFILE, name: sql}
    with pytest.raises(ConfigurationError) as raised:
        await load(source, folder, files, user_id_type="text")
    return raised.value.detail


async def profile_by(source: Connection, folder: Path, condition: str, *, table: str = "users") -> list[Dataset]:
    """A profile that the check at the start would refuse."""
    (profile,) = await load(source, folder, {"profile.sql": PROFILE}, user_id_type="text")
    return [msgspec.structs.replace(profile, sql=f"SELECT id, email FROM {table} WHERE {condition}")]


class TestProfileId:
    """The last defence, for profiles that passed the check at the start."""

    @pytest.mark.parametrize("stranger", [*ALIKE, "alice ", "Alice", "bob"])
    @pytest.mark.parametrize(
        "condition",
        ["id COLLATE level1 = $1", "lower(id) = lower(trim($1))", "$1::text IS NOT NULL", "id ILIKE $1"],
    )
    async def test_must_be_the_users(
        self, source_url: str, source: Connection, tmp_path: Path, condition: str, stranger: str
    ) -> None:
        async with open_pool(source_url, size=1, application_name=POOL_NAME, own_search_path=True) as pool:
            datasets = await profile_by(source, tmp_path, condition)
            assert b"alice@example.com" in await make_document(pool, datasets, "alice", JsonEncoder())
            with pytest.raises(SubjectNotFoundError):
                await make_document(pool, datasets, stranger, JsonEncoder())

    @pytest.mark.parametrize(
        ("id_", "user_id"),
        [
            ("7::numeric(20, 2)", 7),
            ("'7'", 7),
            ("'ABCDEFAB-0000-4000-8000-00000000000A'", UUID("abcdefab-0000-4000-8000-00000000000a")),
            ("'alice'::char(10)", "alice"),
        ],
    )
    async def test_may_be_of_another_type(
        self, source_url: str, source: Connection, tmp_path: Path, id_: str, user_id: UserId
    ) -> None:
        parameter = {UUID: "uuid", int: "bigint", str: "text"}[type(user_id)]
        people = f"(SELECT {id_} AS id, 'ada@example.com' AS email) AS people"
        async with open_pool(source_url, size=1, application_name=POOL_NAME, own_search_path=True) as pool:
            datasets = await profile_by(source, tmp_path, f"$1::{parameter} IS NOT NULL", table=people)
            assert b"ada@example.com" in await make_document(pool, datasets, user_id, JsonEncoder())

    async def test_must_not_be_among_others(self, source_url: str, source: Connection, tmp_path: Path) -> None:
        await source.execute("INSERT INTO users VALUES ('ALICE', 'other@example.com')")
        async with open_pool(source_url, size=1, application_name=POOL_NAME, own_search_path=True) as pool:
            datasets = await profile_by(source, tmp_path, "lower(id) = lower($1)")
            with pytest.raises(DocumentError, match="more than one row"):
                await make_document(pool, datasets, "alice", JsonEncoder())

    async def test_decides_whose_address_a_mail_goes_to(self, source: Connection, tmp_path: Path) -> None:
        await source.execute("DELETE FROM users")
        await source.execute("INSERT INTO users VALUES ('ALICE', 'other@example.com'), ('alice', 'alice@example.com')")
        (profile,) = await profile_by(source, tmp_path, "lower(id) = lower($1)")
        for user_id, address in (("alice", "alice@example.com"), ("ALICE", "other@example.com")):
            owner = await find_owner(
                source, profile, user_id, since=dt.datetime.now(dt.UTC), expressions=', "row".email AS email'
            )
            assert owner
            assert owner["email"] == address


class TestDatasets:
    @pytest.mark.parametrize(
        ("sql", "fault"),
        [
            ("SELECT id FROM orders WHERE loose_id = $1 ORDER BY id", "public.orders.loose_id, .* a collation"),
            ("SELECT id FROM orders WHERE id > 3 OR loose_id = $1 ORDER BY id", "public.orders.loose_id"),
            ("SELECT id FROM orders WHERE $1 = ANY (ids) ORDER BY id", "public.orders.ids"),
            ("SELECT id FROM parts WHERE user_id = $1 ORDER BY id", "public.parts.user_id"),
            ("SELECT id FROM seen WHERE owner = $1 ORDER BY id", "public.orders.loose_id"),
            (
                "SELECT o.id FROM orders o JOIN users u ON u.id = o.loose_id WHERE u.id = $1 ORDER BY o.id",
                "public.orders.loose_id",
            ),
            (
                "SELECT o.id FROM orders o WHERE EXISTS (SELECT FROM domain_users u WHERE u.id = $1) ORDER BY o.id",
                "public.domain_users.id",
            ),
            ("SELECT id FROM orders WHERE user_id COLLATE level1 = $1 ORDER BY id", "COLLATE level1"),
            ('SELECT id FROM orders WHERE user_id = $1 COLLATE public . "level1" ORDER BY id', "COLLATE level1"),
            ("SELECT id FROM orders WHERE lower(user_id) = lower($1) ORDER BY id", r"lower\(\)"),
            (
                "SELECT o.id FROM orders o JOIN users u ON lower(user_id) = lower(u.id) WHERE u.id = $1 ORDER BY o.id",
                r"user's id by lower\(\)",
            ),
            ("SELECT id FROM orders WHERE user_id = trim($1) ORDER BY id", r"btrim\(\)"),
            ("SELECT id FROM orders WHERE user_id LIKE $1 ORDER BY id", "the operator ~~ of text"),
            ("SELECT id FROM orders WHERE user_id ~* $1 ORDER BY id", r"the operator ~\* of text"),
            ("SELECT id FROM orders WHERE user_id = $1 || '' ORDER BY id", r"the operator \|\| of text"),
            ("SELECT id FROM orders WHERE user_id = $1::text::varchar(3) ORDER BY id", "varying"),
            ("SELECT id FROM orders WHERE user_id = $1::text::name ORDER BY id", "a cast to name"),
        ],
    )
    async def test_that_take_unlike_ids_for_the_same(
        self, source: Connection, tmp_path: Path, sql: str, fault: str
    ) -> None:
        detail = await refusal(source, tmp_path, sql)
        assert detail.startswith("Dataset orders.sql: ")
        assert re.search(fault, detail), detail

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT id FROM orders WHERE user_id = $1 ORDER BY id",
            "SELECT id FROM orders WHERE user_id = $1 AND loose_id = 'x' ORDER BY id",
            'SELECT id FROM orders WHERE loose_id COLLATE "C" = $1 ORDER BY id',
            "SELECT id FROM orders WHERE coalesce(user_id, 'x') = $1 OR user_id IS NOT DISTINCT FROM $1 ORDER BY id",
            "SELECT id FROM orders WHERE user_id = $1::text::varchar AND lower(loose_id) = 'x' ORDER BY id",
            "SELECT id FROM orders WHERE user_id IN (SELECT id FROM users WHERE id = $1) ORDER BY id",
            "SELECT o.id FROM orders o JOIN users u ON u.id = user_id WHERE u.id = $1 AND nick = loose_id ORDER BY 1",
            "SELECT id FROM orders, (SELECT min(id) AS m FROM orders) AS n WHERE user_id = $1 AND id > m ORDER BY id",
            "SELECT id FROM orders WHERE user_id = $1 AND id > (SELECT 2) AND id < (SELECT 9) ORDER BY id",
        ],
    )
    async def test_that_compare_ids_byte_by_byte(self, source: Connection, tmp_path: Path, sql: str) -> None:
        assert await load(source, tmp_path, {"profile.sql": PROFILE, "orders.sql": sql}, user_id_type="text")

    async def test_a_type_with_an_equality_of_its_own(self, source: Connection, tmp_path: Path) -> None:
        if await source.fetchval("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext')"):
            await source.execute("CREATE EXTENSION citext")
        else:  # as good as the extension's, for the check
            await source.execute("CREATE TYPE citext AS RANGE (subtype = text)")
        assert await source.fetchval("SELECT to_regtype('citext') IS NOT NULL")
        await source.execute("CREATE TABLE members (id citext PRIMARY KEY, email text)")
        await source.execute("CREATE TABLE letters (id int PRIMARY KEY, member citext)")
        joined = "SELECT l.id FROM letters l JOIN members m ON m.id = l.member WHERE m.id::text = $1 ORDER BY l.id"
        assert re.search(
            r"by the operator = of (public\.)?citext|by a cast to text", await refusal(source, tmp_path, joined)
        )

    async def test_whatever_the_database_is_set_to(self, source: Connection, tmp_path: Path) -> None:
        await source.execute("SET quote_all_identifiers = on; SET enable_seqscan = off; SET enable_sort = off")
        joined = "SELECT o.id FROM orders o JOIN users u ON u.id = o.loose_id WHERE u.id = $1 ORDER BY o.id"
        assert "public.orders.loose_id" in await refusal(source, tmp_path, joined)

    @pytest.mark.parametrize("table", ["loose_users", "domain_users"])
    async def test_a_profile(self, source: Connection, tmp_path: Path, table: str) -> None:
        sql = f"SELECT id, email FROM {table} WHERE id = $1"
        assert f"public.{table}.id" in await refusal(source, tmp_path, sql, name="profile.sql")

    async def test_init_refuses_it(self, source: Connection, tmp_path: Path) -> None:
        options = Options(
            directory=tmp_path, users_table="loose_users", forbidden=FORBIDDEN, list_forbidden=OPERATORS_FORBIDDEN
        )
        with pytest.raises(ConfigurationError, match=r"public\.loose_users\.id, which the user's id is compared with"):
            await initialize(source, options)

    async def test_check_reports_it(self, source: Connection, tmp_path: Path) -> None:
        (tmp_path / "profile.sql").write_text(
            "-- users: public.loose_users\n-- table: public.loose_users\n"
            "SELECT id, email FROM loose_users WHERE id = $1"
        )
        (stale,) = (await check(source, tmp_path)).stale
        assert stale.startswith("profile.sql doesn't work: public.loose_users.id, which")


class TestApi:
    @pytest.fixture
    def settings(self, stack: Stack, common_settings: Settings, source_url: str, tmp_path: Path) -> Settings:
        (tmp_path / "profile.sql").write_text(PROFILE)
        return with_text_ids(common_settings, stack, source_url, datasets=tmp_path)

    @pytest.fixture(autouse=True)
    async def _migrated(self, stack: Stack, source_url: str) -> None:
        await migrate_as_owner(stack, source_url, "text")

    @pytest.mark.parametrize("stranger", ALIKE)
    async def test_strangers_get_nothing(
        self, source: Connection, settings: Settings, api: httpx.AsyncClient, stranger: str
    ) -> None:
        """Though the column's collation changed after the start."""
        await source.execute("ALTER TABLE users ALTER id TYPE text COLLATE level1")
        signed_in = bearer(create_token(settings, stranger, 60))
        created = await api.post("/api/export", json={"format": "csv"}, headers=signed_in)
        streamed = await api.get("/api/export/stream?format=csv", headers=signed_in)
        assert (created.status_code, streamed.status_code) == (HTTPStatus.NOT_FOUND, HTTPStatus.NOT_FOUND)
        alice = bearer(create_token(settings, "alice", 60))
        assert (await api.post("/api/export", json={"format": "csv"}, headers=alice)).status_code == HTTPStatus.CREATED

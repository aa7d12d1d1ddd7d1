import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from ipaddress import IPv6Address
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from devstack.sample import (
    ADA,
    MALLORY,
    USER_999,
    USER_1000,
    USER_50000,
    USER_100000,
    USER_100001,
    load_sample,
)
from service.backends.database import Connection
from service.settings import SQL_DIR
from tests.sql.databases import open_database, open_transaction

CANARY = "canary-never-exported-"
SAMPLE_DATASETS = SQL_DIR / "datasets"

HOSTILE_TEXTS: dict[str, Callable[[str], object]] = {
    "comma": lambda text: "," in text,
    "double quote": lambda text: '"' in text,
    "CR LF inside": lambda text: "\r\n" in text,
    "LF alone": re.compile(r"(?<!\r)\n").search,
    "leading =": lambda text: text.startswith("="),
    "leading +": lambda text: text.startswith("+"),
    "leading -": lambda text: text.startswith("-"),
    "leading @": lambda text: text.startswith("@"),
    "leading TAB": lambda text: text.startswith("\t"),
    "leading CR": lambda text: text.startswith("\r"),
    "leading apostrophe": lambda text: text.startswith("'="),
    "backslash": lambda text: "\\" in text,
    "emoji": lambda text: "\N{ROCKET}" in text and "\N{ZERO WIDTH JOINER}" in text,
    "right to left": lambda text: "\N{RIGHT-TO-LEFT OVERRIDE}" in text,
    "byte order mark": lambda text: text.startswith("\ufeff"),
    "control character": lambda text: "\x1b" in text,
    "300 characters": lambda text: len(text) == 300,
    "empty": lambda text: not text,
}
HOSTILE_COLUMNS = [
    "SELECT name FROM public.users",
    "SELECT kind FROM public.activity",
    "SELECT title FROM public.content",
    "SELECT body FROM public.content WHERE body IS NOT NULL",
]


@pytest.fixture(scope="module")
async def sample_url(server_url: str) -> AsyncIterator[str]:
    async with open_database(server_url) as url:
        await load_sample(url)
        yield url


@pytest.fixture
async def sample(sample_url: str) -> AsyncIterator[Connection]:
    async with open_transaction(sample_url) as connection:
        yield connection


def read_dataset(name: str) -> str:
    return (SAMPLE_DATASETS / f"{name}.sql").read_text(encoding="utf-8")


async def explain(connection: Connection, sql: str, user_id: UUID) -> dict[str, Any]:
    """The plan's top node."""
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", user_id)
    top: dict[str, Any] = msgspec.json.decode(text)[0]["Plan"]
    return top


async def count_records(connection: Connection, user_id: UUID) -> int:
    counts = [
        await connection.fetchval(f"SELECT count(*) FROM ({read_dataset(name)}) AS dataset", user_id)
        for name in ("profile", "activity", "content")
    ]
    return sum(counts)


@pytest.mark.parametrize(
    ("user_id", "records"),
    [
        (ADA, 400),
        (USER_999, 999),
        (USER_1000, 1_000),
        (USER_50000, 50_000),
        (USER_100000, 100_000),
        (USER_100001, 100_001),
    ],
)
async def test_well_known_users_have_exactly_their_records(sample: Connection, user_id: UUID, records: int) -> None:
    assert await count_records(sample, user_id) == records


async def test_ada_has_the_address_that_the_documentation_names(sample: Connection) -> None:
    assert await sample.fetchval("SELECT id FROM public.users WHERE email = 'ada@example.com'") == ADA


async def test_ada_did_the_same_things_on_every_load(sample: Connection) -> None:
    row = await sample.fetchrow(f"{read_dataset('activity')} OFFSET 99 LIMIT 1", ADA)

    assert row is not None
    assert tuple(row)[1:] == (
        "purchase",
        IPv6Address("2001:db8::64"),
        '{"order": 100, "total": 1.00, "coupon": null}',
        datetime(2024, 5, 11, 21, tzinfo=UTC),
    )


async def test_most_users_have_an_everyday_number_of_records(sample: Connection) -> None:
    counts = await sample.fetch("""
        SELECT 1 + (SELECT count(*) FROM public.activity WHERE user_id = u.id)
                 + (SELECT count(*) FROM public.content WHERE user_id = u.id) AS records
        FROM public.users AS u
    """)

    everyday = [row["records"] for row in counts if 20 <= row["records"] <= 400]

    assert 290 <= len(counts) <= 310
    assert len(counts) - len(everyday) == 5  # the well-known ones but Ada
    assert len(set(everyday)) > 100


@pytest.mark.parametrize("column", HOSTILE_COLUMNS)
async def test_every_text_column_holds_every_hostile_shape(sample: Connection, column: str) -> None:
    texts = [row[0] for row in await sample.fetch(column)]

    assert [shape for shape, matches in HOSTILE_TEXTS.items() if not any(map(matches, texts))] == []


@pytest.mark.parametrize(
    "condition",
    [
        "ip IS NULL",
        "family(ip) = 6",
        "family(ip) = 4 AND masklen(ip) < 32",
        "detail IS NULL",
        "detail = 'null'",
        r"""detail::text LIKE '%\\"quoted\\"%'""",
        r"detail::text LIKE '%C:\\\\temp\\\\new%'",
        r"""detail::text LIKE '%\\\\\\"%'""",  # JSON text within JSON text
        "jsonb_typeof(detail) = 'string'",
        "detail::text = '123456789012345678901234567890'",
    ],
)
async def test_mallorys_activity_holds_every_odd_value(sample: Connection, condition: str) -> None:
    found = await sample.fetchval(f"SELECT count(*) FROM public.activity WHERE user_id = $1 AND {condition}", MALLORY)

    assert found > 0


async def test_a_missing_body_and_an_empty_one_are_both_there(sample: Connection) -> None:
    bodies = await sample.fetch("SELECT body FROM public.content WHERE user_id = $1", MALLORY)

    assert {None, ""} <= {row["body"] for row in bodies}


async def test_one_stored_address_looks_like_two(sample: Connection) -> None:
    assert await sample.fetchval("SELECT count(*) FROM public.users WHERE email LIKE '%@%, %@%'") == 1


async def test_every_password_hash_is_a_canary(sample: Connection) -> None:
    hashes = await sample.fetch("SELECT password_hash FROM public.users")

    assert all(CANARY in row["password_hash"] for row in hashes)
    assert len({row["password_hash"] for row in hashes}) == len(hashes)


async def test_neighbours_share_an_instant(sample: Connection) -> None:
    """Only the unique end of ORDER BY then puts them in an order."""
    instants = await sample.fetchval(
        "SELECT count(DISTINCT occurred_at)::float / count(*) FROM public.activity WHERE user_id = $1", ADA
    )

    assert instants < 0.6


async def test_a_row_needs_only_what_has_no_default(sample: Connection) -> None:
    user = await sample.fetchrow("""
        INSERT INTO public.users (email, name, password_hash) VALUES ('new@example.com', 'New', 'x') RETURNING *
    """)
    assert user is not None
    await sample.execute(
        "INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at) VALUES ($1, 'k', NULL, NULL, now())",
        user["id"],
    )
    await sample.execute(
        "INSERT INTO public.content (user_id, title, body, created_at) VALUES ($1, 't', NULL, now())", user["id"]
    )

    assert (user["is_active"], user["is_admin"]) == (True, False)
    assert user["created_at"] == user["updated_at"]
    assert await count_records(sample, user["id"]) == 3


async def test_a_user_takes_all_records_along(sample: Connection) -> None:
    await sample.execute("DELETE FROM public.users WHERE id = $1", ADA)

    assert await count_records(sample, ADA) == 0


async def test_loading_again_changes_nothing(sample_url: str, sample: Connection) -> None:
    counts = "SELECT (SELECT count(*) FROM public.users), (SELECT count(*) FROM public.activity)"
    before = await sample.fetchrow(counts)

    await load_sample(sample_url)

    assert await sample.fetchrow(counts) == before


async def test_loading_spares_an_application_that_is_there_already(empty_url: str) -> None:
    connection = await asyncpg.connect(empty_url)
    await connection.execute("CREATE TABLE public.users (login text)")

    await load_sample(empty_url)

    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    assert [row["tablename"] for row in tables] == ["users"]


async def test_loading_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    connection = await asyncpg.connect(empty_url)
    await connection.execute("CREATE TABLE public.content (page text)")

    with pytest.raises(asyncpg.DuplicateTableError):
        await load_sample(empty_url)

    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    assert [row["tablename"] for row in tables] == ["content"]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("profile", ["id", "email", "name", "created_at"]),
        ("activity", ["id", "kind", "ip", "detail", "occurred_at"]),
        ("content", ["id", "title", "body", "created_at"]),
    ],
)
async def test_datasets_take_a_uuid_and_give_their_columns(sample: Connection, name: str, columns: list[str]) -> None:
    statement = await sample.prepare(read_dataset(name))

    assert [parameter.name for parameter in statement.get_parameters()] == ["uuid"]
    assert [attribute.name for attribute in statement.get_attributes()] == columns


@pytest.mark.parametrize("name", ["activity", "content"])
async def test_an_index_gives_adas_records_in_order(sample: Connection, name: str) -> None:
    plan = await explain(sample, read_dataset(name), ADA)

    assert (plan["Node Type"], plan["Index Name"]) == ("Index Scan", f"{name}_by_user")


@pytest.mark.parametrize("name", ["activity", "content"])
async def test_the_index_can_serve_one_who_owns_a_third_of_the_table(sample: Connection, name: str) -> None:
    """Left alone, the planner may rightly prefer to read the table and sort."""
    await sample.execute("SET LOCAL enable_sort = off")

    plan = await explain(sample, read_dataset(name), USER_100000)

    assert (plan["Node Type"], plan["Index Name"]) == ("Index Scan", f"{name}_by_user")

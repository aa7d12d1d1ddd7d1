"""Which dataset files the start accepts, and the one sentence with which it refuses the others."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from service.backends.database import Connection
from service.documents.datasets import csv_names, list_exposed_columns, load_datasets
from service.settings import SQL_DIR
from tests.sql.sources import PROFILE, Folder, load, open_source, refusal

BY_KEY = "SELECT id, title FROM posts WHERE user_id = $1 ORDER BY id"
STAR = "`*` would export columns that were not chosen; list the columns"
FILE_NAME = "its file name must be lower-case letters, digits and underscores, and not reserved"

ACCEPTED = {
    "comments and a semicolon": "-- all of *\nSELECT /* not * */ id FROM posts WHERE user_id = $1 ORDER BY id; ",
    "comment at the end": "SELECT id FROM posts WHERE user_id = $1 ORDER BY id -- by * key",
    "comment behind the semicolon": "SELECT id FROM posts WHERE user_id = $1 ORDER BY id; -- by key",
    "byte order mark": "\ufeff-- title: Posts\nSELECT id FROM posts WHERE user_id = $1 ORDER BY id",
    "products": "SELECT id, number * 2 AS twice, '2' * (number) * 3 AS more FROM posts WHERE user_id = $1 ORDER BY id",
    "forbidden words in literals": (
        "SELECT id, 'password_hash, u.*' AS hint, $$ password $$ AS other FROM posts WHERE user_id = $1 ORDER BY id"
    ),
    "odd names": 'SELECT "the id", "Group" AS "select" FROM "Odd Table" WHERE "User" = $1 ORDER BY "the id"',
}
REFUSED = {
    "star": ("SELECT * FROM posts WHERE user_id = $1 ORDER BY id", STAR),
    "qualified star": ("SELECT p.* FROM posts p WHERE user_id = $1 ORDER BY p.id", STAR),
    "star after columns": ("SELECT id, * FROM posts WHERE user_id = $1 ORDER BY id", STAR),
    "star before columns": ("SELECT *, 1 AS one FROM posts WHERE user_id = $1 ORDER BY id", STAR),
    "star after a quoted name": ('SELECT id AS "--", * FROM posts WHERE user_id = $1 ORDER BY id', STAR),
    "star after DISTINCT ON": ("SELECT DISTINCT ON (id) * FROM posts WHERE user_id = $1 ORDER BY id", STAR),
    "star in a subquery": ("SELECT id FROM (SELECT * FROM posts) p WHERE user_id = $1 ORDER BY id", STAR),
    "forbidden name": (
        "SELECT id, password_hash FROM users WHERE id = $1 ORDER BY id",
        "column password_hash is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)",
    ),
    "forbidden alias": (
        'SELECT id, name AS "API_Key" FROM users WHERE id = $1 ORDER BY id',
        "column API_Key is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)",
    ),
    "no parameter": (
        "SELECT id FROM posts ORDER BY id",
        "it must have exactly one parameter, $1, the user's id; it has 0",
    ),
    "two parameters": (
        "SELECT id FROM posts WHERE user_id = $1 AND id > $2 ORDER BY id",
        "it must have exactly one parameter, $1, the user's id; it has 2",
    ),
    "parameter of another type": (
        "SELECT id FROM posts WHERE id = $1 ORDER BY id",
        "$1 is int8, but user ids are uuid (CARRYOUT_USER_ID_TYPE): write $1::uuid",
    ),
    "one name twice": (
        "SELECT p.id, u.id FROM posts p JOIN users u ON u.id = p.user_id WHERE u.id = $1 ORDER BY 1",
        "two columns are called id",
    ),
    "no name": ("SELECT 1 + 1 FROM posts WHERE user_id = $1 ORDER BY id", "an expression has no name; add AS"),
    "no columns": ("SELECT FROM posts WHERE user_id = $1 ORDER BY id", "it has no columns"),
    "two statements": ("SELECT id FROM posts WHERE user_id = $1 ORDER BY id; SELECT 1", 'syntax error at or near ";"'),
    "insert": ("INSERT INTO avatars (user_id) VALUES ($1) RETURNING user_id", 'syntax error at or near "INTO"'),
    "insert in a CTE": (
        (
            "WITH i AS (INSERT INTO avatars (user_id) VALUES ($1) RETURNING user_id) SELECT user_id "
            "FROM i ORDER BY user_id"
        ),
        "WITH clause containing a data-modifying statement must be at the top level",
    ),
    "syntax error": (
        "SELECT id FROM posts WHERE user_id == $1 ORDER BY id",
        "operator does not exist: uuid == unknown",
    ),
    "missing table": ("SELECT id FROM poosts WHERE user_id = $1 ORDER BY id", 'relation "poosts" does not exist'),
    "missing column": ("SELECT idd FROM posts WHERE user_id = $1 ORDER BY id", 'column "idd" does not exist'),
    "empty": ("", 'syntax error at or near ")"'),
    "not UTF-8": (b"SELECT id AS \xff FROM posts", "it is not UTF-8"),
}


@pytest.fixture(scope="module")
async def source(server_url: str) -> AsyncIterator[Connection]:
    async with open_source(server_url) as connection:
        yield connection


@pytest.mark.parametrize("sql", ACCEPTED.values(), ids=ACCEPTED)
async def test_a_sound_dataset_is_accepted(source: Connection, tmp_path: Path, sql: str) -> None:
    datasets = await load(source, tmp_path, {"profile.sql": PROFILE, "things.sql": sql})

    assert [dataset.name for dataset in datasets] == ["profile", "things"]


@pytest.mark.parametrize(("sql", "sentence"), REFUSED.values(), ids=REFUSED)
async def test_a_dataset_that_breaks_a_rule_is_refused(
    source: Connection, tmp_path: Path, sql: str | bytes, sentence: str
) -> None:
    detail = await refusal(source, tmp_path, {"profile.sql": PROFILE, "things.sql": sql})

    assert detail == f"Dataset things.sql: {sentence}"


@pytest.mark.parametrize(
    "name", ["Things.sql", "2things.sql", "my-things.sql", "thíngs.sql", "user.sql", "exported_at.sql", "end.sql"]
)
async def test_a_file_name_that_makes_no_good_key_is_refused(source: Connection, tmp_path: Path, name: str) -> None:
    detail = await refusal(source, tmp_path, {"profile.sql": PROFILE, name: BY_KEY})

    assert detail == f"Dataset {name}: {FILE_NAME}"


async def test_a_folder_without_a_profile_is_refused(source: Connection, tmp_path: Path) -> None:
    detail = await refusal(source, tmp_path, {"things.sql": BY_KEY})

    assert detail == f"CARRYOUT_DATASETS_DIR: {tmp_path} holds no profile.sql"


@pytest.mark.parametrize("column", ["id", "email"])
async def test_a_profile_needs_an_id_and_an_address(source: Connection, tmp_path: Path, column: str) -> None:
    profile = f"SELECT {column} FROM users WHERE id = $1"
    missing = {"id": "email", "email": "id"}[column]

    detail = await refusal(source, tmp_path, {"profile.sql": profile})

    assert detail == f"Dataset profile.sql: it has no column {missing}, which every profile needs"


async def test_two_columns_that_share_a_csv_name_are_refused(source: Connection, tmp_path: Path) -> None:
    files: Folder = {
        "profile.sql": PROFILE,
        "posts.sql": "SELECT id, id AS by_me_id FROM posts WHERE user_id = $1 ORDER BY id",
        "posts_by_me.sql": BY_KEY,
    }

    detail = await refusal(source, tmp_path, files)

    assert detail == "Two columns of the CSV would be called posts_by_me_id: rename a dataset or a column"


async def test_another_type_of_user_ids_is_asked_for(source: Connection, tmp_path: Path) -> None:
    datasets = await load(
        source,
        tmp_path,
        {"profile.sql": "SELECT id, title AS email FROM posts WHERE id = $1"},
        user_id_type="bigint",
    )

    assert csv_names(datasets) == ["user_id", "email"]


async def test_the_profile_comes_first_and_the_others_by_name(source: Connection, tmp_path: Path) -> None:
    sql = BY_KEY

    datasets = await load(source, tmp_path, {"zebras.sql": sql, "profile.sql": PROFILE, "apes.sql": sql})

    assert [dataset.name for dataset in datasets] == ["profile", "apes", "zebras"]
    assert csv_names(datasets) == ["user_id", "email", "name", "apes_id", "apes_title", "zebras_id", "zebras_title"]


async def test_columns_carry_the_types_that_encoders_ask_for(source: Connection, tmp_path: Path) -> None:
    (profile,) = await load(
        source, tmp_path, {"profile.sql": "SELECT id, email, tags, settings FROM users WHERE id = $1"}
    )

    types = [(column.name, column.type_name, column.category) for column in profile.columns]

    assert types == [("id", "uuid", "U"), ("email", "text", "S"), ("tags", "_text", "A"), ("settings", "jsonb", "U")]


async def test_a_role_may_know_the_tables_through_views_alone(source: Connection, tmp_path: Path) -> None:
    role = f"reader_{uuid4().hex}"
    transaction = source.transaction()
    await transaction.start()
    try:
        await source.execute(
            f"CREATE SCHEMA hidden; CREATE TABLE hidden.people (id uuid PRIMARY KEY, email text, password_hash text);"
            f"CREATE SCHEMA api; CREATE VIEW api.people AS SELECT id, email FROM hidden.people;"
            f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA api TO {role}; GRANT SELECT ON api.people TO {role};"
            f"SET LOCAL ROLE {role}"
        )
        profile = "SELECT id, email FROM api.people WHERE id = $1"

        datasets = await load(source, tmp_path, {"profile.sql": profile, "things.sql": f"{profile} ORDER BY id"})

        assert [dataset.tables for dataset in datasets] == [(("hidden", "people"),)] * 2
        assert await list_exposed_columns(source, datasets, forbidden=["*"]) == []
    finally:
        await transaction.rollback()


async def test_checking_leaves_the_session_as_it_was(source: Connection, tmp_path: Path) -> None:
    settings = "SELECT name, setting FROM pg_settings WHERE name LIKE 'enable_%' OR name = 'plan_cache_mode' ORDER BY 1"
    before = await source.fetch(settings)

    await load(source, tmp_path, {"profile.sql": PROFILE, "things.sql": BY_KEY})

    assert await source.fetch(settings) == before
    assert not source.is_in_transaction()
    assert await source.fetch("SELECT name FROM pg_prepared_statements WHERE name = 'carryout_dataset'") == []


async def test_the_sample_datasets_are_sound(database: Connection) -> None:
    datasets = await load_datasets(
        database, SQL_DIR / "datasets", user_id_type="uuid", forbidden=["*_hash", "internal_id"]
    )

    assert csv_names(datasets) == [
        *("user_id", "email", "name", "created_at"),
        *("activity_id", "activity_kind", "activity_ip", "activity_detail", "activity_occurred_at"),
        *("content_id", "content_title", "content_body", "content_created_at"),
    ]

"""Which files of operators' lists the start accepts, and by which columns their downloads are resumed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.backends.database import Connection
from service.documents.datasets import load_lists
from service.errors import ConfigurationError
from service.settings import SQL_DIR
from tests.sql.sources import OPERATORS_FORBIDDEN, open_source

BY_COLUMNS = "its ORDER BY must name columns of the list, ascending, so that it can be resumed"
KEYS = {
    "uuid": ("SELECT id, email FROM users ORDER BY id", ["id"]),
    "text": ("SELECT user_id, code FROM notes ORDER BY code", ["code"]),
    "composite": ("SELECT post_id, user_id FROM likes ORDER BY user_id, post_id", ["user_id", "post_id"]),
    "more than the unique columns": ("SELECT at, id, title FROM posts ORDER BY at, id", ["at", "id"]),
    "by another name": ("SELECT title, id AS post FROM posts ORDER BY post", ["post"]),
    "by its place": ("SELECT title, id FROM posts ORDER BY 2", ["id"]),
    "of a view": ("SELECT called, id FROM people ORDER BY id", ["id"]),
    "of a partitioned table": ("SELECT id, at, kind FROM events ORDER BY at, id", ["at", "id"]),
    "of several tables": (
        "SELECT u.email, p.id, p.title FROM posts p JOIN users u ON u.id = p.user_id ORDER BY p.id",
        ["id"],
    ),
    "with an outer join": (
        "SELECT u.id, a.url FROM users u LEFT JOIN avatars a ON a.user_id = u.id ORDER BY u.id",
        ["id"],
    ),
    "of groups": ("SELECT user_id, count(*) AS posts FROM posts GROUP BY user_id ORDER BY user_id", ["user_id"]),
    "known by a parameter": (
        "-- param: user uuid\nSELECT user_id, post_id FROM likes WHERE user_id = $1::uuid ORDER BY user_id, post_id",
        ["post_id"],
    ),
    "in a collation of its own": ("SELECT id, word FROM plain_words ORDER BY word", ["word"]),
    "odd names": ('SELECT "the id", "Group" FROM "Odd Table" ORDER BY "the id"', ["the id"]),
}
REFUSED = {
    "star": ("SELECT * FROM posts ORDER BY id", "`*` would export columns that were not chosen"),
    "a secret": ("SELECT id, password_hash FROM users ORDER BY id", "column password_hash is forbidden"),
    "a hidden secret": ("SELECT id, fingerprint FROM people ORDER BY id", "it reads password_hash, which is forbidden"),
    "no order": ("SELECT id, email FROM users", "it has no ORDER BY"),
    "an order that isn't unique": ("SELECT id, at FROM posts ORDER BY at", "its ORDER BY isn't known to be unique"),
    "descending": ("SELECT id, email FROM users ORDER BY id DESC", BY_COLUMNS),
    "another collation": (
        'SELECT id, email FROM users ORDER BY email COLLATE "C", id',
        "its ORDER BY has email, which has another collation than the order",
    ),
    "an expression": ("SELECT id, lower(email) AS email FROM users ORDER BY lower(email), id", BY_COLUMNS),
    "not in the list": ("SELECT email FROM users ORDER BY id", BY_COLUMNS),
    "a column that may be null": (
        "SELECT id, name FROM users ORDER BY name, id",
        "its ORDER BY has name, which may be",
    ),
    "a column that a join fills with nulls": (
        "SELECT u.id, p.id AS post FROM users u LEFT JOIN posts p ON p.user_id = u.id ORDER BY u.id, p.id",
        "its ORDER BY has id, which may be null where its join finds no row",
    ),
    "a type without a text of its own": (
        "SELECT loud, id FROM bools ORDER BY loud, id",
        "its ORDER BY has loud, a bool, which a download can't be resumed by",
    ),
    "a loose collation": (
        "SELECT id, word FROM words ORDER BY word",
        "its ORDER BY has word, which has a collation that takes unlike texts for the same",
    ),
    "a parameter that isn't declared": (
        "SELECT id, email FROM users WHERE email = $1 ORDER BY id",
        "its lines `-- param:` declare none, but its SQL uses $1::text",
    ),
    "a declared one that isn't used": (
        "-- param: email text\nSELECT id, email FROM users ORDER BY id",
        "its lines `-- param:` declare $1::text, but its SQL uses none",
    ),
    "another type": (
        "-- param: id text\nSELECT id, email FROM users WHERE id = $1 ORDER BY id",
        "its lines `-- param:` declare $1::text, but its SQL uses $1::uuid",
    ),
    "an unknown type": (
        "-- param: id inet\nSELECT id, email FROM users ORDER BY id",
        "its line `-- param:` must read as `-- param: name type`",
    ),
    "a name that all lists use": (
        "-- param: after text\nSELECT id, email FROM users WHERE email = $1 ORDER BY id",
        "its line `-- param: after text` takes a name that all lists use",
    ),
    "two of a name": (
        "-- param: a text\n-- param: a uuid\nSELECT id, email FROM users WHERE email = $1 AND id = $2 ORDER BY id",
        "it has two lines `-- param: a …`",
    ),
    "files": (
        "-- file: email from uploads\nSELECT id, email FROM users ORDER BY id",
        "the lines `-- file:` and `-- link:` are for",
    ),
    "a time that is none": ("-- time: email\nSELECT id, email FROM users ORDER BY id", "`-- time: email` must name"),
    "no SQL": ("SELECT FROM WHERE", "syntax error at or near"),
}
FURTHER = """
CREATE TABLE bools (loud boolean NOT NULL, id int NOT NULL, PRIMARY KEY (loud, id));
CREATE COLLATION loose (provider = libc, locale = 'C');
CREATE TABLE plain_words (id int NOT NULL, word text COLLATE "C" PRIMARY KEY);
CREATE TABLE words (id int NOT NULL, word text COLLATE loose PRIMARY KEY);
UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'loose';
"""


@pytest.fixture(scope="module")
async def source(server_url: str) -> AsyncIterator[Connection]:
    async with open_source(server_url) as connection:
        await connection.execute(FURTHER)
        yield connection


@pytest.mark.parametrize("case", KEYS)
async def test_the_order_is_the_key(source: Connection, tmp_path: Path, case: str) -> None:
    sql, key = KEYS[case]
    (tmp_path / "orders.sql").write_text(sql)

    lists = await load_lists(source, tmp_path, forbidden=OPERATORS_FORBIDDEN)

    assert [column.name for column in lists["orders"].key] == key


@pytest.mark.parametrize("case", REFUSED)
async def test_refused(source: Connection, tmp_path: Path, case: str) -> None:
    sql, sentence = REFUSED[case]
    (tmp_path / "orders.sql").write_text(sql)

    with pytest.raises(ConfigurationError) as refused:
        await load_lists(source, tmp_path, forbidden=OPERATORS_FORBIDDEN)

    assert refused.value.detail.startswith(f"List orders.sql: {sentence}")


@pytest.mark.parametrize("name", ["Orders", "end", "exported_at", "or-ders"])
async def test_a_name_that_documents_or_paths_cannot_have(source: Connection, tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.sql").write_text(KEYS["uuid"][0])
    with pytest.raises(ConfigurationError, match="its file name must be lower-case letters"):
        await load_lists(source, tmp_path, forbidden=OPERATORS_FORBIDDEN)


async def test_a_deployment_may_have_no_lists(source: Connection, tmp_path: Path) -> None:
    assert await load_lists(source, tmp_path / "missing", forbidden=OPERATORS_FORBIDDEN) == {}


async def test_our_own(database: Connection) -> None:
    lists = await load_lists(database, SQL_DIR / "lists", forbidden=OPERATORS_FORBIDDEN)
    keys = {name: ",".join(column.name for column in dataset.key) for name, dataset in lists.items()}
    assert keys == {"activity": "user_id,occurred_at,id", "users": "id"}

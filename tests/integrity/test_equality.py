"""Datasets that take unlike ids for the same are refused, and ordinary ones are not. Each is run, to show what it
gives of others: the column `body` is the id of the user that a row belongs to, or several of them.
"""

import re
from collections.abc import AsyncIterator
from typing import TypeAlias
from uuid import UUID

import pytest

from devstack.stack import Stack
from service.backends.database import Connection, connect
from service.documents.equality import check_equality, read_functions
from service.documents.query_trees import parse
from service.errors import ConfigurationError
from tests.sql.databases import open_database

UserId: TypeAlias = str | int | UUID

LONG = "a" * 63  # a name has no more bytes
BIG = 2**53  # the next integer is the same float8
TEXTS = ["alice", "ALICE", "alice ", "ali", f"{LONG}1", f"{LONG}2"]
NUMBERS = [7, BIG, BIG + 1]
UUIDS = [UUID(f"abcdefab-0000-4000-8000-00000000000{digit}") for digit in "ab"]

SCHEMA = f"""
CREATE TABLE users (id text PRIMARY KEY, internal_id int GENERATED ALWAYS AS IDENTITY UNIQUE, handle text);
CREATE TABLE posts (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id text, user_number int, body text, title varchar(9),
  ids text[], payload jsonb
);
CREATE TABLE members (team int, user_id varchar, role text);
CREATE TABLE coded (code char(9), body text);
INSERT INTO coded VALUES ('alice', 'alice'), ('ALICE', 'ALICE'), ('ali', 'ali');
CREATE TABLE tagged (body text, tag text GENERATED ALWAYS AS (lower(body)) STORED);
CREATE VIEW folded_posts AS SELECT id, lower(user_id) AS owner, body FROM posts;
CREATE VIEW own_posts AS SELECT p.id, u.id AS owner, p.body, p.title FROM posts p JOIN users u ON u.id = p.user_id;
INSERT INTO users (id, handle) SELECT id, lower(id) FROM unnest(ARRAY{TEXTS!r}) AS id;
INSERT INTO tagged SELECT id FROM users;
INSERT INTO posts (user_id, user_number, body, title, ids, payload)
  SELECT id, internal_id, id, 'Title', ARRAY[id], jsonb_build_object('user', id) FROM users;
INSERT INTO members SELECT internal_id, id, 'owner' FROM users;
CREATE FUNCTION same(text, text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT lower($1) = lower($2)';
CREATE OPERATOR = (FUNCTION = same, LEFTARG = text, RIGHTARG = text);
CREATE TABLE numbers (id bigint PRIMARY KEY, real_id float8, exact_id numeric, small_id int, user_text text, body text);
INSERT INTO numbers SELECT n, n, n, CASE WHEN n < 9 THEN n END, n, n FROM unnest(ARRAY{NUMBERS!r}::bigint[]) AS n;
INSERT INTO numbers VALUES (0, 0, 0, 0, '07', '07');
CREATE TABLE uuids (id uuid PRIMARY KEY, user_text text, body text);
INSERT INTO uuids SELECT u::uuid, u, u FROM unnest(ARRAY{list(map(str, UUIDS))!r}) AS u;
INSERT INTO uuids SELECT gen_random_uuid(), upper(user_text), upper(user_text) FROM uuids;
"""

HOSTILE_TEXTS = [
    ("SELECT body FROM posts WHERE user_id ILIKE $1", "the operator ~~* of text"),
    ("SELECT body FROM posts WHERE user_id ~* $1", "the operator ~* of text"),
    ("SELECT body FROM posts WHERE user_id <= $1", "the operator <= of text"),
    ("SELECT body FROM posts WHERE user_id OPERATOR(public.=) $1", "the operator = of text"),
    ("SELECT body FROM posts WHERE position(lower($1) IN lower(user_id)) = 1", "lower()"),
    ("SELECT body FROM posts WHERE lower(user_id) = $1", "lower()"),
    ("SELECT body FROM posts WHERE user_id = lower($1)", "lower()"),
    ("SELECT body FROM posts WHERE lower(user_id) IS NOT DISTINCT FROM lower($1)", "lower()"),
    ("SELECT body FROM posts WHERE nullif(lower(user_id), lower($1)) IS NULL", "lower()"),
    ("SELECT body FROM posts WHERE user_id = ANY (ARRAY[lower($1), $1])", "lower()"),
    ("SELECT body FROM posts WHERE lower(user_id) = $1 || ''", "the operator || of text"),
    ("SELECT body FROM posts WHERE user_id::bpchar = $1::bpchar", "the operator = of character"),
    ("SELECT body FROM coded WHERE code = $1", "the operator = of character"),
    ("SELECT body FROM posts WHERE user_id = $1::text::bpchar::text", "a cast to text"),
    ("SELECT p.body FROM posts p, LATERAL (SELECT $1::text::char(9) AS k) AS me WHERE p.user_id = k", "a cast to"),
    ("SELECT body FROM posts WHERE user_id::char(5) = $1", "the operator = of character"),
    ("SELECT body FROM posts WHERE user_id::varchar(3) = $1::varchar(3)", "a cast to character varying"),
    ("""SELECT body FROM posts WHERE user_id::"char" = $1::text::"char" """, 'a cast to "char"'),
    ("SELECT body FROM posts WHERE user_id::name = $1::text::name", "a cast to name"),
    ("SELECT body FROM posts WHERE payload->>'user' ILIKE $1", "the operator ~~* of text"),
    ("SELECT body FROM posts WHERE lower(payload->>'user') = $1", "lower()"),
    ("SELECT body FROM posts WHERE ids && ARRAY[lower($1)]", "lower()"),
    ("SELECT body FROM posts WHERE ids::name[] @> ARRAY[$1::text::name]", "a cast to name[]|a cast to name"),
    ("SELECT body FROM posts WHERE user_id ILIKE (SELECT id FROM users WHERE id = $1)", "the operator ~~* of text"),
    ("SELECT body FROM posts WHERE lower(user_id) = (SELECT lower(id) FROM users WHERE id = $1)", "lower()"),
    ("SELECT body FROM posts WHERE lower(user_id) IN (SELECT lower(id) FROM users WHERE id = $1)", "lower()"),
    ("SELECT body FROM posts WHERE id < 0 OR lower(user_id) IN (SELECT lower(id) FROM users WHERE id = $1)", "lower()"),
    ("SELECT body FROM posts p WHERE id < 0 OR $1 IN (SELECT lower(p.user_id))", "lower()"),
    (
        "SELECT p.body FROM posts p WHERE EXISTS (SELECT FROM users u WHERE u.id = $1 AND u.id ILIKE p.user_id)",
        "the operator ~~* of text",
    ),
    ("SELECT p.body FROM posts p JOIN users u ON lower(p.user_id) = lower(u.id) WHERE u.id = $1", "lower()"),
    ("SELECT p.body FROM posts p JOIN users u ON p.user_id ILIKE u.id WHERE u.id = $1", "the operator ~~* of text"),
    (
        (
            "WITH me AS MATERIALIZED (SELECT lower(id) AS k FROM users WHERE id = $1) "
            "SELECT body FROM posts JOIN me ON lower(user_id) = k"
        ),
        "lower()",
    ),
    (
        (
            "WITH me AS MATERIALIZED (SELECT lower($1) AS k), mine AS (SELECT k FROM me) "
            "SELECT body FROM posts JOIN mine ON user_id = k OR lower(user_id) = k"
        ),
        "lower()",
    ),
    (
        (
            "WITH RECURSIVE me AS (SELECT $1::text AS k "
            "UNION SELECT u.id FROM users u JOIN me ON lower(u.id) = lower(k)) "
            "SELECT body FROM posts JOIN me ON user_id = k"
        ),
        "lower()",
    ),
    ("SELECT body FROM (SELECT lower(user_id) AS k, body FROM posts OFFSET 0) AS s WHERE k = $1", "lower()"),
    ("SELECT body FROM folded_posts WHERE owner = $1", "lower()"),
    ("SELECT body FROM tagged WHERE tag = $1", "public.tagged.tag"),
    (
        (
            "SELECT body FROM (SELECT user_id AS k, body FROM posts UNION ALL SELECT lower(user_id), body "
            "FROM posts) AS s "
            "WHERE k = $1"
        ),
        "lower()",
    ),
    (
        (
            "SELECT s.body FROM users u, LATERAL (SELECT body FROM posts p WHERE lower(p.user_id) = lower(u.id)) AS s "
            "WHERE u.id = $1"
        ),
        "lower()",
    ),
    (
        (
            "SELECT body FROM (SELECT max(user_id) AS k, string_agg(body, ',') AS body FROM posts GROUP BY "
            "lower(user_id)) s "
            "WHERE k = $1"
        ),
        "lower()|an expression",
    ),
    (
        (
            "SELECT body FROM (SELECT user_id, string_agg(body, ',') OVER (PARTITION BY lower(user_id)) AS "
            "body FROM posts) s "
            "WHERE user_id = $1"
        ),
        "lower()",
    ),
    ("SELECT body, lower(user_id) FROM posts INTERSECT SELECT body, lower($1) FROM posts", "lower()|an expression"),
    (
        (
            "SELECT body FROM (SELECT body, CASE WHEN lower(user_id) = lower($1) THEN 1 END AS mine FROM posts) AS s "
            "WHERE mine = 1"
        ),
        "lower()",
    ),
    ("SELECT body FROM (SELECT body, lower(user_id) = lower($1) AS mine FROM posts) AS s WHERE mine", "lower()"),
    ("SELECT body FROM posts WHERE CASE WHEN lower(user_id) = lower($1) THEN 'x' ELSE 'y' END = 'x'", "lower()"),
    ("SELECT body FROM posts, regexp_split_to_table(lower(user_id), ',') AS k WHERE k = $1", "regexp_split_to_table()"),
    (
        "SELECT body FROM posts LEFT JOIN users u ON u.internal_id = -1 WHERE coalesce(lower(user_id), u.handle) = $1",
        "lower()",
    ),
    ("SELECT body FROM (VALUES (lower($1))) AS me (k) JOIN posts ON lower(user_id) = k", "lower()"),
    ("SELECT body FROM posts ORDER BY id LIMIT (SELECT count(*) FROM users WHERE lower(id) = lower($1))", "lower()"),
]

HOSTILE_NUMBERS = [
    ("SELECT body FROM numbers WHERE real_id = $1", "double precision"),
    ("SELECT body FROM numbers WHERE id::float8 = $1::bigint::float8", "a cast to double precision"),
    ("SELECT body FROM numbers WHERE id::real = $1::bigint", "a cast to double precision"),
    ("SELECT body FROM numbers WHERE round(exact_id, -1) = round($1::bigint::numeric, -1)", "round()"),
    ("SELECT body FROM numbers WHERE user_text::bigint % 10 = $1::bigint % 10", "the operator % of bigint"),
    ("SELECT n.body FROM numbers n JOIN numbers u ON n.real_id = u.id WHERE u.id = $1", "double precision"),
]

# The text of an id in another spelling is another user's, as far as a text tells.
HOSTILE_UUIDS = [
    ("SELECT body FROM uuids WHERE user_text::uuid = $1", "a cast to uuid"),
    ("SELECT body FROM uuids WHERE user_text ILIKE $1::uuid::text", "the operator ~~* of text"),
    ("SELECT body FROM uuids WHERE upper(user_text) = upper($1::uuid::text)", "upper()"),
    ("SELECT body FROM uuids WHERE left(user_text, 8) = left($1::uuid::text, 8)", 'left|"left"'),
]

ORDINARY_TEXTS = [
    "SELECT body FROM coded WHERE code = $1::text",
    "SELECT c.body FROM coded c JOIN users u ON u.id = c.code WHERE u.id = $1",
    "SELECT body FROM posts WHERE user_id = $1",
    (
        "SELECT body, user_id || '/' || title AS path, upper(user_id) FROM posts WHERE user_id = $1 "
        "ORDER BY lower(user_id)"
    ),
    "SELECT body FROM posts WHERE user_id = $1::varchar AND title ILIKE 't%' AND lower(title) = 'title'",
    "SELECT body FROM posts WHERE user_id IN ($1, $1) AND user_id IS NOT NULL AND user_id <> 'system'",
    "SELECT body FROM posts WHERE coalesce(user_id, 'x') = $1 OR nullif(user_id, '') IS NOT DISTINCT FROM $1",
    "SELECT p.body FROM posts p JOIN users u ON u.internal_id = p.user_number WHERE u.id = $1",
    (
        "SELECT p.body FROM posts p JOIN users u ON u.internal_id = p.user_number::bigint WHERE u.id = "
        "$1 AND u.handle ~ 'a'"
    ),
    "SELECT p.body FROM users u LEFT JOIN posts p ON p.user_id = u.id AND p.title LIKE 'T%' WHERE u.id = $1",
    "SELECT body FROM posts p WHERE EXISTS (SELECT FROM members m WHERE m.team = p.user_number AND m.user_id = $1)",
    (
        "SELECT body FROM posts p JOIN members m ON m.team = p.user_number WHERE m.user_id = $1 AND "
        "lower(m.role) = 'owner'"
    ),
    "SELECT body FROM posts WHERE id < 0 OR user_id IN (SELECT id FROM users WHERE id = $1)",
    "SELECT body FROM posts p WHERE id < 0 OR EXISTS (SELECT FROM users u WHERE u.id = p.user_id AND u.id = $1)",
    "SELECT body FROM posts WHERE user_id = (SELECT id FROM users WHERE id = $1)",
    "SELECT body FROM posts WHERE user_number = (SELECT max(internal_id) FROM users WHERE id = $1)",
    "SELECT body FROM posts WHERE user_id = $1 UNION ALL SELECT body FROM own_posts WHERE owner = $1",
    (
        "SELECT body FROM (SELECT user_id, body FROM posts UNION ALL SELECT owner, body FROM own_posts) "
        "s WHERE user_id = $1"
    ),
    "SELECT DISTINCT body, user_id FROM posts WHERE user_id = $1",
    "SELECT body FROM posts WHERE user_id = $1 INTERSECT SELECT body FROM own_posts WHERE owner = $1",
    (
        "SELECT s.body FROM users u, LATERAL (SELECT body FROM posts p WHERE p.user_id = u.id LIMIT 3) "
        "AS s WHERE u.id = $1"
    ),
    "SELECT body FROM own_posts WHERE owner = $1 AND lower(title) = 'title'",
    (
        "SELECT body FROM posts JOIN users ON internal_id = user_number WHERE posts.user_id = $1 OR "
        "(false AND users.handle ILIKE 'x')"
    ),
    (
        "WITH me AS MATERIALIZED (SELECT id, handle FROM users WHERE id = $1) "
        "SELECT body FROM posts JOIN me ON me.id = user_id WHERE lower(me.handle) <> 'x'"
    ),
    (
        "WITH RECURSIVE up (id, body, depth) AS (SELECT id, body, 1 FROM posts WHERE user_id = $1 UNION ALL "
        "SELECT p.id, p.body, depth + 1 FROM posts p JOIN up ON p.id = -up.id AND depth < 9) SELECT body FROM up"
    ),
    "SELECT body FROM posts WHERE $1 = ANY (ids)",
    "SELECT body FROM posts WHERE ids @> ARRAY[$1]",
    "SELECT body FROM posts, unnest(ids) AS reader WHERE reader = $1",
    "SELECT body FROM posts WHERE user_id = ANY (ARRAY(SELECT id FROM users WHERE id = $1))",
    "SELECT body FROM posts WHERE payload->>'user' = $1 AND payload->>'kind' IS NULL",
    "SELECT body FROM posts WHERE CASE WHEN title = 'Title' THEN user_id ELSE payload->>'user' END = $1",
    (
        "SELECT body FROM (SELECT CASE WHEN lower(title) = 'x' THEN body ELSE user_id END AS k, body "
        "FROM posts) s WHERE k = $1"
    ),
    "SELECT min(body) AS body FROM posts WHERE user_id = $1 GROUP BY user_id HAVING count(*) > 0",
    (
        "SELECT body FROM (SELECT user_id, min(body) AS body, count(*) AS n FROM posts GROUP BY user_id) s "
        "WHERE user_id = $1 AND n > 0"
    ),
    (
        "SELECT body FROM (SELECT user_id, body, row_number() OVER (PARTITION BY user_id ORDER BY id) "
        "AS n FROM posts) s "
        "WHERE user_id = $1 AND n = 1"
    ),
    (
        "SELECT body, CASE WHEN user_id = $1 THEN 'mine' ELSE 'theirs' END AS whose FROM posts WHERE $1 "
        "IN (user_id, title)"
    ),
    (
        "SELECT body, (SELECT count(*) FROM members m WHERE m.user_id = p.user_id) AS teams FROM posts "
        "p WHERE user_id = $1"
    ),
    "SELECT body FROM posts WHERE (user_id, title) = ($1, 'Title')",
    "SELECT body FROM posts WHERE user_id = $1 AND id > (SELECT 0) AND id IN (SELECT id FROM posts WHERE title ~* 'T')",
    'SELECT body FROM posts WHERE user_id COLLATE "C" = $1',
    "SELECT body FROM (VALUES ($1)) AS me (id) JOIN posts ON user_id = me.id",
]
ORDINARY_NUMBERS = [
    "SELECT body FROM numbers WHERE id = $1 AND real_id > 0",
    "SELECT body FROM numbers WHERE exact_id = $1::bigint",
    "SELECT body FROM numbers WHERE id < 9 AND small_id = $1::bigint",
    "SELECT body FROM numbers WHERE user_text = $1::bigint::text",
    "SELECT n.body FROM numbers n JOIN numbers u ON n.user_text = u.id::text WHERE u.id = $1",
]
ORDINARY_UUIDS = [
    "SELECT body FROM uuids WHERE id = $1",
    "SELECT body FROM uuids WHERE user_text = $1::uuid::text",
    "SELECT a.body FROM uuids a JOIN uuids u ON a.user_text = u.id::text WHERE u.id = $1",
]


@pytest.fixture(scope="module")
async def source(stack: Stack) -> AsyncIterator[Connection]:
    async with open_database(stack.admin_url) as url, connect(url, own_search_path=True) as connection:
        await connection.execute(SCHEMA)
        yield connection


async def others(source: Connection, sql: str, user_id: UserId) -> set[str]:
    """The ids whose rows the user gets, but the user's own."""
    rows = await source.fetch(sql, user_id)
    return {part for row in rows for part in (row["body"] or "").split(",")} - {str(user_id), ""}


@pytest.mark.parametrize(
    ("user_ids", "sql", "fault"),
    [
        *((TEXTS, *case) for case in HOSTILE_TEXTS),
        *((NUMBERS, *case) for case in HOSTILE_NUMBERS),
        *((UUIDS, *case) for case in HOSTILE_UUIDS),
    ],
)
async def test_a_comparison_that_takes_two_for_one(
    source: Connection, user_ids: list[UserId], sql: str, fault: str
) -> None:
    assert any([await others(source, sql, user_id) for user_id in user_ids])
    with pytest.raises(ConfigurationError) as raised:
        await check_equality(source, sql, await read_functions(source))
    assert re.search("|".join(map(re.escape, fault.split("|"))), raised.value.detail), raised.value.detail


@pytest.mark.parametrize(
    ("user_ids", "sql"),
    [
        *((TEXTS, sql) for sql in ORDINARY_TEXTS),
        *((NUMBERS, sql) for sql in ORDINARY_NUMBERS),
        *((UUIDS, sql) for sql in ORDINARY_UUIDS),
    ],
)
async def test_an_ordinary_comparison(source: Connection, user_ids: list[UserId], sql: str) -> None:
    assert not any([await others(source, sql, user_id) for user_id in user_ids])
    assert await source.fetch(sql, user_ids[0])
    await check_equality(source, sql, await read_functions(source))


@pytest.mark.parametrize(("parts", "fits"), [(150, True), (2_000, False)])
async def test_a_deep_query(source: Connection, parts: int, *, fits: bool) -> None:
    sql = f"SELECT {' || '.join(['body'] * parts)} AS body FROM posts WHERE user_id = $1"
    if fits:
        await check_equality(source, sql, await read_functions(source))
    else:
        with pytest.raises(ConfigurationError, match="nested too deeply"):
            await check_equality(source, sql, await read_functions(source))


def test_names_with_white_space_that_ends_no_token() -> None:
    (node,) = parse("({TARGETENTRY :resname no\u00a0break\r\u2028:expr :resno 1})")
    assert node == {"node": "TARGETENTRY", "resname": "no\u00a0break\r\u2028:expr", "resno": "1"}


def test_names_that_look_like_fields() -> None:
    """A view's owner chooses names, which stand in the tree."""
    (node,) = parse(r"({ALIAS :aliasname :quals :colnames (\{ a\ b \) \<>) :constvalue 2 [ 1 0 ] :last <>})")
    assert node == {
        "node": "ALIAS",
        "aliasname": ":quals",
        "colnames": [r"\{", r"a\ b", r"\)", r"\<>"],
        "constvalue": "2 [ 1 0 ]",
        "last": None,
    }

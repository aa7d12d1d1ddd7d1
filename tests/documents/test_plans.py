"""PostgreSQL's planner knows whether a dataset's order is unique, and which columns it reads."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.backends.database import Connection
from service.documents.plans import explain
from tests.sql.sources import PROFILE, load, open_source, refusal

UNKNOWN_ORDER = (
    "its ORDER BY isn't known to be unique: rows need a unique order, so end it with the primary key of what it lists"
)
NO_ORDER = "it has no ORDER BY: rows need a unique order, so end it with the primary key of what it lists"
CHANCE = "its ORDER BY must not depend on random(), which is VOLATILE: two reads may be ordered differently"
WHOLE_ROW = "a whole row would export columns that were not chosen; list the columns"
RENAMED = (
    "public.{} has no column called {}: leave out the list of names after its alias, or make the view anew "
    "that knows it by that name"
)
HIDDEN = "a plan doesn't show what a list of VALUES holds: use CASE, or SELECTs and UNION ALL"
READS_PASSWORD = "it reads password_hash, which is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)"

UNIQUE_ORDER = {
    "ascending": "SELECT id, title FROM posts WHERE user_id = $1 ORDER BY id",
    "descending, nulls last": "SELECT id FROM posts WHERE user_id = $1 ORDER BY title DESC NULLS LAST, id DESC",
    "collated": 'SELECT id FROM posts WHERE user_id = $1 ORDER BY title COLLATE "C", id',
    "by position": "SELECT at, id FROM posts WHERE user_id = $1 ORDER BY 1, 2",
    "by a column that stays": "SELECT email FROM users WHERE id = $1 ORDER BY internal_id",
    "chance that orders nothing": "SELECT id, random() AS n FROM posts WHERE user_id = $1 ORDER BY id",
    "by a function": "SELECT id FROM posts WHERE user_id = $1 ORDER BY lower(title), date_trunc('day', at), id",
    "limited": "SELECT id FROM posts WHERE user_id = $1 ORDER BY id LIMIT 10",
    "join on a primary key": (
        "SELECT l.post_id, p.title FROM likes l JOIN posts p ON p.id = l.post_id "
        "WHERE l.user_id = $1 ORDER BY l.post_id"
    ),
    "outer join on a primary key": (
        "SELECT p.id, a.url FROM posts p LEFT JOIN avatars a USING (user_id) WHERE p.user_id = $1 ORDER BY p.id"
    ),
    "self-join over varchar": (
        "SELECT n.code, p.code AS parent FROM notes n LEFT JOIN notes p ON p.code = n.parent "
        "WHERE n.user_id = $1 ORDER BY n.code"
    ),
    "join through the user": (
        "SELECT o.number FROM users u JOIN orders o ON o.user_number = u.internal_id WHERE u.id = $1 ORDER BY o.number"
    ),
    "user found by a subquery": (
        "SELECT number FROM orders WHERE user_number = (SELECT internal_id FROM users WHERE id = $1) ORDER BY number"
    ),
    "fixed half of a composite key": "SELECT post_id FROM likes WHERE user_id = $1 ORDER BY post_id",
    "one row by its key": "SELECT url FROM avatars WHERE user_id = $1",
    "exists": (
        "SELECT id FROM posts p WHERE user_id = $1 AND EXISTS (SELECT FROM likes WHERE post_id = p.id) "
        "AND NOT EXISTS (SELECT FROM notes WHERE user_id = p.user_id) ORDER BY id"
    ),
    "scalar subquery": (
        "SELECT id, (SELECT count(*) FROM likes WHERE post_id = p.id) AS likes FROM posts p "
        "WHERE user_id = $1 ORDER BY id"
    ),
    "group by": "SELECT loud, count(*) AS n FROM posts WHERE user_id = $1 GROUP BY loud ORDER BY loud",
    "group by two": (
        "SELECT loud, title, max(at) AS at FROM posts WHERE user_id = $1 GROUP BY loud, title ORDER BY title, loud"
    ),
    "distinct": "SELECT DISTINCT title FROM posts WHERE user_id = $1 ORDER BY title",
    "distinct on": "SELECT DISTINCT ON (title) title, at FROM posts WHERE user_id = $1 ORDER BY title, at DESC",
    "count": "SELECT count(*) AS posts FROM posts WHERE user_id = $1",
    "window": (
        "SELECT id, row_number() OVER (PARTITION BY loud ORDER BY at) AS n FROM posts WHERE user_id = $1 ORDER BY id"
    ),
    "union": ("SELECT title FROM posts WHERE user_id = $1 UNION SELECT name FROM users WHERE id = $1 ORDER BY title"),
    "forbidden words as keys": "SELECT settings ->> 'password_rules' AS rules FROM users WHERE id = $1 ORDER BY id",
    "allowed column of a view": "SELECT called FROM people WHERE id = $1 ORDER BY id",
    "forbidden words between apostrophes": (
        """SELECT id, 'the "password_hash" isn''t here, nor u.*' AS hint FROM users WHERE id = $1 ORDER BY id"""
    ),
    "other names for what functions give": (
        "SELECT id, (SELECT max(t.tag) FROM unnest(tags) AS t (tag)) AS tag FROM users WHERE id = $1 ORDER BY id"
    ),
    "other names for what subqueries give": (
        "SELECT s.post, s.head FROM (SELECT id, title FROM posts WHERE user_id = $1 OFFSET 0) AS s (post, head) "
        "JOIN posts p ON p.id = s.post ORDER BY s.post"
    ),
    "table with a forbidden name": (
        "SELECT device_tokens.platform FROM device_tokens JOIN users u ON u.id = device_tokens.user_id "
        "WHERE u.id = $1 ORDER BY device_tokens.id"
    ),
    "range partitions": "SELECT id, kind FROM events WHERE user_id = $1 ORDER BY at, id",
    "hash partitions": "SELECT id FROM visits AS v WHERE user_id = $1 ORDER BY id",
    "materialized view": "SELECT id, title FROM digests WHERE user_id = $1 ORDER BY id",
    "materialized view whose ids may be null": "SELECT DISTINCT ON (id) id FROM drafts WHERE user_id = $1 ORDER BY id",
    "covering index": "SELECT number, label FROM marks WHERE user_id = $1 ORDER BY number",
    "pruned to one partition": "SELECT id FROM events WHERE user_id = $1 AND at >= '2026-02-01' ORDER BY at, id",
    "one partition": "SELECT id FROM events_2026 WHERE user_id = $1 ORDER BY id, at",
}
NO_UNIQUE_ORDER = {
    "no order": ("SELECT id FROM posts WHERE user_id = $1", NO_ORDER),
    "no order of groups": ("SELECT loud, count(*) AS n FROM posts WHERE user_id = $1 GROUP BY loud", NO_ORDER),
    "no order of distinct rows": ("SELECT DISTINCT title FROM posts WHERE user_id = $1", NO_ORDER),
    "order inside": ("SELECT p.title FROM (SELECT title FROM posts WHERE user_id = $1 ORDER BY id) p", UNKNOWN_ORDER),
    "order that may tie": ("SELECT id FROM posts WHERE user_id = $1 ORDER BY at", UNKNOWN_ORDER),
    "materialized view": ("SELECT id FROM drafts WHERE user_id = $1 ORDER BY id", UNKNOWN_ORDER),
    "order by an expression of the key": ("SELECT id FROM posts WHERE user_id = $1 ORDER BY id / 2", UNKNOWN_ORDER),
    "order by a constant": ("SELECT id FROM posts WHERE user_id = $1 ORDER BY user_id", NO_ORDER),
    "multiplied by a join": (
        "SELECT p.id FROM posts p JOIN likes l ON l.post_id = p.id WHERE p.user_id = $1 ORDER BY p.id",
        UNKNOWN_ORDER,
    ),
    "multiplied by a comma": ("SELECT p.id FROM posts p, likes l WHERE p.user_id = $1 ORDER BY p.id", UNKNOWN_ORDER),
    "multiplied by an alternative": (
        "SELECT l.post_id FROM likes l JOIN posts p ON p.id = l.post_id OR p.id = 1 WHERE l.user_id = $1 ORDER BY 1",
        UNKNOWN_ORDER,
    ),
    "multiplied by an alternative to two equations": (
        (
            "SELECT l.post_id FROM likes l JOIN posts p ON (p.id = l.post_id AND p.user_id = l.user_id) OR p.loud "
            "WHERE l.user_id = $1 ORDER BY l.post_id"
        ),
        UNKNOWN_ORDER,
    ),
    "multiplied by a series": (
        "SELECT p.id FROM posts p, generate_series(1, 2) WHERE p.user_id = $1 ORDER BY p.id",
        UNKNOWN_ORDER,
    ),
    "multiplied by a function": (
        (
            "SELECT s.value FROM users u, jsonb_array_elements_text(u.settings) WITH ORDINALITY AS s (value, n) "
            "WHERE u.id = $1 ORDER BY s.n"
        ),
        UNKNOWN_ORDER,
    ),
    "multiplied in the list": (
        "SELECT id, unnest(tags) AS tag FROM users WHERE id = $1 ORDER BY id, tag",
        UNKNOWN_ORDER,
    ),
    "groups multiplied": (
        (
            "SELECT n.loud FROM (SELECT loud, count(*) AS n FROM posts GROUP BY loud) n JOIN posts p ON p.number = n.n "
            "WHERE p.user_id = $1 ORDER BY n.loud"
        ),
        UNKNOWN_ORDER,
    ),
    "group by more than ordered by": (
        "SELECT loud, title FROM posts WHERE user_id = $1 GROUP BY loud, title ORDER BY count(*)",
        UNKNOWN_ORDER,
    ),
    "rollup": (
        "SELECT loud, title FROM posts WHERE user_id = $1 GROUP BY ROLLUP (loud, title) ORDER BY loud, title",
        UNKNOWN_ORDER,
    ),
    "key of the optional side": (
        (
            "SELECT a.url FROM posts p LEFT JOIN avatars a ON a.user_id = p.user_id WHERE p.loud AND $1 <> p.user_id "
            "ORDER BY a.user_id"
        ),
        UNKNOWN_ORDER,
    ),
    "equal to the optional side's key": (
        "SELECT u.email FROM users u LEFT JOIN avatars a ON a.user_id = u.id WHERE u.id <> $1 ORDER BY a.user_id",
        UNKNOWN_ORDER,
    ),
    "equal to the optional side's key, the other way round": (
        "SELECT u.email FROM users u LEFT JOIN avatars a ON u.id = a.user_id WHERE u.id <> $1 ORDER BY a.user_id",
        UNKNOWN_ORDER,
    ),
    "full join": (
        (
            "SELECT u.email FROM users u FULL JOIN avatars a ON a.user_id = u.id WHERE u.id <> $1 OR a.url = '' "
            "ORDER BY a.user_id"
        ),
        UNKNOWN_ORDER,
    ),
    "equation that may be false": (
        "SELECT id FROM likes l JOIN posts p ON (l.post_id = p.id) IS NOT TRUE WHERE l.user_id = $1 ORDER BY l.post_id",
        UNKNOWN_ORDER,
    ),
    "by chance": ("SELECT id FROM posts WHERE user_id = $1 ORDER BY random(), id", CHANCE),
    "sample": (
        "SELECT id FROM posts TABLESAMPLE bernoulli (50) WHERE user_id = $1 ORDER BY id",
        "TABLESAMPLE gives other rows each time",
    ),
    "partial unique index": ("SELECT code FROM notes ORDER BY $1::uuid, user_id", UNKNOWN_ORDER),
    "unique expression": ("SELECT code FROM notes WHERE user_id = $1 ORDER BY lower(code)", UNKNOWN_ORDER),
    "unique but nullable": ("SELECT code FROM notes WHERE user_id = $1 ORDER BY parent", UNKNOWN_ORDER),
    "half a composite key": (
        "SELECT post_id FROM likes WHERE at > now() AND $1 <> user_id ORDER BY post_id",
        UNKNOWN_ORDER,
    ),
    "union that keeps duplicates": (
        "SELECT id FROM posts WHERE user_id = $1 UNION ALL SELECT id FROM posts WHERE user_id = $1 ORDER BY id",
        UNKNOWN_ORDER,
    ),
    "partitions, half the key": ("SELECT id FROM events WHERE user_id = $1 ORDER BY id", UNKNOWN_ORDER),
    "partitions, twice": (
        (
            "SELECT id, at FROM events WHERE user_id = $1 UNION ALL SELECT id, at FROM events WHERE user_id = $1 "
            "ORDER BY at, id"
        ),
        UNKNOWN_ORDER,
    ),
    "partitions, put together by hand": (
        (
            "SELECT id, at FROM events_2025 a WHERE user_id = $1 "
            "UNION ALL SELECT id, at FROM events_2026 b WHERE user_id = $1 ORDER BY at, id"
        ),
        UNKNOWN_ORDER,
    ),
    "key of a parent alone": ("SELECT id FROM parents WHERE user_id = $1 ORDER BY id", UNKNOWN_ORDER),
}
SECRET = {
    "whole row as JSON": ("SELECT row_to_json(p) AS post FROM posts p WHERE user_id = $1 ORDER BY p.id", WHOLE_ROW),
    "whole row": ("SELECT p FROM posts p WHERE user_id = $1 ORDER BY p.id", WHOLE_ROW),
    "whole row in a function in FROM": (
        "SELECT j.key, j.value FROM users u, jsonb_each_text(to_jsonb(u)) j WHERE u.id = $1 ORDER BY 1",
        WHOLE_ROW,
    ),
    "forbidden under an alias": (
        "SELECT id, password_hash AS memo FROM users WHERE id = $1 ORDER BY id",
        READS_PASSWORD,
    ),
    "forbidden in an expression": (
        "SELECT id, 'x' || md5(password_hash) AS memo FROM users WHERE id = $1 ORDER BY id",
        READS_PASSWORD,
    ),
    "forbidden in a condition that shows": (
        "SELECT id, CASE WHEN password_hash LIKE 'a%' THEN 1 END AS guess FROM users WHERE id = $1 ORDER BY id",
        READS_PASSWORD,
    ),
    "forbidden in an aggregate": ("SELECT max(password_hash) AS memo FROM users WHERE id = $1", READS_PASSWORD),
    "forbidden in a window": (
        "SELECT id, first_value(password_hash) OVER (ORDER BY id) AS memo FROM users WHERE id = $1 ORDER BY id",
        READS_PASSWORD,
    ),
    "forbidden through a view": ("SELECT id, fingerprint FROM people WHERE id = $1 ORDER BY id", READS_PASSWORD),
    "forbidden through a barrier": (
        "SELECT id, fingerprint FROM guarded_people WHERE id = $1 ORDER BY id",
        READS_PASSWORD,
    ),
    "forbidden in a subquery": (
        (
            "SELECT s.id, s.memo FROM (SELECT id, password_hash AS memo FROM users LIMIT 9) s "
            "WHERE s.id = $1 ORDER BY s.id"
        ),
        READS_PASSWORD,
    ),
    "forbidden in a scalar subquery": (
        (
            "SELECT id, (SELECT password_hash FROM users WHERE id = p.user_id) AS memo FROM posts p "
            "WHERE user_id = $1 ORDER BY id"
        ),
        READS_PASSWORD,
    ),
    "forbidden in a constant subquery": (
        "SELECT id, (SELECT max(password_hash) FROM users) AS memo FROM posts WHERE user_id = $1 ORDER BY id",
        READS_PASSWORD,
    ),
    "forbidden in a CTE": (
        (
            "WITH s AS MATERIALIZED (SELECT id, password_hash AS memo FROM users) SELECT id, memo "
            "FROM s WHERE id = $1 ORDER BY id"
        ),
        READS_PASSWORD,
    ),
    "forbidden in a union": (
        "SELECT title FROM posts WHERE user_id = $1 UNION SELECT password_hash FROM users WHERE id = $1 ORDER BY title",
        READS_PASSWORD,
    ),
    "forbidden in a function in FROM": (
        "SELECT letter FROM users u, regexp_split_to_table(u.password_hash, '') AS letter WHERE u.id = $1 ORDER BY 1",
        READS_PASSWORD,
    ),
    "forbidden between apostrophes in names": (
        (
            """SELECT id, (SELECT "a'a".password_hash || "a'a".name FROM users "a'a" WHERE "a'a".id = p.user_id) """
            "AS memo FROM posts p WHERE user_id = $1 ORDER BY id"
        ),
        READS_PASSWORD,
    ),
    "forbidden between quotes in literals": (
        """SELECT concat('"', password_hash, '"', E'\\'', U&'\\0027') AS memo FROM users WHERE id = $1 ORDER BY id""",
        READS_PASSWORD,
    ),
    "whole row between apostrophes in names": (
        (
            """SELECT id, (SELECT "a'a"::text || "a'a".name FROM users "a'a" WHERE "a'a".id = p.user_id) AS memo """
            "FROM posts p WHERE user_id = $1 ORDER BY id"
        ),
        WHOLE_ROW,
    ),
    "whole row of a name that ends with a quote": (
        (
            'SELECT id, (SELECT "a"""::text FROM users "a""" WHERE "a""".id = p.user_id) AS memo '
            "FROM posts p WHERE user_id = $1 ORDER BY id"
        ),
        WHOLE_ROW,
    ),
    "forbidden in a list of values": (
        "SELECT v.memo FROM (VALUES ('a'), ((SELECT password_hash FROM users WHERE id = $1))) AS v (memo) ORDER BY 1",
        READS_PASSWORD,
    ),
    "forbidden in a list of values of another row": (
        (
            "SELECT p.id, (SELECT v.memo FROM (VALUES (u.password_hash), ('a')) AS v (memo) LIMIT 1) AS memo "
            "FROM posts p JOIN users u ON u.id = p.user_id WHERE u.id = $1 ORDER BY p.id"
        ),
        HIDDEN,
    ),
    "forbidden in the number of rows of a function": (
        (
            "SELECT p.id, (SELECT count(*) FROM (SELECT generate_series(1, ascii(u.password_hash))) s) AS memo "
            "FROM posts p JOIN users u ON u.id = p.user_id WHERE u.id = $1 ORDER BY p.id"
        ),
        READS_PASSWORD,
    ),
    "forbidden in a CTE that is called like a parameter": (
        (
            'WITH "$1" AS MATERIALIZED (SELECT id, password_hash AS memo FROM users) '
            'SELECT p.id, (SELECT s.memo FROM "$1" s LIMIT 1) AS memo FROM posts p WHERE p.user_id = $1 ORDER BY p.id'
        ),
        READS_PASSWORD,
    ),
    "forbidden in a subquery that a literal names": (
        (
            "SELECT id, (SELECT password_hash FROM users LIMIT 1) AS memo FROM posts "
            "WHERE user_id = $1 AND title <> 'InitPlan 1' ORDER BY id"
        ),
        READS_PASSWORD,
    ),
    "forbidden under another name, of one table": (
        "SELECT c2, upper(c5) AS memo FROM users AS u (c1, c2, c3, c4, c5) WHERE c2 = $1 ORDER BY c2",
        RENAMED.format("users", "c2"),
    ),
    "forbidden under another name, in a subquery": (
        (
            """SELECT id, (SELECT "a'a"."c""5" FROM users "a'a" (c1, c2, c3, c4, "c""5") WHERE c2 = p.user_id) """
            "AS memo FROM posts p WHERE user_id = $1 ORDER BY id"
        ),
        RENAMED.format("users", 'c"5'),
    ),
    "forbidden under another name, in a view": (
        "SELECT id, memo FROM renamed_people WHERE id = $1 ORDER BY id",
        RENAMED.format("users", "memo"),
    ),
    "forbidden since a view was made": (
        "SELECT id, kind FROM old_entries WHERE user_id = $1 ORDER BY at, id",
        RENAMED.format("entries_2026", "kind"),
    ),
}


@pytest.fixture(scope="module")
async def source(server_url: str) -> AsyncIterator[Connection]:
    async with open_source(server_url) as connection:
        yield connection


@pytest.mark.parametrize("sql", UNIQUE_ORDER.values(), ids=UNIQUE_ORDER)
async def test_a_unique_order_is_recognised(source: Connection, tmp_path: Path, sql: str) -> None:
    datasets = await load(source, tmp_path, {"profile.sql": PROFILE, "things.sql": sql})

    assert [dataset.name for dataset in datasets] == ["profile", "things"]


@pytest.mark.parametrize(("sql", "sentence"), NO_UNIQUE_ORDER.values(), ids=NO_UNIQUE_ORDER)
async def test_an_order_that_may_tie_is_refused(source: Connection, tmp_path: Path, sql: str, sentence: str) -> None:
    detail = await refusal(source, tmp_path, {"profile.sql": PROFILE, "things.sql": sql})

    assert detail == f"Dataset things.sql: {sentence}"


@pytest.mark.parametrize(("sql", "sentence"), SECRET.values(), ids=SECRET)
async def test_a_forbidden_column_is_found(source: Connection, tmp_path: Path, sql: str, sentence: str) -> None:
    detail = await refusal(source, tmp_path, {"profile.sql": PROFILE, "things.sql": sql})

    assert detail == f"Dataset things.sql: {sentence}"


async def test_its_settings_end_with_it_within_a_transaction_too(source: Connection) -> None:
    """Else everything after it goes without indexes: some hundred tables then took init a quarter of an hour."""
    async with source.transaction():
        await explain(source, PROFILE, ["uuid"])
        assert await source.fetchval("SHOW enable_indexscan") == "on"

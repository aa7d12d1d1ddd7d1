"""`check` is quiet only when each table and each column of the database is decided."""

from uuid import uuid4

import pytest

from service.errors import ConfigurationError
from tests.onboarding.conftest import Application, committed, of
from tests.onboarding.test_applications import USERS, initialize
from tests.onboarding.test_checking import decide_all


@of("shop")
async def test_a_new_table_without_a_link_is_a_finding(application: Application) -> None:
    application.given()
    await decide_all(application)
    await application.connection.execute("CREATE TABLE zz (id integer, body text)")
    found = await application.check()
    assert found.unlinked_tables == {"public.zz": "no link to a user was found, but body may be written by a user"}
    assert not found.is_clean


@of("shop")
async def test_a_new_column_of_a_table_that_is_not_personal_is_a_finding(application: Application) -> None:
    application.given()
    await decide_all(application)
    await application.connection.execute("ALTER TABLE shop_product ADD seller text")
    assert (await application.check()).undecided_columns == ["public.shop_product.seller"]


@committed("empty")
async def test_a_users_picture_an_address_and_tokens_are_found_without_a_link(application: Application) -> None:
    await application.connection.execute("""
        CREATE TABLE pictures (id bigint PRIMARY KEY, bytes text);
        CREATE TABLE plans (id bigint PRIMARY KEY, label text);
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, avatar_id bigint REFERENCES pictures,
            plan_id bigint REFERENCES plans);
        CREATE TABLE validations (id bigint PRIMARY KEY, medium text, address text);
        CREATE TABLE tokens (id bigint PRIMARY KEY, value text);
    """)
    outcome = await application.initialize()
    assert {one.table.name: str(one.verdict) for one in outcome.drafts.tables} == {
        "pictures": "undecided", "validations": "undecided", "tokens": "deny", "plans": "not personal",
    }  # fmt: skip
    assert (await application.check()).unlinked_tables == {
        "public.pictures": "no link to a user was found, but public.users.avatar_id leads to it",
        "public.validations": "no link to a user was found, but address may be a person's",
    }


@of("shop")
async def test_tables_without_a_link_are_listed_most_suspicious_first(application: Application) -> None:
    application.given()
    await decide_all(application)
    await application.connection.execute(
        "CREATE TABLE aa (id integer, flavour integer); CREATE TABLE bb (id integer, phone text, body text);"
        "CREATE TABLE cc (id integer, data jsonb)"
    )
    assert list((await application.check()).unlinked_tables) == ["public.bb", "public.cc", "public.aa"]


@of("shop")
async def test_patterns_cover_tables_but_not_links_to_the_user(application: Application) -> None:
    application.given()
    await decide_all(application)
    with (application.directory / "tables.sql").open("a") as file:
        file.write("-- not personal table public.cache_*: temporary copies\n")
    await application.connection.execute("CREATE TABLE cache_pages (id integer, body text)")
    assert (await application.check()).is_clean
    await application.connection.execute("CREATE TABLE cache_visits (user_id integer NOT NULL REFERENCES auth_user)")
    assert (await application.check()).undecided_tables == ["public.cache_visits"]


@of("shop")
async def test_a_pattern_denies_columns_and_contradicts_an_export(application: Application) -> None:
    application.given()
    await decide_all(application)
    await application.connection.execute("ALTER TABLE shop_order ADD fraud_rank integer, ADD fit_rank integer")
    assert len((await application.check()).undecided_columns) == 2
    with (application.directory / "tables.sql").open("a") as file:
        file.write("-- deny column *_rank: made by the staff\n-- deny column public.shop_order.tot*: no\n")
    found = await application.check()
    assert found.undecided_columns == []
    assert found.contradictions == ["public.shop_order.total is denied, and exported"]


@of("shop")
async def test_a_line_that_is_not_understood_is_named(application: Application) -> None:
    application.given()
    await decide_all(application)
    with (application.directory / "tables.sql").open("a") as file:
        file.write("-- not personal tables public.x: why\n-- deny table x: why\n-- a remark\n")
    assert (await application.check()).stale == [
        "tables.sql: this line is not understood: -- not personal tables public.x: why",
        "tables.sql: this line is not understood: -- deny table x: why",
    ]


@of("shop")
async def test_a_dataset_of_that_name_is_refused(application: Application) -> None:
    application.given()
    (application.directory / "tables.sql").write_text("SELECT id FROM shop_product WHERE id = $1::bigint ORDER BY id")
    with pytest.raises(ConfigurationError, match=r"tables\.sql: it must have only comments"):
        await application.check()
    with pytest.raises(ConfigurationError, match=r"tables\.sql: it must have only comments"):
        await application.initialize()


@of("shop")
async def test_init_keeps_what_was_decided_about_tables(application: Application) -> None:
    application.given()
    application.replace(
        "tables.sql",
        "-- not personal table public.shop_product (id, title, price)",
        "-- deny table public.shop_product",
    )
    await application.connection.execute("CREATE TABLE zz (id integer, body text)")
    await application.initialize()
    text = application.read("tables.sql")
    assert text.count("public.shop_product") == 1
    assert "-- undecided table public.zz: " in text


@committed("empty")
async def test_each_kind_of_relation_is_handled(application: Application) -> None:
    await application.connection.execute(USERS)
    await initialize(
        application,
        """
        CREATE SCHEMA far;
        CREATE TABLE far.things (id bigint PRIMARY KEY, body text);
        CREATE FOREIGN DATA WRAPPER nothing;
        CREATE SERVER other FOREIGN DATA WRAPPER nothing;
        CREATE FOREIGN TABLE remote (id bigint, user_id bigint, body text) SERVER other;
        CREATE VIEW seen AS SELECT id, email FROM users;
        CREATE MATERIALIZED VIEW kept AS SELECT id, email FROM users;
        CREATE TABLE events (id bigint, user_id bigint REFERENCES users, day date, PRIMARY KEY (id, day))
            PARTITION BY RANGE (day);
        CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        CREATE TABLE animals (id bigint PRIMARY KEY, user_id bigint REFERENCES users, title text);
        CREATE TABLE dogs (nickname text) INHERITS (animals);
        CREATE UNLOGGED TABLE quick (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users);
        """,
    )
    found = await application.check()
    assert found.undecided_tables == ["public.animals", "public.dogs", "public.remote"]
    assert found.undecided_columns == []
    assert list(found.unlinked_tables) == ["far.things"]
    assert not {"dogs.sql", "seen.sql", "kept.sql", "events_1.sql"} & application.files
    assert {"events.sql", "animals.sql.undecided", "quick.sql", "remote.sql.undecided"} <= application.files


@committed("empty")
@pytest.mark.parametrize(
    ("table", "undecided"),
    [("animals", (["public.dogs.nickname"], [])), ("ONLY animals", ([], ["public.dogs"]))],
)
async def test_rows_of_a_table_that_inherits_are_those_of_a_query_that_reads_them(
    application: Application, table: str, undecided: tuple[list[str], list[str]]
) -> None:
    await initialize(
        application,
        f"{USERS} CREATE TABLE animals (id bigint PRIMARY KEY, user_id bigint REFERENCES users, title text);"
        "CREATE TABLE dogs (nickname text) INHERITS (animals);",
    )
    (application.directory / "animals.sql").write_text(
        "-- table: public.animals\n-- key user_id: it finds the rows\n"
        f"SELECT id, title FROM {table} WHERE user_id = $1::bigint ORDER BY id"
    )
    found = await application.check()
    assert (found.undecided_columns, found.undecided_tables) == undecided


@of("shop")
async def test_a_table_that_the_role_cannot_read_is_said(application: Application) -> None:
    application.given()
    await decide_all(application)
    role = f"reader_{uuid4().hex}"
    await application.connection.execute(
        f"CREATE ROLE {role}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};"
        f"CREATE TABLE zz (id integer, body text); SET ROLE {role}"
    )
    found = await application.check()
    await application.connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    assert found.unlinked_tables["public.zz"].endswith("; this role can't read it")

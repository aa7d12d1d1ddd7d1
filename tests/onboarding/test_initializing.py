"""The files that `init` writes for applications unlike the sample."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from onboarding.grants import list_grants
from onboarding.initializing import Outcome
from onboarding.paths import Relation
from onboarding.reports import report_outcome
from service.backends.database import Connection
from service.documents.datasets import Dataset, load_datasets, load_lists, load_user_lists
from service.errors import ConfigurationError
from service.settings import SQL_DIR
from tests.onboarding.conftest import Application, committed, of
from tests.sql.sources import FORBIDDEN, OPERATORS_FORBIDDEN

SCHEMAS = ("forum", "saas", "shop", "social")


@asynccontextmanager
async def least_privileged(application: Application) -> AsyncIterator[Connection]:
    """Connected as the role that `init` and `check --grants` print."""
    role = f"reader_{uuid4().hex}"
    grants = await list_grants(application.connection, application.directory, application.lists, role=role)
    await application.connection.execute("\n".join(grants).replace("…", "sesame"))
    location = urlsplit(application.url)
    url = location._replace(netloc=f"{role}:sesame@{location.hostname}:{location.port}").geturl()
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
        await application.connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def load(connection: Connection, application: Application, user_id_type: str) -> dict[str, Dataset]:
    datasets = await load_datasets(connection, application.directory, user_id_type=user_id_type, forbidden=FORBIDDEN)
    return {dataset.name: dataset for dataset in datasets}


def doubts(outcome: Outcome) -> dict[str, str]:
    return {draft.name: draft.doubt for draft in outcome.drafts.datasets if draft.doubt}


@of("shop")
async def test_the_worked_example_is_what_is_printed(application: Application) -> None:
    outcome = application.given()
    example = (SQL_DIR.parent / "docs" / "operators.md").read_text()
    table = "\n".join(report_outcome(outcome, application.directory)).partition(" lists for operators.")[0]
    assert table in example
    assert application.read("shop_orderitem.sql") in example
    assert all(
        grant in example
        for grant in await list_grants(application.connection, application.directory, application.lists)
        if "shop_order" in grant and "shop_order_" not in grant
    )


@of("shop")
async def test_follows_foreign_keys_through_several_steps(application: Application) -> None:
    application.given()
    datasets = await load(application.connection, application, "bigint")
    found = {name: await application.connection.fetch(dataset.sql, 1) for name, dataset in datasets.items()}
    assert [row["id"] for row in found["shop_order"]] == [100]
    assert [row["id"] for row in found["shop_orderitem"]] == [1000, 1001]
    assert [row["id"] for row in found["shop_return"]] == [5000]
    assert [row["sequence"] for row in found["shop_shipmentevent"]] == [1, 2]


@of("shop")
async def test_names_the_time_of_rows(application: Application) -> None:
    application.given()
    datasets = await load(application.connection, application, "bigint")
    times = {name: dataset.time.name for name, dataset in datasets.items() if dataset.time}
    assert times == {"shop_order": "created_at", "shop_shipmentevent": "happened"}


@of("shop")
async def test_exports_no_secret_and_no_other_users_row(application: Application) -> None:
    application.given()
    datasets = await load(application.connection, application, "bigint")
    rows = [row for dataset in datasets.values() for row in await application.connection.fetch(dataset.sql, 1)]
    text = str(rows)
    assert "ada@example.com" in text
    assert not any(word in text for word in ("pbkdf2", "tok-", "bob"))
    assert "authtoken_token" not in datasets
    assert "-- deny table public.authtoken_token: " in application.read("tables.sql")


@committed("shop")
async def test_the_printed_role_reads_all_datasets_and_lists_and_no_secret(application: Application) -> None:
    await application.initialize()
    async with least_privileged(application) as reader:
        for dataset in (await load(reader, application, "bigint")).values():
            assert await reader.fetch(dataset.sql, 1) is not None
        lists = await load_user_lists(reader, application.directory, forbidden=FORBIDDEN)
        assert [tuple(row) for row in await reader.fetch(lists["export"].sql, None, 1)] == [
            (2, "bob@example.com", "Bob Moss")
        ]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.fetch("SELECT password FROM auth_user")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.fetch("SELECT access_token FROM shop_order")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.fetch("SELECT created FROM authtoken_token")


@committed("shop")
async def test_the_role_follows_what_was_decided(application: Application) -> None:
    before = await application.initialize()
    application.replace("shop_orderitem.sql", "-- shop_orderitem.gift_text,", "shop_orderitem.gift_text,")
    application.replace("shop_order.sql", "    total,\n", "    -- deny total: no\n")
    (application.directory / "shop_return.sql").unlink()
    (application.directory / "users" / "export_full.sql").unlink()
    (application.lists / "users.sql").unlink()
    async with least_privileged(application) as reader:
        datasets = await load(reader, application, "bigint")
        items = await reader.fetch(datasets["shop_orderitem"].sql, 1)
        assert "gift_text" in items[0].keys()  # noqa: SIM118 (a record's `in` looks among its values)
        for forbidden in ("total FROM shop_order", "returned FROM shop_return", "is_superuser FROM auth_user"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.fetch(f"SELECT {forbidden}")
        await application.connection.execute(
            f"REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM {await reader.fetchval('SELECT current_user')}"
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.fetch(datasets["profile"].sql, 1)
    again = await application.initialize()
    assert "gift_text" not in str(before.grants)
    assert "gift_text" in str(again.grants)
    assert list(again.grants) == await list_grants(application.connection, application.directory, application.lists)


@of("shop")
async def test_the_role_reads_a_view_and_not_what_is_behind_it(application: Application) -> None:
    application.given()
    await application.connection.execute("CREATE VIEW risks AS SELECT user_id, risk_score AS level FROM shop_profile")
    (application.directory / "risk.sql").write_text(
        "SELECT user_id FROM risks WHERE user_id = $1::bigint AND level > 1 ORDER BY user_id -- $1; all"
    )
    grants = await list_grants(application.connection, application.directory, application.lists, role="The reader")
    assert 'GRANT SELECT (level, user_id) ON public.risks TO "The reader";' in grants
    assert "risk_score" not in str(grants)


@committed("shop")
async def test_the_role_reads_all_rows_in_spite_of_policies(application: Application) -> None:
    await application.initialize()
    await application.connection.execute("ALTER TABLE shop_order ENABLE ROW LEVEL SECURITY")
    async with least_privileged(application) as reader:
        assert await load(reader, application, "bigint")


@of("shop")
async def test_rights_of_everybody_are_reported(application: Application) -> None:
    application.given()
    await application.connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    closed = await list_grants(application.connection, application.directory, application.lists)
    await application.connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    opened = await list_grants(application.connection, application.directory, application.lists)
    told, statement = opened[len(closed) :]
    assert opened[: len(closed)] == closed
    assert told.startswith("-- Every role may create objects in these schemas")
    assert statement == "-- REVOKE CREATE ON SCHEMA public FROM PUBLIC;"


@of("shop")
async def test_members_of_a_role_that_was_there_are_reported(application: Application) -> None:
    application.given()
    role, maker = f"reader_{uuid4().hex}", f"maker_{uuid4().hex}"
    await application.connection.execute(f"CREATE ROLE {role}; CREATE ROLE {maker}; GRANT {role} TO {maker}")
    warning, member, *grants = await list_grants(
        application.connection, application.directory, application.lists, role=role
    )
    assert warning.startswith("-- The role exists. If you didn't create it, drop it")
    assert member == f"-- Can do what it can: {maker}"
    assert grants[0] == f"GRANT USAGE ON SCHEMA public TO {role};"


@of("shop")
async def test_the_role_is_not_printed_for_a_file_that_does_not_work(application: Application) -> None:
    application.given()
    (application.directory / "two.sql").write_text("SELECT 1; END; DROP TABLE shop_order")
    with pytest.raises(ConfigurationError, match=r"two\.sql doesn't work: .*multiple commands"):
        await list_grants(application.connection, application.directory, application.lists)


@committed("shop")
async def test_where_nothing_temporary_can_be_made_init_says_where_to_ask(application: Application) -> None:
    await application.connection.execute("SET default_transaction_read_only = on")
    outcome = await application.initialize()
    printed = "\n".join(report_outcome(outcome, application.directory))
    assert "(cannot execute CREATE FUNCTION in a read-only transaction): run this on the primary" in printed
    assert "CREATE ROLE" not in printed


@of("shop")
async def test_leaves_what_it_is_not_sure_of_in_comments(application: Application) -> None:
    application.given()
    profile = application.read("shop_profile.sql")
    assert "    -- risk_score,  -- undecided: " in profile
    assert "    -- staff_note,  -- undecided: " in profile
    assert "    -- shop_orderitem.gift_text,  -- undecided: " in application.read("shop_orderitem.sql")
    application.replace("shop_profile.sql", "-- risk_score,", "risk_score,")
    application.replace("shop_orderitem.sql", "-- shop_orderitem.gift_text,", "shop_orderitem.gift_text,")
    datasets = await load(application.connection, application, "bigint")
    assert "risk_score" in {column.name for column in datasets["shop_profile"].columns}
    assert "gift_text" in {column.name for column in datasets["shop_orderitem"].columns}


@of("forum")
async def test_takes_the_address_from_a_table_of_addresses(application: Application) -> None:
    application.given()
    await application.connection.execute(
        """
        INSERT INTO users (id, username) VALUES (1, 'ada');
        INSERT INTO user_emails (user_id, email, "primary")
        VALUES (1, 'old@example.com', false), (1, 'ada@example.com', true)
        """
    )
    datasets = await load(application.connection, application, "bigint")
    profile = await application.connection.fetchrow(datasets["profile"].sql, 1)
    assert profile is not None
    assert (profile["id"], profile["email"]) == (1, "ada@example.com")


@committed("forum")
async def test_an_address_without_a_foreign_key_must_be_believed(application: Application) -> None:
    await application.connection.execute("ALTER TABLE user_emails DROP CONSTRAINT user_emails_user_id_fkey")
    await application.connection.execute("ALTER TABLE user_emails RENAME user_id TO owner")
    await application.initialize()
    assert "NULL::text AS email" in application.read("profile.sql")
    await application.initialize(trust_names=True, force=True)
    async with least_privileged(application) as reader:
        assert await load(reader, application, "bigint")


@of("forum")
async def test_chooses_among_several_ways_and_names_the_others(application: Application) -> None:
    outcome = application.given()
    ways = {draft.name: draft.path for draft in outcome.drafts.datasets if draft.path}
    assert ways["posts"].links[0].columns == ("author_id",)
    assert ways["posts"].relation is Relation.AUTHOR
    assert "-- also linked by reviewer_id to public.users" in application.read("posts.sql")
    assert ways["topics"].links[0].columns == ("user_id",)
    assert application.live_lines("follows.sql.undecided")[-2:] == [
        "WHERE follower_id = $1::bigint",
        "ORDER BY follower_id, followed_id",
    ]


@of("forum")
async def test_never_exports_other_people(application: Application) -> None:
    application.given()
    for name, column in [("posts", "reviewer_id"), ("topics", "last_poster_id"), ("profile", "invited_by_id")]:
        assert f"    -- deny {column}: another person" in application.read(f"{name}.sql")
    assert "    -- key followed_id: another person" in application.read("follows.sql.undecided")
    assert "    -- deny sender_ip: may be another person's address" in application.read("posts.sql")
    assert "    -- quoted_text,  -- undecided: may be about another person" in application.read("posts.sql")
    assert "body," in application.live_lines("posts.sql")


@of("forum")
async def test_doubts_rows_that_may_belong_to_another_person(application: Application) -> None:
    outcome = application.given()
    assert doubts(outcome) == {
        "follows": "its rows only name another person, who isn't exported: choose a column to name them by, "
        "or deny the table",
        "post_revisions": "rows below one that the user made or runs may belong to other people",
        "reviewables": "moderated_by names the user, but the row may belong to another person",
        "visits": "no key without a secret gives its rows a unique order",
    }
    assert {f"{name}.sql.undecided" for name in doubts(outcome)} <= application.files


@of("forum")
async def test_believes_weak_names_when_told_to(application: Application) -> None:
    await application.connection.execute("ALTER TABLE bookmarks RENAME user_id TO owner")
    outcome = await application.initialize()
    assert doubts(outcome)["bookmarks"] == "owner has the name of a link to public.users, but is not a foreign key"
    outcome = await application.initialize(trust_names=True, force=True)
    assert "bookmarks" not in doubts(outcome)
    assert "WHERE owner = $1::bigint" in application.live_lines("bookmarks.sql")


@of("forum")
async def test_views_are_not_tables(application: Application) -> None:
    outcome = application.given()
    assert {"recent_posts", "post_counts"}.isdisjoint(draft.table.name for draft in outcome.drafts.datasets)


@of("social")
async def test_follows_the_users_own_row(application: Application) -> None:
    await application.initialize(own=("account_id",))
    datasets = await load(application.connection, application, "bigint")
    statuses = await application.connection.fetch(datasets["statuses"].sql, 11)
    assert [row["id"] for row in statuses] == [100]
    (account,) = await application.connection.fetch(datasets["accounts"].sql, 11)
    assert account["username"] == "ada"
    assert "private_key" not in account
    assert "    -- deny in_reply_to_account_id: another person" in application.read("statuses.sql")


@of("social")
async def test_a_reply_belongs_to_the_user_who_wrote_it(application: Application) -> None:
    await application.connection.execute(
        "ALTER TABLE statuses ADD visibility integer NOT NULL DEFAULT 0, ADD language text;"
        "CREATE TABLE letters (id bigint PRIMARY KEY, account_id bigint NOT NULL REFERENCES accounts,"
        " recipient_id bigint NOT NULL REFERENCES accounts, parent_id bigint REFERENCES accounts,"
        " body text, pages integer)"
    )
    await application.initialize(own=("account_id",))
    assert {"statuses.text,", "statuses.visibility,", "statuses.language"} <= set(
        application.live_lines("statuses.sql")
    )
    assert "    -- deny in_reply_to_account_id: another person" in application.read("statuses.sql")
    letters = application.read("letters.sql.undecided")
    assert "    -- letters.body,  -- undecided: free text in a row that isn't the user's alone" in letters
    assert "    -- letters.pages,  -- undecided: the row names several people, and its owner is unclear" in letters
    assert "    -- deny recipient_id: another person" in letters


@of("social")
async def test_a_row_that_others_may_share_is_asked_about(application: Application) -> None:
    outcome = application.given()
    why = "public.users.account_id may be shared by several users: if it isn't, run init with --own account_id"
    assert doubts(outcome) == {"accounts": why, "polls": why, "statuses": why}
    assert application.files == {
        "profile.sql", "markers.sql", "tables.sql",
        "accounts.sql.undecided", "polls.sql.undecided", "statuses.sql.undecided",
    }  # fmt: skip


@of("saas")
async def test_a_unique_link_is_the_users_own(application: Application) -> None:
    await application.connection.execute(
        """
        CREATE TABLE identity.people (id bigint PRIMARY KEY, nickname text);
        ALTER TABLE identity.users ADD person_id bigint UNIQUE REFERENCES identity.people
        """
    )
    outcome = await application.initialize()
    assert outcome.drafts.users.own == ("person_id",)
    assert "-- own: person_id" in application.read("profile.sql")
    assert "people.nickname," not in application.read("profile.sql")
    assert "people.nickname" in application.live_lines("people.sql")


@of("saas")
async def test_rows_below_other_people_are_doubted(application: Application) -> None:
    outcome = application.given()
    assert doubts(outcome) == {
        "contacts": "it is about other people, by its name",
        "invitations": "rows below one that the user made or runs may belong to other people",
        "calls": "identity.contacts is about other people, by its name",
    }


@of("saas")
async def test_equal_names_in_two_schemas(application: Application) -> None:
    application.given()
    datasets = await load(application.connection, application, "uuid")
    assert {"events", "identity_events"} <= set(datasets)
    assert "-- table: audit.events\n" in application.read("events.sql")
    assert "-- table: identity.events\n" in application.read("identity_events.sql")


@of("saas")
async def test_partitions_stand_behind_their_table(application: Application) -> None:
    outcome = application.given()
    names = {draft.table.quoted for draft in outcome.drafts.datasets}
    assert "audit.events" in names
    assert not {"audit.events_2024", "audit.events_2025"} & names
    assert "ORDER BY id, occurred_at" in application.live_lines("events.sql")


@of("forum")
async def test_a_row_that_says_nothing_without_another_person_offers_their_public_name(
    application: Application,
) -> None:
    application.given()
    (application.directory / "follows.sql.undecided").rename(application.directory / "follows.sql")
    application.replace("follows.sql", "-- (SELECT other.username", "(SELECT other.username")
    await application.connection.execute(
        "INSERT INTO users (id, username) VALUES (1, 'ada'), (2, 'bob');"
        "INSERT INTO follows (follower_id, followed_id) VALUES (1, 2), (2, 1)"
    )
    datasets = await load(application.connection, application, "bigint")
    (follow,) = await application.connection.fetch(datasets["follows"].sql, 1)
    assert follow["followed_name"] == "bob"
    assert set(follow.keys()) == {"followed_name", "created_at"}
    assert "public.follows" not in (await application.check()).undecided_tables


@of("forum")
async def test_names_the_lists_that_it_does_not_write_and_why(application: Application) -> None:
    outcome = application.given()
    assert (
        "users/export.sql and users/export_full.sql are not written: public.users lacks an e-mail address. "
        "Write them yourself if needed."
    ) in list(report_outcome(outcome, application.directory))


@of("shop")
@pytest.mark.parametrize("name", ["login", "full_name"])
async def test_lists_take_what_stands_for_a_name(application: Application, name: str) -> None:
    await application.connection.execute(
        f"ALTER TABLE auth_user DROP first_name, DROP last_name; ALTER TABLE auth_user RENAME username TO {name}"
    )
    await application.initialize()
    assert f"{name} AS name" in application.live_lines("users/export.sql")


@of("saas")
async def test_uuid_ids_give_no_lists(application: Application) -> None:
    outcome = application.given()
    assert outcome.list_count == 0
    assert "    CARRYOUT_USER_ID_TYPE=uuid" in list(report_outcome(outcome, application.directory))


@committed("quoted")
async def test_quotes_names(application: Application) -> None:
    await application.initialize()
    assert 'WHERE "userId" = $1::text' in application.live_lines("order.sql")
    assert '"select"' in " ".join(application.live_lines("order.sql"))
    assert '    -- deny "authToken": a secret, by its name' in application.read("profile.sql")
    async with least_privileged(application) as reader:
        assert await load(reader, application, "text")


@of("quoted")
async def test_joins_by_quoted_names(application: Application) -> None:
    outcome = application.given()
    assert 'JOIN public."order" AS step_2 ON step_1."orderId" = step_2.id' in application.live_lines("order_notes.sql")
    assert list(doubts(outcome)) == ["line_of_order"]
    assert "isn't known to be unique" in application.read("line_of_order.sql.undecided").splitlines()[0]


@of("quoted")
async def test_names_in_the_csv_header_are_unlike(application: Application) -> None:
    application.given()
    datasets = await load(application.connection, application, "text")
    assert {"order", "public_order_item", "the_dept_order"} <= set(datasets)


@of("shop")
async def test_keeps_files_that_are_there(application: Application) -> None:
    application.given()
    application.replace("shop_order.sql", "-- table: public.shop_order\n", "-- table: public.shop_order\n-- mine\n")
    (application.directory / "shop_order.sql").rename(application.directory / "purchases.sql")
    outcome = await application.initialize()
    assert outcome.kept["public.shop_order"].name == "purchases.sql"
    assert "shop_order.sql" not in application.files
    assert "-- mine" in application.read("purchases.sql")
    printed = "\n".join(report_outcome(outcome, application.directory))
    assert (
        "customer_id                                 -         -          -          purchases.sql (kept)\n" in printed
    )
    assert "7 are exported, 0 undecided, 1 denied; 0 columns of those exported are undecided" in printed
    assert "8 existing files are kept: `carryout check` lists what is undecided in them.\n" in printed


@of("shop")
async def test_force_overwrites(application: Application) -> None:
    application.given()
    before = application.read("shop_order.sql")
    application.replace("shop_order.sql", "-- table: public.shop_order\n", "-- table: public.shop_order\n-- mine\n")
    await application.initialize(force=True)
    assert application.read("shop_order.sql") == before


@of("shop")
async def test_files_that_were_there_and_do_not_load_are_refused(application: Application) -> None:
    application.directory.mkdir()
    (application.directory / "old.sql").write_text("SELECT * FROM shop_order WHERE customer_id = $1::bigint")
    with pytest.raises(ConfigurationError, match=r"old\.sql"):
        await application.initialize()


@of("shop")
async def test_asks_when_two_tables_could_be_the_users(application: Application) -> None:
    await application.connection.execute(
        "CREATE TABLE users (id integer PRIMARY KEY, email text NOT NULL, password text);"
        "ALTER TABLE shop_return ADD agent integer REFERENCES users"
    )
    await application.connection.execute(
        "; ".join(f"CREATE TABLE more_{n} (id integer PRIMARY KEY, user_id integer REFERENCES users)" for n in range(4))
    )
    with pytest.raises(ConfigurationError, match=r"public\.\w+ or public\.\w+.*--users-table"):
        await application.initialize()
    outcome = await application.initialize(users_table="auth_user")
    assert outcome.drafts.users.table.quoted == "public.auth_user"


@of("shop")
async def test_a_database_without_users_is_refused(application: Application) -> None:
    await application.connection.execute("DROP TABLE auth_user CASCADE")
    with pytest.raises(ConfigurationError, match="--users-table"):
        await application.initialize()


@of("shop")
async def test_a_name_with_a_line_break_is_named_and_left_to_people(application: Application) -> None:
    await application.connection.execute('ALTER TABLE shop_order ADD "x\nFROM auth_user --" integer')
    await application.initialize()
    (line,) = [line for line in application.read("shop_order.sql").splitlines() if "FROM auth_user" in line]
    assert line == r"""    -- U&"x\000aFROM auth_user --",  -- undecided: its name has invisible characters"""
    assert r'public.shop_order.U&"x\000aFROM auth_user --"' in (await application.check()).undecided_columns


@of("shop")
async def test_a_table_below_a_secret_is_doubted(application: Application) -> None:
    await application.connection.execute(
        "CREATE TABLE shop_key (secret text PRIMARY KEY, user_id integer NOT NULL REFERENCES auth_user);"
        "CREATE TABLE shop_use (id integer PRIMARY KEY, secret text NOT NULL REFERENCES shop_key, at timestamptz)"
    )
    outcome = await application.initialize()
    assert doubts(outcome) == {
        "shop_key": "no key without a secret gives its rows a unique order",
        "shop_use": "a secret column links its rows to the user",
    }


@of("shop")
async def test_a_table_with_a_secrets_name_is_doubted(application: Application) -> None:
    await application.connection.execute(
        "CREATE TABLE security_answers (id integer PRIMARY KEY, user_id integer NOT NULL REFERENCES auth_user,"
        " question text, answer text)"
    )
    outcome = await application.initialize()
    assert doubts(outcome) == {"security_answers": "it holds secrets, by its name"}


@of("saas")
@pytest.mark.parametrize(
    "profiles",
    [
        "CREATE TABLE identity.persons (id uuid PRIMARY KEY REFERENCES identity.users, nickname text)",
        "CREATE TABLE identity.user_profiles (id uuid PRIMARY KEY, user_id uuid UNIQUE REFERENCES identity.users)",
    ],
    ids=["by its key", "by its name"],
)
async def test_a_link_to_a_row_that_extends_the_users_names_the_user(application: Application, profiles: str) -> None:
    table = profiles.split()[2]
    await application.connection.execute(
        f"{profiles};"
        f"CREATE TABLE complaints (id bigint PRIMARY KEY, assigned_to uuid REFERENCES {table}, severity integer);"
        f"CREATE TABLE mails (id bigint PRIMARY KEY, recipient_id uuid REFERENCES {table},"
        f" sender_id uuid REFERENCES {table}, body text);"
        f"CREATE TABLE essays (id bigint PRIMARY KEY, author_id uuid NOT NULL REFERENCES {table}, title text)"
    )
    outcome = await application.initialize()
    assert doubts(outcome)["complaints"] == "assigned_to names the user, but the row may belong to another person"
    mails = application.read("mails.sql")
    assert f"JOIN {table} ON mails.sender_id = " in mails
    assert "    -- deny recipient_id: another person" in mails
    assert "mails.body" in application.live_lines("mails.sql")
    assert "essays.title" in application.live_lines("essays.sql")
    assert "another person" not in application.read(f"{table.split('.')[1]}.sql")


@of("saas")
async def test_a_row_that_a_user_has_one_of_is_not_a_person(application: Application) -> None:
    await application.connection.execute(
        "CREATE TABLE carts (id bigint PRIMARY KEY, user_id uuid NOT NULL UNIQUE REFERENCES identity.users);"
        "CREATE TABLE cart_items (id bigint PRIMARY KEY, cart_id bigint REFERENCES carts, comment text)"
    )
    await application.initialize()
    assert "-- undecided: free text in a row that isn't the user's alone" in application.read("cart_items.sql")


@of("saas")
async def test_further_ids_of_the_user_have_names_of_their_own(application: Application) -> None:
    await application.connection.execute(
        "CREATE TABLE heads (id bigint PRIMARY KEY, uuid uuid NOT NULL UNIQUE, user_id text, email text);"
        "CREATE TABLE hats (id bigint PRIMARY KEY, head_uuid uuid NOT NULL REFERENCES heads (uuid))"
    )
    await application.initialize(users_table="heads")
    profile = application.live_lines("profile.sql")
    assert profile == ["SELECT", "uuid AS id,", "email,", "id AS id_2", "FROM public.heads", "WHERE uuid = $1::uuid"]
    application.replace("profile.sql", "-- user_id AS user_id_2,", "user_id AS user_id_2,")
    await load(application.connection, application, "uuid")


@of("shop")
async def test_nothing_is_written_without_a_profile_that_works(application: Application) -> None:
    role = f"reader_{uuid4().hex}"
    await application.connection.execute(
        f"CREATE ROLE {role}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};"
        f"REVOKE SELECT ON auth_user FROM {role}; SET ROLE {role}"
    )
    with pytest.raises(ConfigurationError, match=r"profile\.sql: permission denied for table auth_user"):
        await application.initialize()
    assert not application.directory.exists()


@of("saas")
async def test_a_tenant_is_not_another_person(application: Application) -> None:
    await application.connection.execute(
        "CREATE TABLE tenants (id bigint PRIMARY KEY);"
        "CREATE TABLE heads (tenant_id bigint REFERENCES tenants, id bigint UNIQUE, boss_id bigint, email text,"
        " PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, boss_id) REFERENCES heads)"
    )
    await application.initialize(users_table="heads")
    assert "tenant_id" in application.live_lines("profile.sql")
    assert "    -- deny boss_id: another person" in application.read("profile.sql")


@pytest.mark.parametrize("application", [(schema, False) for schema in SCHEMAS], indirect=True, ids=SCHEMAS)
async def test_proposes_a_list_of_users_with_any_type_of_id(application: Application) -> None:
    given = application.given()
    lists = await load_lists(application.connection, application.lists, forbidden=OPERATORS_FORBIDDEN)
    id_ = given.drafts.users.id_column
    assert [column.name for column in lists["users"].key] == [id_.name]

"""`init` and `check` on applications unlike a textbook's: few keys, odd names, several owners, no address."""

import pytest

from onboarding.initializing import Outcome
from onboarding.questions import read_outline
from onboarding.reports import report_outcome
from service.documents.datasets import load_datasets, load_user_search
from tests.onboarding.conftest import Application, committed
from tests.sql.sources import FORBIDDEN

USERS = "CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, name text);"
TWO_USERS = "INSERT INTO users VALUES (1, 'ada@example.com', 'Ada'), (2, 'bob@example.com', 'Bob');"


async def initialize(application: Application, schema: str, **options: object) -> Outcome:
    await application.connection.execute(schema)
    return await application.initialize(**options)


def doubts(outcome: Outcome) -> dict[str, str]:
    return {draft.name: draft.doubt for draft in outcome.drafts.datasets if draft.doubt}


def tables(outcome: Outcome) -> dict[str, str]:
    """The verdicts about tables without a dataset."""
    return {one.table.name: str(one.verdict) for one in outcome.drafts.tables}


async def read(
    application: Application, name: str, user: object = 1, user_id_type: str = "bigint"
) -> list[dict[str, object]]:
    """The rows that the section exports."""
    loaded = await load_datasets(
        application.connection, application.directory, user_id_type=user_id_type, forbidden=FORBIDDEN
    )
    (dataset,) = (one for one in loaded if one.name == name)
    return [dict(row) for row in await application.connection.fetch(dataset.sql, user)]


def columns(application: Application, name: str) -> str:
    return " ".join(application.live_lines(f"{name}.sql"))


@committed("empty")
async def test_ids_run_together_in_lower_case_are_links(application: Application) -> None:
    outcome = await initialize(
        application,
        """
        CREATE TABLE users (id varchar(26) PRIMARY KEY, email varchar(128), username varchar(64));
        CREATE TABLE jottings (id varchar(26) PRIMARY KEY, userid varchar(26) NOT NULL, body text);
        CREATE TABLE pictures (id varchar(26) PRIMARY KEY, creatorid varchar(26) NOT NULL, name text);
        CREATE TABLE essays (id varchar(26) PRIMARY KEY, "authorUserId" varchar(26) NOT NULL, title text);
        CREATE TABLE drafts (id varchar(26) PRIMARY KEY, createdby varchar(26) NOT NULL, title text);
        INSERT INTO jottings VALUES ('n1', 'u1', 'of Ada'), ('n2', 'u2', 'of Bob');
        INSERT INTO users VALUES ('u1', 'ada@example.com', 'ada'), ('u2', 'bob@example.com', 'bob');
        """,
    )
    assert doubts(outcome) == {}
    assert await read(application, "jottings", "u1", "text") == [{"id": "n1", "body": "of Ada"}]
    assert "WHERE creatorid = $1::text" in application.live_lines("pictures.sql")
    assert 'WHERE "authorUserId" = $1::text' in application.live_lines("essays.sql")
    assert "WHERE createdby = $1::text" in application.live_lines("drafts.sql")


@committed("empty")
async def test_weak_names_are_asked_about(application: Application) -> None:
    outcome = await initialize(
        application,
        f"{USERS} CREATE TABLE boats (id bigint PRIMARY KEY, owner bigint, name text);"
        "CREATE TABLE tunes (id bigint PRIMARY KEY, curator_id bigint, name text);",
    )
    assert doubts(outcome) == {"boats": "owner has the name of a link to public.users, but is not a foreign key"}
    assert tables(outcome) == {"tunes": "undecided"}
    assert (await application.check()).unlinked_tables == {
        "public.tunes": "no link to a user was found, but curator_id may be a user's id"
    }


@committed("empty")
async def test_the_row_that_owns_everything_is_asked_about_once(application: Application) -> None:
    schema = """
        CREATE TABLE accounts (id bigint PRIMARY KEY, username text NOT NULL);
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE,
            account_id bigint NOT NULL REFERENCES accounts);
        CREATE TABLE posts (id bigint PRIMARY KEY, account_id bigint NOT NULL REFERENCES accounts, text text);
    """
    outcome = await initialize(application, schema)
    assert set(doubts(outcome)) == {"accounts", "posts"}
    assert "run init with --own account_id" in doubts(outcome)["posts"]
    assert (await application.check()).undecided_tables == ["public.accounts", "public.posts"]
    outcome = await application.initialize(own=("account_id",), force=True)
    assert doubts(outcome) == {}


@committed("empty")
async def test_mails_go_to_the_primary_then_the_verified_address(application: Application) -> None:
    outcome = await initialize(
        application,
        """
        CREATE TABLE users (id bigint PRIMARY KEY, username text NOT NULL UNIQUE);
        CREATE TABLE addresses_of_old (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            email text NOT NULL);
        CREATE TABLE emails (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, email text NOT NULL,
            verified_at timestamptz, "primary" boolean);
        INSERT INTO users VALUES (1, 'ada'), (2, 'bob');
        INSERT INTO addresses_of_old VALUES (1, 1, 'stale@example.com');
        INSERT INTO emails VALUES (1, 1, 'other@example.com', now(), false), (2, 1, 'ada@example.com', NULL, true),
            (3, 2, 'unverified@example.com', NULL, NULL), (4, 2, 'bob@example.com', now(), NULL);
        """,
    )
    assert [row["email"] for row in await read(application, "profile", 1)] == ["ada@example.com"]
    assert [row["email"] for row in await read(application, "profile", 2)] == ["bob@example.com"]
    assert outcome.drafts.address.why == 'public.emails.email, by "primary", then verified_at'
    search = await load_user_search(application.connection, application.directory, forbidden=FORBIDDEN)
    assert search
    assert [row["id"] for row in await application.connection.fetch(search.sql, "bob@example.com")] == [2]
    assert await application.connection.fetch(search.sql, "other@example.com") == []


@committed("empty")
async def test_a_proposal_that_is_not_written_is_named_with_the_reason(application: Application) -> None:
    outcome = await initialize(application, "CREATE TABLE users (name text UNIQUE, password_hash text)")
    said = list(report_outcome(outcome, application.directory))
    assert "requests/by_email.sql is not written: public.users has no e-mail address" in said
    assert (
        "lists/users.sql is not written: public.users.name may be null, so that a download can't be resumed by it"
        in said
    )
    assert not (application.directory / "requests").exists()
    assert not (application.lists / "users.sql").exists()


@committed("empty")
async def test_an_old_copy_of_the_address_is_not_mailed_to(application: Application) -> None:
    outcome = await initialize(
        application,
        """
        CREATE TABLE users (id bigint PRIMARY KEY, username text NOT NULL UNIQUE);
        CREATE TABLE closures (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            primary_email text NOT NULL);
        INSERT INTO users VALUES (1, 'ada');
        """,
    )
    assert [row["email"] for row in await read(application, "profile")] == [None]
    assert "public.closures has one, but perhaps not theirs, or not now" in outcome.drafts.address.why
    assert "users get no mails" in "\n".join(report_outcome(outcome, application.directory))


@committed("empty")
async def test_an_address_in_a_table_linked_by_name(application: Application) -> None:
    await initialize(
        application,
        """
        CREATE TABLE users (id bigint PRIMARY KEY, username text NOT NULL UNIQUE);
        CREATE TABLE user_emails (id bigint PRIMARY KEY, user_id bigint NOT NULL, email text NOT NULL,
            "primary" boolean);
        INSERT INTO users VALUES (1, 'ada');
        INSERT INTO user_emails VALUES (1, 1, 'ada@example.com', true);
        """,
    )
    assert [row["email"] for row in await read(application, "profile")] == ["ada@example.com"]


@committed("empty")
async def test_users_without_any_address_have_a_profile(application: Application) -> None:
    outcome = await initialize(
        application,
        "CREATE TABLE users (id serial PRIMARY KEY, username text NOT NULL UNIQUE);"
        "INSERT INTO users (username) VALUES ('ada')",
    )
    assert await read(application, "profile") == [{"id": 1, "email": None, "username": "ada"}]
    assert outcome.drafts.address.why.startswith("public.users has no e-mail address: profile.sql gives null as email")


@committed("empty")
async def test_an_id_that_may_be_null(application: Application) -> None:
    outcome = await initialize(
        application,
        """
        CREATE TABLE users (name text UNIQUE, email text);
        CREATE TABLE profiles (user_id text NOT NULL UNIQUE, displayname text, avatar_url text);
        CREATE TABLE rooms (room_id text PRIMARY KEY, creator text);
        CREATE TABLE joined (user_id text NOT NULL REFERENCES users (name), room_id text,
            PRIMARY KEY (user_id, room_id));
        INSERT INTO users VALUES ('ada', 'ada@example.com'), (NULL, 'none@example.com');
        INSERT INTO joined VALUES ('ada', 'r1');
        """,
    )
    assert outcome.drafts.users.id_column.name == "name"
    assert [row["id"] for row in await read(application, "profile", "ada", "text")] == ["ada"]
    assert "rooms" in doubts(outcome)


@committed("empty")
async def test_the_words_of_staff_are_not_their_own(application: Application) -> None:
    outcome = await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE user_warnings (id bigint PRIMARY KEY, user_id bigint REFERENCES users,
            target_user_id bigint REFERENCES users, text text NOT NULL);
        CREATE TABLE complaints (id bigint PRIMARY KEY, topic text NOT NULL);
        CREATE TABLE complaint_remarks (id bigint PRIMARY KEY, complaint_id bigint NOT NULL REFERENCES complaints,
            user_id bigint NOT NULL REFERENCES users, content text NOT NULL);
        """,
    )
    assert doubts(outcome) == {
        "user_warnings": "the staff may write about users in it, by its name",
        "complaint_remarks": "the staff may write about users in it, by its name",
    }
    assert "WHERE target_user_id = $1::bigint" in application.live_lines("user_warnings.sql.undecided")
    assert "-- also linked by user_id to public.users" in application.read("user_warnings.sql.undecided")
    assert tables(outcome) == {"complaints": "undecided"}


@committed("empty")
async def test_what_the_staff_do_and_note_is_not_their_own(application: Application) -> None:
    outcome = await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE rooms (id bigint PRIMARY KEY, name text);
        CREATE TABLE blocked_rooms (room_id bigint PRIMARY KEY REFERENCES rooms,
            user_id bigint NOT NULL REFERENCES users);
        CREATE TABLE blocked_accounts (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, label text);
        CREATE TABLE redactions (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, description text);
        CREATE TABLE room_notes (id bigint PRIMARY KEY, room_id bigint NOT NULL REFERENCES rooms,
            user_id bigint NOT NULL REFERENCES users, body text);
        CREATE TABLE notes (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, body text);
        CREATE TABLE issues (id bigint PRIMARY KEY, reported_user_id bigint NOT NULL REFERENCES users, status text);
        CREATE TABLE issue_replies (id bigint PRIMARY KEY, issue_id bigint NOT NULL REFERENCES issues,
            user_id bigint NOT NULL REFERENCES users, body text);
        """,
    )
    found = doubts(outcome)
    assert found.pop("issues") == "reported_user_id names the user, but the row may belong to another person"
    assert found == {
        "blocked_rooms": "it may hold what the staff do to things of others, by its name",
        "redactions": "it may hold what the staff do to things of others, by its name",
        "room_notes": "it may be the staff's notes, by its name",
        "issue_replies": "the staff may write about users in it, by the table that it is about",
    }
    assert "label" in columns(application, "blocked_accounts")
    assert "body" in columns(application, "notes")


@committed("empty")
async def test_the_clerk_who_wrote_a_row_is_not_the_customer_whom_it_is_about(application: Application) -> None:
    await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE customers (id bigint PRIMARY KEY, user_id bigint REFERENCES users, name text);
        CREATE TABLE bookings (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers,
            created_by_id bigint REFERENCES users, cents int);
        INSERT INTO users VALUES (1, 'ada@example.com', 'Ada'), (2, 'clerk@example.com', 'Bob');
        INSERT INTO customers VALUES (7, 1, 'Ada');
        INSERT INTO bookings VALUES (9, 7, 2, 100);
        """,
    )
    assert [row["cents"] for row in await read(application, "bookings", 1)] == [100]
    assert await read(application, "bookings", 2) == []
    assert "-- also linked by created_by_id to public.users" in application.read("bookings.sql")


@committed("empty")
async def test_rows_reached_by_the_unique_name_of_the_user(application: Application) -> None:
    outcome = await initialize(
        application,
        """
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, username text NOT NULL UNIQUE);
        CREATE TABLE push_rules (id bigint PRIMARY KEY, user_name text NOT NULL, rule text, UNIQUE (user_name, rule));
        CREATE TABLE mounts (id bigint PRIMARY KEY, username text, label text);
        CREATE TABLE feeds (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, username text);
        INSERT INTO users VALUES (1, 'ada@example.com', 'ada'), (2, 'bob@example.com', 'bob');
        INSERT INTO push_rules VALUES (3, 'ada', 'loud'), (4, 'bob', 'silent');
        """,
    )
    assert [row["id"] for row in await read(application, "push_rules", 1)] == [3]
    assert doubts(outcome) == {"mounts": "username may hold the user's username, but is not a foreign key"}
    assert "WHERE user_id = $1::bigint" in application.live_lines("feeds.sql")


@committed("empty")
async def test_a_part_of_a_tables_name_is_a_weak_link(application: Application) -> None:
    outcome = await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE shop_listings (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
        CREATE TABLE stolen_goods (id bigint PRIMARY KEY, listing_id bigint NOT NULL, title text);
        CREATE TABLE shop_bids (id bigint PRIMARY KEY, listing_id bigint NOT NULL, cents int);
        """,
    )
    assert doubts(outcome) == {
        "stolen_goods": "listing_id has the name of a link to public.shop_listings, but is not a foreign key"
    }
    assert "cents" in columns(application, "shop_bids")


@committed("empty")
async def test_the_table_with_passwords_is_the_users(application: Application) -> None:
    outcome = await initialize(
        application,
        """
        CREATE TABLE shop_users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, encrypted_password text);
        CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL, user_id bigint REFERENCES shop_users);
        CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers);
        CREATE TABLE refunds (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers);
        """,
    )
    assert outcome.drafts.users.table.name == "shop_users"


@committed("empty")
async def test_an_address_beside_the_user_may_be_another_persons(application: Application) -> None:
    await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE newsletters (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, email text);
        CREATE TABLE customer_profiles (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, email text);
        """,
    )
    asked = "-- email,  -- undecided: an address that may be another person's\n"
    assert asked in application.read("newsletters.sql")
    assert "email" in columns(application, "customer_profiles").split()


@committed("empty")
@pytest.mark.parametrize("table", ["payees", "cosigners", "list_members", "emergency_contacts"])
async def test_people_that_a_user_keeps_are_not_exported(application: Application, table: str) -> None:
    outcome = await initialize(
        application,
        f"{USERS} CREATE TABLE {table} (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, name text);",
    )
    assert doubts(outcome) == {table: "it is about other people, by its name"}


@committed("empty")
@pytest.mark.parametrize(
    "column",
    ["webhook_url", "session_state", "hosted_invoice_url", "private_feed_url", "invite_link", "oauthState", "icalUrl"],
)
async def test_links_that_work_as_keys_are_denied(application: Application, column: str) -> None:
    await initialize(
        application,
        f"{USERS} CREATE TABLE things (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,"
        f' "{column}" text);',
    )
    assert column not in columns(application, "things")
    assert "-- deny " in application.read("things.sql")


@committed("empty")
async def test_links_of_an_unknown_kind_are_asked_about_and_plain_ones_exported(application: Application) -> None:
    await initialize(
        application,
        f"{USERS} CREATE TABLE things (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,"
        " url text, avatar_url text, board_url text);",
    )
    assert "url, avatar_url" in columns(application, "things")
    assert "    -- board_url,  -- undecided: a link, which may work as a key" in application.read("things.sql")


@committed("empty")
async def test_sections_with_text_ids_can_be_joined_and_name_what_they_point_to(application: Application) -> None:
    outcome = await initialize(
        application,
        """
        CREATE TABLE users (id text PRIMARY KEY, email text NOT NULL UNIQUE);
        CREATE TABLE teams (id text PRIMARY KEY, name text NOT NULL);
        CREATE TABLE orders (id text PRIMARY KEY, user_id text NOT NULL REFERENCES users,
            team_id text REFERENCES teams);
        CREATE TABLE lines (id text PRIMARY KEY, order_id text NOT NULL REFERENCES orders, quantity int);
        CREATE TABLE visited (user_id text REFERENCES users, country varchar(2), PRIMARY KEY (user_id, country));
        INSERT INTO users VALUES ('u1', 'ada@example.com');
        INSERT INTO teams VALUES ('t1', 'Engines');
        INSERT INTO orders VALUES ('o1', 'u1', 't1');
        INSERT INTO lines VALUES ('l1', 'o1', 3);
        INSERT INTO visited VALUES ('u1', 'GB');
        """,
    )
    assert await read(application, "orders", "u1", "text") == [{"id": "o1", "team_name": "Engines", "team_id": "t1"}]
    assert await read(application, "lines", "u1", "text") == [{"id": "l1", "order_id": "o1", "quantity": 3}]
    assert await read(application, "visited", "u1", "text") == [{"country": "GB"}]
    assert doubts(outcome) == {}
    assert (await application.check()).is_clean


@committed("empty")
async def test_the_owner_goes_before_those_who_act_on_a_row(application: Application) -> None:
    outcome = await initialize(
        application,
        f"""
        {USERS} {TWO_USERS}
        CREATE TABLE holders (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users);
        CREATE TABLE cards (id bigint PRIMARY KEY, holder_id bigint NOT NULL REFERENCES holders,
            last_frozen_by_id bigint REFERENCES users);
        CREATE TABLE charges (id bigint PRIMARY KEY, card_id bigint NOT NULL REFERENCES cards);
        CREATE TABLE payouts (id bigint PRIMARY KEY, fulfilled_by_id bigint REFERENCES users,
            requested_by_id bigint REFERENCES users, title text);
        CREATE TABLE errands (id bigint PRIMARY KEY, assignee_id bigint REFERENCES users,
            "authorId" bigint REFERENCES users, archived_by_id bigint REFERENCES users, title text);
        INSERT INTO holders VALUES (10, 1), (20, 2);
        INSERT INTO cards VALUES (100, 10, 2), (200, 20, 1);
        INSERT INTO charges VALUES (1000, 100), (2000, 200);
        INSERT INTO payouts VALUES (1, 2, 1, 'of Ada'), (2, 1, 2, 'of Bob');
        INSERT INTO errands VALUES (1, 2, 1, 2, 'of Ada'), (2, 1, 2, 1, 'of Bob');
        """,
    )
    assert doubts(outcome) == {}
    assert [row["id"] for row in await read(application, "cards")] == [100]
    assert [row["id"] for row in await read(application, "charges")] == [1000]
    assert await read(application, "payouts") == [{"id": 1, "title": "of Ada"}]
    assert await read(application, "errands") == [{"id": 1, "title": "of Ada"}]
    assert "-- also linked by last_frozen_by_id to public.users" in application.read("cards.sql")
    assert "-- also linked by fulfilled_by_id to public.users" in application.read("payouts.sql")


@committed("empty")
async def test_an_owner_of_several_kinds_is_asked_about(application: Application) -> None:
    outcome = await initialize(
        application,
        f"""
        {USERS} {TWO_USERS}
        CREATE TABLE badges (id bigint PRIMARY KEY, owner_id bigint NOT NULL, owner_kind int NOT NULL,
            created_by bigint REFERENCES users);
        CREATE TABLE letters (id bigint PRIMARY KEY, user_type text NOT NULL, user_id bigint NOT NULL, subject text);
        INSERT INTO letters VALUES (1, 'User', 1, 'of Ada'), (2, 'Admin', 1, 'of an admin');
        """,
    )
    assert doubts(outcome) == {
        "badges": "an id beside a type is a user's only where the type says so: write the value for users",
        "letters": "an id beside a type is a user's only where the type says so: write the value for users",
    }
    assert "-- also linked by created_by to public.users" in application.read("badges.sql.undecided")
    (application.directory / "letters.sql.undecided").rename(application.directory / "letters.sql")
    assert [row["subject"] for row in await read(application, "letters")] == ["of Ada"]


@committed("empty")
async def test_several_steps_by_name(application: Application) -> None:
    outcome = await initialize(
        application,
        f"""
        {USERS} {TWO_USERS}
        CREATE TABLE imports (id bigint PRIMARY KEY, user_id bigint NOT NULL, filename text);
        CREATE TABLE import_items (id bigint PRIMARY KEY, importid bigint NOT NULL, title text);
        INSERT INTO imports VALUES (10, 1, 'a.csv'), (20, 2, 'b.csv');
        INSERT INTO import_items VALUES (100, 10, 'of Ada'), (200, 20, 'of Bob');
        """,
    )
    assert doubts(outcome) == {}
    assert [row["title"] for row in await read(application, "import_items")] == ["of Ada"]


@committed("empty")
async def test_a_row_behind_a_unique_key_is_followed_forward(application: Application) -> None:
    outcome = await initialize(
        application,
        f"""
        {USERS} {TWO_USERS}
        CREATE TABLE covers (id bigint PRIMARY KEY, subject text);
        CREATE TABLE envelopes (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            cover_id bigint UNIQUE REFERENCES covers);
        INSERT INTO covers VALUES (7, 'of Ada'), (8, 'of Bob');
        INSERT INTO envelopes VALUES (10, 1, 7), (20, 2, 8);
        """,
    )
    assert doubts(outcome) == {}
    assert [row["subject"] for row in await read(application, "covers")] == ["of Ada"]


@committed("empty")
async def test_rows_reached_by_an_address_or_through_a_membership_are_asked_about(application: Application) -> None:
    outcome = await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE signups (id bigint PRIMARY KEY, email text NOT NULL, plan text);
        CREATE TABLE circles (id bigint PRIMARY KEY, name text);
        CREATE TABLE circle_users (user_id bigint REFERENCES users, circle_id bigint REFERENCES circles,
            PRIMARY KEY (user_id, circle_id));
        CREATE TABLE plans (id bigint PRIMARY KEY, circle_id bigint NOT NULL REFERENCES circles, title text);
        """,
    )
    assert doubts(outcome) == {"signups": "email may be the user's: their email would link the rows"}
    assert "JOIN public.users ON signups.email = users.email" in application.live_lines("signups.sql.undecided")
    assert tables(outcome) == {"plans": "undecided", "circles": "not personal"}
    assert (await application.check()).unlinked_tables == {
        "public.plans": "no link to a user was found, but circle_id leads to public.circles and several users may "
        "share its rows"
    }


@committed("empty")
async def test_nullable_links_to_those_who_acted_leave_the_row_its_owners(application: Application) -> None:
    outcome = await initialize(
        application,
        f"{USERS} CREATE TABLE plots (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,"
        " archived_by_id bigint REFERENCES users, title text, area int);",
    )
    assert doubts(outcome) == {}
    assert "title, area" in columns(application, "plots")
    assert "    -- deny archived_by_id: another person" in application.read("plots.sql")
    assert outcome.drafts.questions == 0


@committed("empty")
async def test_names_that_tell_what_a_column_holds_need_no_question(application: Application) -> None:
    await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE posts (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, displayname text,
            iconurl text, callbackurl text, country_code text, entry_code text, public_key text, labels text[],
            hints text[], owner_type text, owner_id bigint, recipient_age int, read_from timestamptz, sent_to text);
        """,
    )
    exported = " ".join(application.live_lines("posts.sql")).split(" FROM ")[0].removeprefix("SELECT ").split(", ")
    assert set(exported) == {
        "id", "displayname", "iconurl", "country_code", "public_key", "labels", "owner_type", "read_from",
    }  # fmt: skip
    text = application.read("posts.sql")
    assert "-- deny callbackurl: a link that may work as a key, by its name\n" in text
    assert "-- entry_code,  -- undecided: may be written by staff, or work as a key\n" in text
    assert "-- hints,  -- undecided: text of an unknown kind\n" in text
    assert "-- recipient_age,  -- undecided: may be about another person\n" in text
    assert "-- sent_to,  -- undecided: text of an unknown kind\n" in text


@committed("empty")
async def test_files_are_proposed_for_columns_that_name_objects_in_storage(application: Application) -> None:
    await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE scans (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, storage_key text,
            filename text, secret_file_key text, entry_key text);
        CREATE TABLE uploads (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, path text, bytes int);
        CREATE TABLE walks (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, path text, name text);
        """,
    )
    proposed = {
        name: [line for line in application.read(f"{name}.sql").splitlines() if " file: " in line]
        for name in ("scans", "uploads", "walks")
    }
    assert proposed == {
        "scans": ["-- -- file: storage_key from uploads as filename"],
        "uploads": ["-- -- file: path from uploads"],
        "walks": [],
    }
    assert await read(application, "scans") == []


@committed("empty")
async def test_columns_of_one_kind_are_asked_about_once(application: Application) -> None:
    outcome = await initialize(
        application,
        USERS
        + "".join(
            f"CREATE TABLE {name} (id bigint PRIMARY KEY, user_id bigint REFERENCES users, metadata jsonb);"
            for name in ("boats", "cars", "trains")
        ),
    )
    assert outcome.drafts.questions == 1
    assert "-- undecided column metadata: jsonb is a type of unknown content: " in application.read("tables.sql")
    assert (await application.check()).undecided_columns == [
        "public.boats.metadata", "public.cars.metadata", "public.trains.metadata",
    ]  # fmt: skip
    application.replace("tables.sql", "-- undecided column metadata", "-- deny column metadata")
    assert (await application.check()).is_clean


@committed("empty")
async def test_the_best_time_and_the_tables_comment(application: Application) -> None:
    await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE trips (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, occurred_at timestamptz,
            created_at timestamptz NOT NULL, inserted_at timestamptz NOT NULL);
        CREATE INDEX ON trips (inserted_at);
        COMMENT ON TABLE trips IS 'Journeys';
        COMMENT ON TABLE users IS E'Broken\\n; DROP TABLE users';
        """,
    )
    assert "-- time: inserted_at\n" in application.read("trips.sql")
    assert "-- title: Journeys\n" in application.read("trips.sql")
    assert "DROP" not in application.read("profile.sql")


@committed("empty")
async def test_values_decide_when_they_may_be_looked_at(application: Application) -> None:
    schema = f"""
        {USERS}
        INSERT INTO users SELECT n, n || '@example.com', 'N' FROM generate_series(1000, 1100) n;
        CREATE TABLE boats (id bigint PRIMARY KEY, owner bigint, name text);
        INSERT INTO boats SELECT n, n, 'Boat ' || n FROM generate_series(1000, 1050) n;
        CREATE TABLE shelves (id bigint PRIMARY KEY, owner bigint, name text);
        INSERT INTO shelves SELECT n, n + 100000, 'Shelf' FROM generate_series(1, 50) n;
        CREATE TABLE letters (id bigint PRIMARY KEY, user_type text NOT NULL, user_id bigint NOT NULL, subject text);
        INSERT INTO letters SELECT n, 'App\\Models\\User', n, 'S' || n FROM generate_series(1000, 1050) n;
        INSERT INTO letters SELECT n, 'Bot', n, 'B' || n FROM generate_series(1, 50) n;
        CREATE TABLE cards (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, label text, region text,
            vendor text);
        INSERT INTO cards SELECT n, n, md5(n::text), 'EU', 'always' FROM generate_series(1000, 1050) n;
    """
    outcome = await initialize(application, schema)
    assert set(doubts(outcome)) == {"boats", "shelves", "letters"}
    outcome = await application.initialize(look=True, force=True)
    assert doubts(outcome) == {}
    assert "WHERE owner = $1::bigint" in application.live_lines("boats.sql")
    assert tables(outcome) == {"shelves": "not personal"}
    assert r"WHERE user_id = $1::bigint AND user_type = 'App\Models\User'" in application.live_lines("letters.sql")
    assert "    -- deny label: its values look like tokens" in application.read("cards.sql")
    assert "    -- deny vendor: all rows that were looked at have the same value" in application.read("cards.sql")
    assert "region" in columns(application, "cards")


@committed("empty")
async def test_looking_at_values_changes_nothing_and_forgives_missing_rights(application: Application) -> None:
    await application.connection.execute(
        f"{USERS} CREATE TABLE boats (id bigint PRIMARY KEY, owner bigint, name text);"
    )
    await application.connection.execute("SET default_transaction_read_only = on")
    outcome = await application.initialize(look=True)
    assert set(doubts(outcome)) == {"boats"}


@committed("empty")
async def test_hostile_names_stay_names(application: Application) -> None:
    long, quotes = "é" * 31, 'a"b--' + "\n; DROP TABLE users; --"
    outcome = await initialize(
        application,
        USERS
        + "".join(
            f'CREATE TABLE "{name}" (id bigint PRIMARY KEY, "{column}" bigint, "user_id" bigint, body text);'
            for name, column in (
                (long, "x"),
                (quotes.replace('"', '""'), "y"),
                ("owner_id\u202e", "owner\u200b"),
                ("a*b", "c, d"),
            )
        )
        + 'CREATE TABLE "za*b" (id int, "we*rd (x)" int); CREATE TABLE "z(1): why" ("x\n-- deny table a.b: c" int);',
    )
    assert outcome
    for path in application.directory.glob("*"):
        if path.is_file():
            assert "\n; DROP" not in path.read_text()
            assert all(line.isprintable() for line in path.read_text().split("\n"))
    found = await application.check()
    assert not found.stale
    assert await application.connection.fetchval("SELECT count(*) FROM users") == 0


@committed("empty")
async def test_links_of_hooks_and_ids_of_sessions_work_as_keys(application: Application) -> None:
    await initialize(
        application,
        f"""{USERS}
        CREATE TABLE web_sessions (id text PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, agent text);
        CREATE TABLE gym_session (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
        CREATE TABLE webhook_endpoints (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, url text);
        CREATE TABLE bookmarks (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, url text);
        CREATE TABLE commands (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, url text);
        CREATE TABLE robots (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, url text, token text);
        CREATE TABLE incominghooks (id text PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, label text);
        """,
    )
    assert "-- deny url: a link that may work as a key, by its table's name\n" in application.read("commands.sql")
    asked = "-- url,  -- undecided: a link that the application may call, by the columns beside it\n"
    assert asked in application.read("robots.sql")
    assert "-- key id: the id of a hook without another secret, which may work as a key\n" in application.read(
        "incominghooks.sql"
    )
    assert "-- key id: the id of a session, which may work as a key\n" in application.read("web_sessions.sql")
    assert "id," in application.live_lines("gym_session.sql")
    assert "-- deny url: a link that may work as a key, by its table's name\n" in application.read(
        "webhook_endpoints.sql"
    )
    assert "url" in application.live_lines("bookmarks.sql")


@committed("empty")
async def test_what_others_answered_is_asked_about(application: Application) -> None:
    await initialize(
        application,
        f"{USERS} CREATE TABLE claims (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, message text,"
        " response_message text, transfer_email text);",
    )
    text = application.read("claims.sql")
    assert "message" in columns(application, "claims").split()
    assert "-- response_message,  -- undecided: may be about another person\n" in text
    assert "-- transfer_email,  -- undecided: may be about another person\n" in text


@committed("empty")
async def test_ids_that_need_no_question(application: Application) -> None:
    outcome = await initialize(
        application,
        f"""
        {USERS}
        CREATE TYPE hue AS ENUM ('red', 'blue');
        CREATE TABLE gauges (user_id bigint NOT NULL REFERENCES users, gauge_id bigint NOT NULL, label text,
            PRIMARY KEY (user_id, gauge_id));
        CREATE TABLE readings (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, gauge_id bigint,
            external_id text, provider_account_id text, hues hue[], use_legacy_scale bool, valve_id bigint,
            user_agent text);
        CREATE TABLE muted (user_id bigint NOT NULL REFERENCES users, muted_user_id bigint NOT NULL REFERENCES users,
            PRIMARY KEY (user_id, muted_user_id));
        CREATE TABLE leavers (user_id bigint PRIMARY KEY REFERENCES users);
        """,
    )
    assert set(read_outline(application.directory / "readings.sql").exported) == {
        "id", "gauge_id", "external_id", "provider_account_id", "hues", "use_legacy_scale", "user_agent",
    }  # fmt: skip
    assert "-- valve_id,  -- undecided: an id that no foreign key explains" in application.read("readings.sql")
    assert read_outline(application.directory / "leavers.sql").exported == ("user_id",)
    assert "muted_user_id" not in application.live_lines("muted.sql.undecided")
    assert set(doubts(outcome)) == {"muted"}


@committed("empty")
async def test_a_row_that_a_user_has_one_of_is_theirs_whoever_else_it_names(application: Application) -> None:
    await initialize(
        application,
        f"{USERS} CREATE TABLE cards (user_id bigint NOT NULL UNIQUE REFERENCES users,"
        " backup_user_id bigint REFERENCES users, title text);",
    )
    assert read_outline(application.directory / "cards.sql").exported == ("title",)


@committed("empty")
async def test_rows_that_are_linked_by_the_name_of_a_key(application: Application) -> None:
    outcome = await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE library (film_id text PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
        CREATE TABLE stills (id bigint PRIMARY KEY, film_id text NOT NULL, title text);
        CREATE TABLE clips (id bigint PRIMARY KEY, film_id text NOT NULL, title text);
        CREATE INDEX ON clips (film_id);
        """,
    )
    assert doubts(outcome) == {"stills": "film_id has the name of the key of public.library, but is not a foreign key"}
    assert "title" in read_outline(application.directory / "clips.sql").exported


@committed("empty")
async def test_a_table_whose_parts_hold_a_persons_data_is_asked_about(application: Application) -> None:
    await initialize(
        application,
        f"""
        {USERS}
        CREATE TABLE sittings (sitting text PRIMARY KEY, began bigint);
        CREATE TABLE sittings_ips (sitting text REFERENCES sittings, ip text, PRIMARY KEY (sitting, ip));
        CREATE TABLE towns (id int PRIMARY KEY, kind int);
        CREATE TABLE deliveries (id int PRIMARY KEY, town_id int REFERENCES towns, phone text);
        """,
    )
    unlinked = (await application.check()).unlinked_tables
    assert unlinked["public.sittings"] == (
        "no link to a user was found, but public.sittings_ips, a part of it, may be a person's"
    )
    assert "public.towns" not in unlinked

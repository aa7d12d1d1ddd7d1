"""The columns that `init` exports and the lines that `check` prints, of small schemas of one difficulty each."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from onboarding.questions import read_outline
from onboarding.reports import report_findings
from tests.onboarding.conftest import Application
from tests.onboarding.test_applications import USERS, initialize
from tests.sql.databases import open_database

DECIDED = ["Each table and each column of the database is decided."]
LINKED = "Undecided tables that point to the user:"
UNLINKED = "Undecided tables that nothing links to the user, the most suspicious first:"
COLUMNS = "Undecided columns:"
STAFFS = "no link to a user was found, but the staff may write about users in it"


class Kind(NamedTuple):
    """`exported` are the columns of each section, `mails` is where mails go, `said` are the lines of `check`."""

    schema: str
    exported: dict[str, str]
    said: list[str]
    mails: str = "public.users.email"


KINDS = {
    "ids run together": Kind(
        """
        CREATE TABLE users (id varchar(20) PRIMARY KEY, email varchar(200));
        CREATE TABLE memos (id varchar(20) PRIMARY KEY, userid varchar(20) NOT NULL, title text);
        CREATE TABLE songs (id varchar(20) PRIMARY KEY, creatorid varchar(20) NOT NULL, title text);
        CREATE TABLE poems (id varchar(20) PRIMARY KEY, author_id varchar(20) NOT NULL, title text);
        CREATE INDEX ON memos (userid);
        """,
        {"profile": "id email", "poems": "id title", "memos": "id title", "songs": "id title"},
        DECIDED,
    ),
    "everything hangs on a row that the user points to": Kind(
        """
        CREATE TABLE accounts (id bigint PRIMARY KEY, handle text NOT NULL);
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE,
            account_id bigint NOT NULL REFERENCES accounts);
        CREATE TABLE toots (id bigint PRIMARY KEY, account_id bigint NOT NULL REFERENCES accounts, text text);
        CREATE TABLE bonds (id bigint PRIMARY KEY, account_id bigint NOT NULL REFERENCES accounts,
            target_account_id bigint NOT NULL REFERENCES accounts);
        CREATE TABLE choices (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, locale text);
        """,
        {"profile": "id email account_id", "choices": "id locale"},
        [LINKED, "    public.accounts", "    public.bonds", "    public.toots"],
    ),
    "the address stands in a table of its own": Kind(
        """
        CREATE TABLE users (id bigint PRIMARY KEY, username text NOT NULL UNIQUE);
        CREATE TABLE mailboxes_email (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            email text NOT NULL, is_primary boolean NOT NULL, verified boolean NOT NULL);
        CREATE TABLE bygones (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            primary_email text NOT NULL);
        """,
        {"profile": "id email username", "mailboxes_email": "id email is_primary verified", "bygones": "id"},
        [COLUMNS, "    public.bygones.primary_email"],
        mails="public.mailboxes_email.email, by is_primary, then verified",
    ),
    "the staff write about users": Kind(
        f"""
        {USERS}
        CREATE TABLE user_strikes (id bigint PRIMARY KEY, user_id bigint REFERENCES users,
            target_user_id bigint REFERENCES users, text text NOT NULL);
        CREATE TABLE moderation_memos (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            target_user_id bigint NOT NULL REFERENCES users, content text);
        CREATE TABLE disputes (id bigint PRIMARY KEY, topic text);
        CREATE TABLE dispute_memos (id bigint PRIMARY KEY, dispute_id bigint NOT NULL REFERENCES disputes,
            user_id bigint NOT NULL REFERENCES users, content text);
        """,
        {"profile": "id email name"},
        [
            LINKED, "    public.dispute_memos", "    public.moderation_memos", "    public.user_strikes",
            UNLINKED, f"    public.disputes: {STAFFS}",
        ],
    ),
    "links and states that work as keys": Kind(
        f"""
        {USERS}
        CREATE TABLE robots (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, webhook_url text);
        CREATE TABLE logins (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, provider text,
            session_state text);
        CREATE TABLE receipts (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            hosted_receipt_url text, cents int);
        CREATE TABLE planners (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            private_feed_url text, invite_link text);
        """,
        {
            "profile": "id email name", "robots": "id", "logins": "id provider", "receipts": "id cents",
            "planners": "id",
        },
        DECIDED,
    ),
    "ids are texts": Kind(
        """
        CREATE TABLE users (id text PRIMARY KEY, email text NOT NULL UNIQUE);
        CREATE TABLE crews (id text PRIMARY KEY, name text NOT NULL);
        CREATE TABLE parcels (id text PRIMARY KEY, user_id text NOT NULL REFERENCES users,
            crew_id text REFERENCES crews, title text);
        CREATE TABLE items (id text PRIMARY KEY, parcel_id text NOT NULL REFERENCES parcels, quantity int);
        CREATE TABLE crew_roles (user_id text REFERENCES users, crew_id text REFERENCES crews, role text NOT NULL,
            PRIMARY KEY (user_id, crew_id));
        """,
        {
            "profile": "id email", "parcels": "id crew_id crew_name title", "items": "id parcel_id quantity",
            "crew_roles": "crew_id crew_name role",
        },
        DECIDED,
    ),
    "the shortest way is a clerk's": Kind(
        f"""
        {USERS}
        CREATE TABLE renters (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users);
        CREATE TABLE lockers (id bigint PRIMARY KEY, renter_id bigint NOT NULL REFERENCES renters,
            last_locked_by_id bigint REFERENCES users, size int);
        CREATE TABLE fees (id bigint PRIMARY KEY, locker_id bigint NOT NULL REFERENCES lockers, cents int);
        CREATE TABLE refunds (id bigint PRIMARY KEY, fulfilled_by_id bigint REFERENCES users,
            requested_by_id bigint REFERENCES users, cents int);
        """,
        {
            "profile": "id email name", "renters": "id", "refunds": "id cents", "lockers": "id renter_id size",
            "fees": "id locker_id cents",
        },
        DECIDED,
    ),
    "the owner may be of several kinds": Kind(
        f"""
        {USERS}
        CREATE TABLE gadgets (id bigint PRIMARY KEY, name text);
        CREATE TABLE gadget_owners (gadget_id bigint REFERENCES gadgets, owner_id bigint NOT NULL,
            owner_kind int NOT NULL, created_by bigint REFERENCES users, PRIMARY KEY (gadget_id, owner_id, owner_kind));
        """,
        {"profile": "id email name"},
        [LINKED, "    public.gadget_owners"],
    ),
    "the second step has a name only": Kind(
        f"""
        {USERS}
        CREATE TABLE batches (id bigint PRIMARY KEY, user_id bigint NOT NULL, filename text);
        CREATE TABLE batch_lines (id bigint PRIMARY KEY, batch_id bigint NOT NULL, title text);
        """,
        {"profile": "id email name", "batches": "id filename", "batch_lines": "id batch_id title"},
        DECIDED,
    ),
    "users have no address": Kind(
        """
        CREATE TABLE users (id serial PRIMARY KEY, username text NOT NULL UNIQUE);
        CREATE TABLE channels (id bigserial PRIMARY KEY, user_id int NOT NULL REFERENCES users, title text NOT NULL);
        """,
        {"profile": "id email username", "channels": "id title"},
        DECIDED,
        mails="public.users has no e-mail address",
    ),
    "the id may be null": Kind(
        """
        CREATE TABLE users (name text UNIQUE, password_hash text, email text);
        CREATE TABLE halls (hall_id text PRIMARY KEY, creator text);
        CREATE TABLE visits (user_id text NOT NULL REFERENCES users (name), hall_id text NOT NULL REFERENCES halls,
            PRIMARY KEY (user_id, hall_id));
        """,
        {"profile": "id email", "visits": "hall_id"},
        [LINKED, "    public.halls"],
    ),
    "the address is linked by its name": Kind(
        """
        CREATE TABLE users (id bigint PRIMARY KEY, username text NOT NULL UNIQUE);
        CREATE TABLE user_emails (id bigint PRIMARY KEY, user_id bigint NOT NULL, email text NOT NULL,
            "primary" boolean NOT NULL);
        CREATE TABLE replies (id bigint PRIMARY KEY, user_id bigint NOT NULL, body text);
        """,
        {"profile": "id email username", "replies": "id body", "user_emails": 'id email "primary"'},
        DECIDED,
        mails='public.user_emails.email, by "primary"',
    ),
    "the user is of several kinds": Kind(
        f"""
        {USERS}
        CREATE TABLE admins (id bigint PRIMARY KEY, login text NOT NULL);
        CREATE TABLE letters (id bigint PRIMARY KEY, user_type text NOT NULL, user_id bigint NOT NULL, subject text);
        """,
        {"profile": "id email name"},
        [LINKED, "    public.letters", UNLINKED, f"    public.admins: {STAFFS}"],
    ),
    "moderators act on others": Kind(
        f"""
        {USERS}
        CREATE TABLE mod_deeds (id bigint PRIMARY KEY, creator_id bigint NOT NULL REFERENCES users, description text);
        CREATE TABLE user_opinions (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            creator_id bigint NOT NULL REFERENCES users, category text, body text);
        """,
        {"profile": "id email name", "user_opinions": "id category"},
        [LINKED, "    public.mod_deeds", COLUMNS, "    public.user_opinions.body"],
    ),
    "payees beside the user": Kind(
        f"""
        {USERS}
        CREATE TABLE sent_wires (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, amount int,
            address_city text, bank_name text);
        CREATE TABLE mail_accounts (id bigint PRIMARY KEY, creator_id bigint NOT NULL REFERENCES users,
            first_name text, backup_email text, state text);
        """,
        {"profile": "id email name", "sent_wires": "id amount", "mail_accounts": "id state"},
        [
            COLUMNS, "    public.mail_accounts.first_name", "    public.mail_accounts.backup_email",
            "    public.sent_wires.address_city", "    public.sent_wires.bank_name",
        ],
    ),
    "visitors of what is the user's": Kind(
        f"""
        {USERS}
        CREATE TABLE sites (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
        CREATE TABLE signing_sessions (id bigint PRIMARY KEY, site_id bigint NOT NULL REFERENCES sites, lasted int);
        CREATE TABLE news_subscriptions (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, email text,
            locale text);
        """,
        {"profile": "id email name", "sites": "id title"},
        [LINKED, "    public.news_subscriptions", "    public.signing_sessions"],
    ),
    "others put the user on their lists": Kind(
        f"""
        {USERS}
        CREATE TABLE lists (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
        CREATE TABLE list_entries (id bigint PRIMARY KEY, list_id bigint NOT NULL REFERENCES lists,
            user_id bigint NOT NULL REFERENCES users);
        """,
        {"profile": "id email name", "lists": "id title"},
        [LINKED, "    public.list_entries"],
    ),
    "another party's address beside the user's row": Kind(
        f"""
        {USERS}
        CREATE TABLE addresses (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, city text);
        CREATE TABLE bargains (id bigint PRIMARY KEY, seller_id bigint NOT NULL REFERENCES users,
            buyer_id bigint REFERENCES users, address_id bigint REFERENCES addresses, created_at timestamptz);
        """,
        {"profile": "id email name", "addresses": "id city"},
        [LINKED, "    public.bargains"],
    ),
    "an id opens the row": Kind(
        f"""
        {USERS}
        CREATE TABLE shortcode (id text PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
        """,
        {"profile": "id email name", "shortcode": "title"},
        DECIDED,
    ),
    "nothing but its name says that a table is about users": Kind(
        f"""
        {USERS}
        CREATE TABLE user_payouts (id bigint PRIMARY KEY, currency text);
        """,
        {"profile": "id email name"},
        [UNLINKED, "    public.user_payouts: no link to a user was found, but its name says that it is about users"],
    ),
    "the staff decide about the user's account": Kind(
        """
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, name text, reviewed_at timestamptz,
            requested_review_at timestamptz, checks_bypassed boolean, limit_suppressed_until timestamptz,
            immune_to_removal boolean, superapp boolean, istrusted boolean, airtable_status text, blocked_email text,
            can_write_many boolean, developer boolean);
        CREATE TABLE pictures (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, is_flagged boolean,
            allowed boolean, size int);
        """,
        {"profile": "id email name", "pictures": "id size"},
        [
            COLUMNS, *(
                f"    public.users.{name}" for name in (
                    "reviewed_at", "requested_review_at", "checks_bypassed", "limit_suppressed_until",
                    "immune_to_removal", "superapp", "istrusted", "airtable_status", "blocked_email", "can_write_many",
                    "developer",
                )
            ),
            "    public.pictures.is_flagged", "    public.pictures.allowed",
        ],
    ),
    "the staff's measures have tables of their own": Kind(
        f"""
        {USERS}
        CREATE TABLE hint_suppressions (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users);
        CREATE TABLE ratelimit_exceptions (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, calls int);
        CREATE TABLE superuser_powers (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, kind int);
        CREATE TABLE redactions (id bigint PRIMARY KEY, title text);
        CREATE TABLE drawings (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            redaction_id bigint REFERENCES redactions);
        """,
        {"profile": "id email name", "drawings": "id"},
        [
            LINKED, "    public.hint_suppressions", "    public.ratelimit_exceptions", "    public.superuser_powers",
            COLUMNS, "    public.drawings.redaction_id",
        ],
    ),
    "others put the user into their collections": Kind(
        f"""
        {USERS}
        CREATE TABLE collections (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
        CREATE TABLE collection_items (id bigint PRIMARY KEY, collection_id bigint NOT NULL REFERENCES collections,
            user_id bigint NOT NULL REFERENCES users);
        CREATE TABLE songs (id bigint PRIMARY KEY, collection_id bigint NOT NULL REFERENCES collections,
            user_id bigint NOT NULL REFERENCES users, title text);
        """,
        {"profile": "id email name", "collections": "id title", "songs": "id collection_id title"},
        [LINKED, "    public.collection_items"],
    ),
    "acts of visitors": Kind(
        f"""
        {USERS}
        CREATE TABLE sites (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
        CREATE TABLE visits (id bigint PRIMARY KEY, site_id bigint NOT NULL REFERENCES sites, lasted int);
        CREATE TABLE clicks (id bigint PRIMARY KEY, site_id bigint NOT NULL REFERENCES sites,
            visit_id bigint NOT NULL REFERENCES visits, x int);
        CREATE TABLE click_values (id bigint PRIMARY KEY, site_id bigint NOT NULL REFERENCES sites,
            click_id bigint NOT NULL REFERENCES clicks, amount int);
        """,
        {"profile": "id email name", "sites": "id title"},
        [LINKED, "    public.click_values", "    public.clicks", "    public.visits"],
    ),
    "others act on what is the user's": Kind(
        f"""
        {USERS}
        CREATE TABLE posts (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
        CREATE TABLE pats (id bigint PRIMARY KEY, post_id bigint NOT NULL REFERENCES posts,
            patter_id bigint NOT NULL REFERENCES users, created_at timestamptz);
        """,
        {"profile": "id email name", "posts": "id title"},
        [LINKED, "    public.pats"],
    ),
    "two parties": Kind(
        f"""
        {USERS}
        CREATE TABLE sales (id bigint PRIMARY KEY, title text);
        CREATE TABLE offers (id bigint PRIMARY KEY, seller_id bigint NOT NULL REFERENCES users,
            buyer_id bigint REFERENCES users, sale_id bigint REFERENCES sales, price int);
        """,
        {"profile": "id email name"},
        [LINKED, "    public.offers"],
    ),
    "others beside what the user made": Kind(
        f"""
        {USERS}
        CREATE TABLE mail_accounts (id bigint PRIMARY KEY, creator_id bigint NOT NULL REFERENCES users, address text,
            size int);
        CREATE TABLE bills (id bigint PRIMARY KEY, creator_id bigint NOT NULL REFERENCES users, cents int,
            payment_method_card_brand text);
        CREATE TABLE forms (id bigint PRIMARY KEY, uploaded_by_id bigint NOT NULL REFERENCES users, size int, url text);
        CREATE TABLE presents (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            sent_by_id bigint NOT NULL REFERENCES users, cents int, greeting_message text);
        """,
        {
            "profile": "id email name", "mail_accounts": "id size", "bills": "id cents", "forms": "id size",
            "presents": "id cents",
        },
        [
            COLUMNS, "    public.bills.payment_method_card_brand", "    public.forms.url",
            "    public.mail_accounts.address", "    public.presents.greeting_message",
        ],
    ),
    "rows reached by a text, or by way of another table": Kind(
        f"""
        {USERS}
        CREATE TABLE limits (key text, bucket date, hits int, PRIMARY KEY (key, bucket));
        CREATE TABLE blobs (id bigint PRIMARY KEY, filename text NOT NULL, bytes int);
        CREATE TABLE switches (key text PRIMARY KEY, is_on boolean);
        """,
        {"profile": "id email name"},
        [
            UNLINKED, "    public.limits: no link to a user was found, but key may be a user's id",
            "    public.blobs: no link to a user was found, but filename may be written by a user",
        ],
    ),
    "the id of a verification proves it": Kind(
        f"""
        {USERS}
        CREATE TABLE verification_records (id varchar(21) PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            created_at timestamptz);
        """,
        {"profile": "id email name", "verification_records": "created_at"},
        DECIDED,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
async def empty(server_url: str) -> AsyncIterator[str]:
    async with open_database(server_url) as url:
        yield url


@pytest.fixture
async def application(empty: str, tmp_path: Path) -> AsyncIterator[Application]:
    connection = await asyncpg.connect(empty)
    transaction = connection.transaction()
    await transaction.start()
    yield Application(empty, connection, tmp_path / "datasets")
    await transaction.rollback()
    await connection.close()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_what_is_exported_and_what_check_says(application: Application, kind: Kind) -> None:
    outcome = await initialize(application, kind.schema)
    exported = {path.stem: sorted(read_outline(path).exported) for path in application.directory.glob("*.sql")}
    assert exported == {name: sorted(columns.split()) for name, columns in kind.exported.items()} | {"tables": []}
    assert outcome.drafts.address.why.startswith(kind.mails)
    assert list(report_findings(await application.check())) == kind.said

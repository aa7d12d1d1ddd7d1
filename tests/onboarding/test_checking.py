"""`check` finds changes of the application's schema and of an operator's decisions."""

from uuid import uuid4

from onboarding.checking import Findings, check
from service.settings import SQL_DIR
from tests.onboarding.conftest import Application, of
from tests.support.factories import Connection


async def decide_all(application: Application) -> None:
    """Deny every undecided column and table."""
    found = await application.check()
    for table in found.undecided_tables:
        application.replace("profile.sql", "-- users: ", f"-- deny table {table}: decided\n-- users: ")
    for table in found.unlinked_tables:
        application.replace("profile.sql", "-- users: ", f"-- deny table {table}: decided\n-- users: ")
    for column in found.undecided_columns:
        table, _, name = column.rpartition(".")
        path = next(path for path in application.directory.glob("*.sql") if f"-- table: {table}\n" in path.read_text())
        application.replace(path.name, f"-- table: {table}\n", f"-- table: {table}\n-- deny {name}: decided\n")
    assert (await application.check()).is_clean


@of("shop")
async def test_names_what_init_left_open(application: Application) -> None:
    application.given()
    assert await application.check() == Findings(
        undecided_tables=[],
        undecided_columns=[
            "public.auth_user.is_superuser",
            "public.shop_profile.risk_score",
            "public.shop_profile.staff_note",
            "public.shop_orderitem.gift_text",
        ],
        contradictions=[],
        stale=[],
    )


async def test_our_own_datasets_leave_nothing_open(database: Connection) -> None:
    assert await check(database, SQL_DIR / "datasets") == Findings([], [], [], [])


@of("forum")
async def test_is_clean_when_all_is_decided(application: Application) -> None:
    application.given()
    assert (await application.check()).undecided_tables == [
        "public.follows",
        "public.reviewables",
        "public.visits",
        "public.post_revisions",
    ]
    await decide_all(application)


@of("saas")
async def test_sees_through_partitions(application: Application) -> None:
    application.given()
    await decide_all(application)
    await application.connection.execute("ALTER TABLE audit.events ADD device text")
    assert (await application.check()).undecided_columns == ["audit.events.device"]


@of("saas")
async def test_a_partitioned_table_without_partitions_can_be_decided(application: Application) -> None:
    """As in a CI's database: what makes partitions has not run there."""
    application.given()
    await decide_all(application)
    await application.connection.execute("DROP TABLE audit.events_2024, audit.events_2025")
    assert (await application.check()).is_clean
    await application.connection.execute("ALTER TABLE audit.events ADD device text")
    assert (await application.check()).undecided_columns == ["audit.events.device"]


@of("shop")
async def test_names_new_columns_and_tables_however_far(application: Application) -> None:
    application.given()
    await decide_all(application)
    await application.connection.execute(
        "ALTER TABLE shop_return ADD reason_given text;"
        "CREATE TABLE shop_refund (id integer PRIMARY KEY, return_id bigint NOT NULL REFERENCES shop_return)"
    )
    found = await application.check()
    assert found.undecided_columns == ["public.shop_return.reason_given"]
    assert found.undecided_tables == ["public.shop_refund"]


@of("shop")
async def test_names_decisions_about_what_is_gone(application: Application) -> None:
    application.given()
    await decide_all(application)
    await application.connection.execute(
        "ALTER TABLE shop_order DROP access_token; DROP TABLE authtoken_token; ALTER TABLE shop_return DROP returned;"
        "DROP TABLE shop_shipmentevent"
    )
    assert (await application.check()).stale == [
        "shop_return.sql doesn't work: column shop_return.returned does not exist",
        'shop_shipmentevent.sql doesn\'t work: relation "public.shop_shipmentevent" does not exist',
        "shop_order.sql decides about public.shop_order.access_token, which is not a column",
        "shop_shipmentevent.sql is about public.shop_shipmentevent, which is not a table",
        "tables.sql decides about public.authtoken_token, which is not a table",
    ]


@of("shop")
async def test_names_contradictions(application: Application) -> None:
    application.given()
    application.replace("profile.sql", "-- users: ", "-- deny table public.shop_return: no\n-- users: ")
    application.replace("shop_order.sql", "SELECT\n", "-- deny total: no\nSELECT\n")
    assert (await application.check()).contradictions == [
        "public.shop_order.total is denied, and exported",
        "public.shop_return is denied, and exported",
    ]


@of("shop")
async def test_a_denial_without_a_table_is_named(application: Application) -> None:
    application.given()
    application.replace("shop_order.sql", "-- table: public.shop_order\n", "")
    assert (
        "shop_order.sql denies columns without naming their table: add `-- table: schema.name`"
        in (await application.check()).stale
    )


@of("shop")
async def test_a_column_inside_an_expression_or_behind_a_view_is_decided(application: Application) -> None:
    application.given()
    await application.connection.execute("CREATE VIEW risks AS SELECT user_id, risk_score AS level FROM shop_profile")
    (application.directory / "risk.sql").write_text(
        "SELECT user_id, 'level ' || level AS level FROM risks WHERE user_id = $1::bigint ORDER BY user_id"
    )
    assert "public.shop_profile.risk_score" not in (await application.check()).undecided_columns


@of("shop")
async def test_a_query_that_may_not_be_run_hides_no_other(application: Application) -> None:
    application.given()
    role = f"reader_{uuid4().hex}"
    await application.connection.execute(
        f"CREATE ROLE {role}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};"
        f"REVOKE SELECT ON shop_return FROM {role}; SET ROLE {role}"
    )
    found = await application.check()
    await application.connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    assert found.stale[0] == "shop_return.sql doesn't work: permission denied for table shop_return"
    assert found.undecided_tables == ["public.shop_return"]


@of("social")
async def test_remembers_the_users_own_rows(application: Application) -> None:
    await application.initialize(own=("account_id",))
    found = await application.check()
    assert not found.undecided_tables
    (application.directory / "polls.sql").unlink()
    assert (await application.check()).undecided_tables == ["public.polls"]


@of("quoted")
async def test_reads_quoted_names(application: Application) -> None:
    application.given()
    await decide_all(application)

"""The schema is its owner's alone: what another role made there first is refused, and the serving role owns nothing."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from devstack.roles import OWNER, SERVICE, make_roles
from devstack.stack import Stack
from service.backends.database import check_schema, connect, grant_serving_role, may_change_trail, migrate
from service.errors import ConfigurationError
from service.resources import open_resources
from service.settings import SQL_DIR, Settings
from tests.conftest import PUBLIC_URL, open_client
from tests.sql.databases import database_environ, migrate_as_owner, owner_url, serving_url
from tests.support.factories import Connection
from tests.support.scraping import scrape

UNGUARDED = "carryout_audit_trail_unguarded"
MIGRATIONS_TABLE = (
    "CREATE TABLE carryout.schema_migrations (name text PRIMARY KEY, sha256 bytea NOT NULL, applied_at timestamptz)"
)
# As any role of the application may be: it can make schemas, and functions.
PLANTED = """
CREATE FUNCTION public.take() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER ROLE {role} SUPERUSER');
  RETURN NEW;
END
$$;
CREATE FUNCTION public.take_name() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER ROLE {role} SUPERUSER');
  RETURN 'x';
END
$$;
"""
# Before PostgreSQL's own in a search path, they run as the role that compares names; these find none.
PLANTED_OPERATORS = """
CREATE SCHEMA planted;
GRANT USAGE ON SCHEMA planted TO PUBLIC;
CREATE FUNCTION planted.differ(name, name) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR planted.= (LEFTARG = name, RIGHTARG = name, FUNCTION = planted.differ);
CREATE OPERATOR planted.<> (LEFTARG = name, RIGHTARG = name, FUNCTION = planted.differ);
"""
# Each of these makes the planted table dangerous.
TRAPS = {
    "nothing else": "",
    "a trigger": """
        CREATE TRIGGER t BEFORE INSERT ON carryout.schema_migrations FOR EACH ROW EXECUTE FUNCTION public.take()""",
    "a rule": "CREATE RULE r AS ON INSERT TO carryout.schema_migrations DO ALSO SELECT public.take_name()",
    "a policy": """
        ALTER TABLE carryout.schema_migrations ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON carryout.schema_migrations USING (public.take_name() = 'x')""",
    "a default": "ALTER TABLE carryout.schema_migrations ADD COLUMN more text DEFAULT public.take_name()",
    "a child": "CREATE TABLE public.child () INHERITS (carryout.schema_migrations)",
}
# Left behind in tables that are the owner's by now; the sentence's beginning.
CHANGES = {
    "trigger": (
        "CREATE TRIGGER t BEFORE INSERT ON carryout.api_keys FOR EACH ROW EXECUTE FUNCTION public.take()",
        "The table carryout.api_keys has a trigger t, which no migration made",
    ),
    "rule": (
        "CREATE RULE r AS ON INSERT TO carryout.export_audit DO INSTEAD NOTHING",
        "The table carryout.export_audit has a rule r, which",
    ),
    "policy": (
        "CREATE POLICY p ON carryout.api_keys USING (true)",
        "The table carryout.api_keys has a policy p, which",
    ),
    "row-level security": (
        "ALTER TABLE carryout.export_jobs ENABLE ROW LEVEL SECURITY",
        "The table carryout.export_jobs has row-level security, which",
    ),
    "child": (
        "CREATE TABLE public.child () INHERITS (carryout.export_jobs)",
        "The table carryout.export_jobs inherits, or is inherited from, which",
    ),
    "reference": (
        "CREATE TABLE public.other (id uuid REFERENCES carryout.export_jobs)",
        "The table carryout.export_jobs is referred to by public.other, which",
    ),
    "default": (
        "ALTER TABLE carryout.feature_flags ALTER name SET DEFAULT public.take_name()",
        "The default value for carryout.feature_flags.name uses function public.take_name(), which",
    ),
    "check": (
        "ALTER TABLE carryout.feature_flags ADD CHECK (name <> public.take_name())",
        (
            "The table constraint feature_flags_name_check1 on carryout.feature_flags uses "
            "function public.take_name(), which"
        ),
    ),
    "operator": (
        """
        CREATE OPERATOR public.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq);
        ALTER TABLE carryout.feature_flags ADD CHECK (name OPERATOR(public.===) name)""",
        "The table constraint feature_flags_name_check1 on carryout.feature_flags uses operator public.===(",
    ),
    "type": (
        "CREATE DOMAIN public.odd AS text; ALTER TABLE carryout.feature_flags ADD more public.odd",
        "The table column carryout.feature_flags.more uses type public.odd, which",
    ),
    "collation": (
        """
        CREATE COLLATION public.odd (provider = libc, locale = 'C');
        ALTER TABLE carryout.feature_flags ADD more text COLLATE public.odd""",
        "The table column carryout.feature_flags.more uses collation public.odd, which",
    ),
    "cast": (
        """
        CREATE TYPE public.odd AS ENUM ('x');
        CREATE FUNCTION public.to_odd(text) RETURNS public.odd IMMUTABLE LANGUAGE sql AS $$SELECT 'x'::public.odd$$;
        CREATE CAST (text AS public.odd) WITH FUNCTION public.to_odd(text);
        ALTER TABLE carryout.feature_flags ADD CHECK (name::public.odd IS NOT NULL)""",
        "The table constraint feature_flags_name_check1 on carryout.feature_flags uses function public.to_odd(",
    ),
    "operator class": (
        """
        CREATE OPERATOR CLASS public.odd FOR TYPE text USING btree AS OPERATOR 3 =, FUNCTION 1 bttextcmp(text, text);
        CREATE INDEX odd ON carryout.feature_flags (name public.odd)""",
        "The index carryout.odd uses operator class public.odd USING btree, which",
    ),
    "text search configuration": (
        """
        CREATE TEXT SEARCH CONFIGURATION public.odd (PARSER = default);
        CREATE INDEX odd ON carryout.feature_flags USING gin (to_tsvector('public.odd'::regconfig, name))""",
        "The index carryout.odd uses text search configuration public.odd, which",
    ),
    "statistics": (
        """
        CREATE FUNCTION public.odd(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
        CREATE STATISTICS public.odd ON (public.odd(name)) FROM carryout.feature_flags""",
        "The statistics object public.odd uses function public.odd(pg_catalog.text), which",
    ),
    "sequence": (
        "CREATE SEQUENCE public.odd; ALTER TABLE carryout.feature_flags ADD n int DEFAULT nextval('public.odd')",
        "The default value for carryout.feature_flags.n uses sequence public.odd, which",
    ),
    "checked type": (
        """
        CREATE DOMAIN public.checked AS text CHECK (VALUE <> public.take_name());
        ALTER TABLE carryout.feature_flags ADD CHECK (name::public.checked IS NOT NULL)""",
        "The table constraint feature_flags_name_check1 on carryout.feature_flags uses type public.checked",
    ),
    "column": (
        """
        CREATE DOMAIN public.checked AS text CHECK (VALUE <> public.take_name());
        ALTER TABLE carryout.feature_flags ADD note public.checked""",
        "The table column carryout.feature_flags.note uses type public.checked",
    ),
    "domain": (
        "ALTER DOMAIN carryout.user_id ADD CHECK (VALUE::text <> 'x')",
        "The type carryout.user_id has a constraint or a default, which",
    ),
    "right": (
        "GRANT DELETE ON carryout.api_keys TO carryout_reader",
        "The table carryout.api_keys gives carryout_reader the right DELETE, which",
    ),
    "right to the trail": (
        "GRANT UPDATE ON carryout.export_audit TO carryout_reader",
        "The table carryout.export_audit gives carryout_reader the right UPDATE, which",
    ),
    "right of every role": (
        "GRANT SELECT ON carryout.api_keys TO PUBLIC",
        "The table carryout.api_keys gives every role the right SELECT, which",
    ),
    "schema": (
        "GRANT USAGE ON SCHEMA carryout TO PUBLIC",
        "The schema carryout gives every role the right USAGE, which",
    ),
    "guard dropped": (
        "DROP TRIGGER append_only ON carryout.export_audit",
        "The table carryout.export_audit lacks its trigger append_only, or has it disabled",
    ),
    "guard disabled": (
        "ALTER TABLE carryout.export_audit DISABLE TRIGGER append_only",
        "The table carryout.export_audit lacks its trigger append_only, or has it disabled",
    ),
    "guard exchanged": (
        """
        DROP TRIGGER append_only ON carryout.export_audit;
        CREATE TRIGGER append_only BEFORE DELETE ON carryout.export_audit EXECUTE FUNCTION public.take()""",
        "The table carryout.export_audit has a trigger append_only, which",
    ),
}
FOREIGN = {
    "table": ("CREATE TABLE carryout.later ()", "table carryout.later"),
    "view": ("CREATE VIEW carryout.export_files AS SELECT 1 AS n", "view carryout.export_files"),
    "sequence": ("CREATE SEQUENCE carryout.numbers", "sequence carryout.numbers"),
    "function": (
        "CREATE FUNCTION carryout.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function carryout.f(integer)",
    ),
    "type": ("CREATE TYPE carryout.kind AS ENUM ('x')", "type carryout.kind"),
    "operator": (
        "CREATE OPERATOR carryout.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)",
        "operator carryout.===(pg_catalog.text,pg_catalog.text)",
    ),
    "procedure": ("CREATE PROCEDURE carryout.p() LANGUAGE sql AS ''", "procedure carryout.p()"),
    "aggregate": (
        "CREATE AGGREGATE carryout.total(int) (SFUNC = int4pl, STYPE = int)",
        "aggregate carryout.total(integer)",
    ),
    "domain": ("CREATE DOMAIN carryout.d AS int", "type carryout.d"),
    "domain over an array": ("CREATE DOMAIN carryout.d AS int[]", "type carryout.d"),
    "composite type": ("CREATE TYPE carryout.pair AS (a int)", "type carryout.pair"),
    "range": ("CREATE TYPE carryout.span AS RANGE (subtype = int)", "type carryout.span"),
    "collation": ("CREATE COLLATION carryout.c (provider = libc, locale = 'C')", "collation carryout.c"),
    "conversion": (
        "CREATE CONVERSION carryout.c FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
        "conversion carryout.c",
    ),
    "text search configuration": (
        "CREATE TEXT SEARCH CONFIGURATION carryout.c (PARSER = default)",
        "text search configuration carryout.c",
    ),
    "text search dictionary": (
        "CREATE TEXT SEARCH DICTIONARY carryout.d (TEMPLATE = simple)",
        "text search dictionary carryout.d",
    ),
    "statistics": (
        "CREATE TABLE public.t (a int, b int); CREATE STATISTICS carryout.s ON a, b FROM public.t",
        "statistics object carryout.s",
    ),
    "materialized view": ("CREATE MATERIALIZED VIEW carryout.m AS SELECT 1 AS n", "materialized view carryout.m"),
    "default privileges": (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA carryout GRANT ALL ON TABLES TO PUBLIC",
        "default acl for role ",
    ),
    "odd name": ('CREATE TABLE carryout."a\n\x1bb" ()', 'table carryout."a\\n\\x1bb"'),
}
# Kinds that superusers alone can make, some of which have no owner.
SUPERUSERS_OBJECTS = {
    "operator class": (
        "CREATE OPERATOR CLASS carryout.c FOR TYPE text USING btree AS OPERATOR 3 =, FUNCTION 1 bttextcmp(text, text)",
        "operator class carryout.c USING btree",
    ),
    "operator family": ("CREATE OPERATOR FAMILY carryout.f USING btree", "operator family carryout.f USING btree"),
    "text search parser": (
        (
            "CREATE TEXT SEARCH PARSER carryout.p (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, "
            "LEXTYPES = prsd_lextype)"
        ),
        "text search parser carryout.p",
    ),
    "text search template": (
        "CREATE TEXT SEARCH TEMPLATE carryout.t (LEXIZE = dsimple_lexize)",
        "text search template carryout.t",
    ),
    "base type": (
        (
            "CREATE TYPE carryout.b; CREATE FUNCTION public.b_in(cstring) RETURNS carryout.b STRICT IMMUTABLE "
            "LANGUAGE internal AS 'textin'; CREATE FUNCTION public.b_out(carryout.b) RETURNS cstring STRICT IMMUTABLE "
            "LANGUAGE internal AS 'textout'; CREATE TYPE carryout.b (INPUT = public.b_in, OUTPUT = public.b_out)"
        ),
        "type carryout.b",
    ),
    "foreign table": (
        (
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; "
            "CREATE FOREIGN TABLE carryout.f () SERVER s"
        ),
        "foreign table carryout.f",
    ),
}


@asynccontextmanager
async def stranger_in(url: str) -> AsyncIterator[tuple[str, Connection]]:
    """Another role of the application's database, and its connection."""
    role = f"mallory_{uuid4().hex}"
    async with connect(url) as admin:
        database = await admin.fetchval("SELECT quote_ident(current_database())")
        await admin.execute(f"CREATE ROLE {role}; GRANT CREATE ON DATABASE {database} TO {role}")
        await admin.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        async with connect(url) as connection:
            await connection.execute(f"SET ROLE {role}")
            await connection.execute(PLANTED.format(role=role))
            try:
                yield role, connection
            finally:
                await admin.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def is_superuser(url: str, role: str) -> bool:
    async with connect(url) as admin:
        return bool(await admin.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = $1", role))


def run(command: str, environ: dict[str, str]) -> tuple[int, str]:
    finished = subprocess.run(
        [sys.executable, "-m", "service.cli.main", command],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=SQL_DIR.parent,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    return finished.returncode, finished.stderr.strip().splitlines()[-1]


class TestMigrate:
    @pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
    async def test_a_schema_made_by_another_role_is_refused(self, stack: Stack, empty_url: str, trap: str) -> None:
        """By a superuser, too: what its maker left there ran as one."""
        async with stranger_in(empty_url) as (role, connection):
            await connection.execute(f"CREATE SCHEMA carryout; {MIGRATIONS_TABLE}; {trap}")
            await connection.execute("GRANT ALL ON SCHEMA carryout TO PUBLIC")
            await connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA carryout TO PUBLIC")
            for url in (empty_url, owner_url(stack, empty_url)):
                with pytest.raises(
                    ConfigurationError, match=f"^The schema carryout belongs to {role}, not to carryout"
                ):
                    await migrate(url, user_id_type="uuid")
            assert not await is_superuser(empty_url, role)

    async def test_a_table_made_by_another_role_is_refused(self, empty_url: str) -> None:
        async with stranger_in(empty_url) as (role, connection):
            async with connect(empty_url) as admin:
                await admin.execute(f"CREATE SCHEMA carryout; GRANT ALL ON SCHEMA carryout TO {role}")
            await connection.execute(f"{MIGRATIONS_TABLE}; {TRAPS['a trigger']}")
            with pytest.raises(
                ConfigurationError, match=f"^The table carryout.schema_migrations belongs to {role}, not to carryout: "
            ):
                await migrate(empty_url, user_id_type="uuid")
            assert not await is_superuser(empty_url, role)

    @pytest.mark.parametrize("trap", [name for name in TRAPS if name != "nothing else"])
    async def test_leftovers_of_a_former_owner_are_refused(self, empty_url: str, trap: str) -> None:
        async with stranger_in(empty_url) as (role, connection):
            await connection.execute(f"CREATE SCHEMA carryout; {MIGRATIONS_TABLE}; {TRAPS[trap]}")
            async with connect(empty_url) as admin:
                await admin.execute("ALTER SCHEMA carryout OWNER TO CURRENT_USER")
                await admin.execute("ALTER TABLE carryout.schema_migrations OWNER TO CURRENT_USER")
            with pytest.raises(ConfigurationError, match=r"^The .*carryout.schema_migrations.* no migration made"):
                await migrate(empty_url, user_id_type="uuid")
            assert not await is_superuser(empty_url, role)

    async def test_default_privileges_are_refused(self, empty_url: str) -> None:
        async with stranger_in(empty_url) as (role, _), connect(empty_url) as admin:
            await admin.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role}")
            with pytest.raises(ConfigurationError, match=f"schema_migrations gives {role} the right DELETE"):
                await migrate(empty_url, user_id_type="uuid")
            assert await admin.fetchval("SELECT to_regnamespace('carryout') IS NULL")
            await admin.execute(f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM {role}")

    async def test_the_command_says_so_in_one_sentence(self, stack: Stack, empty_url: str) -> None:
        environ = stack.environ | database_environ(stack, empty_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
        migration = {"CARRYOUT_MIGRATION_DATABASE_URL": owner_url(stack, empty_url)}
        async with stranger_in(empty_url) as (role, connection):
            await connection.execute("CREATE SCHEMA carryout")
            status, sentence = run("migrate", environ | migration)
        advice = "drop it, or set CARRYOUT_SCHEMA_OWNER if it is yours"
        assert (status, sentence) == (2, f"carryout: The schema carryout belongs to {role}, not to {OWNER}: {advice}")

    async def test_a_refusal_leaves_nothing(self, empty_url: str) -> None:
        async with stranger_in(empty_url) as (role, connection):
            await connection.execute("CREATE SCHEMA carryout; GRANT ALL ON SCHEMA carryout TO PUBLIC")
            with pytest.raises(ConfigurationError, match=role):
                await migrate(empty_url, user_id_type="uuid")
            assert await connection.fetchval("SELECT to_regclass('carryout.schema_migrations')") is None

    async def test_only_the_owner_that_is_named_migrates(self, empty_url: str) -> None:
        with pytest.raises(
            ConfigurationError, match=r"^CARRYOUT_DATABASE_URL connects as carryout, but CARRYOUT_SCHEMA_OWNER is x$"
        ):
            await migrate(empty_url, user_id_type="uuid", owner="x")

    async def test_two_different_databases_are_refused(self, stack: Stack, empty_url: str, database_url: str) -> None:
        with pytest.raises(ConfigurationError, match=r"^CARRYOUT_MIGRATION_DATABASE_URL leads to another database"):
            await grant_serving_role(owner_url(stack, empty_url), serving_url(stack, database_url))

    @pytest.mark.parametrize("made", [OWNER, SERVICE])
    async def test_roles_that_another_one_can_use_are_refused(self, empty_url: str, made: str) -> None:
        async with stranger_in(empty_url) as (role, _), connect(empty_url) as admin, admin.transaction():
            await admin.execute(f"GRANT {made} TO {role}")
            with pytest.raises(
                asyncpg.RaiseError, match=f'^Role "{role}" can do what {made} can: revoke its membership'
            ):
                async with admin.transaction():
                    await admin.execute((SQL_DIR / "roles.sql").read_text(encoding="utf-8"))
            await admin.execute(f"REVOKE {made} FROM {role}")
            await admin.execute((SQL_DIR / "roles.sql").read_text(encoding="utf-8"))

    @pytest.mark.parametrize(
        "setting", ["search_path = planted, pg_catalog", "role = {role}"], ids=["its own operators", "its own role"]
    )
    async def test_settings_of_the_databases_owner_do_not_reach_the_superuser(
        self, empty_url: str, setting: str
    ) -> None:
        """In a session with the database's settings, as psql runs the file."""
        async with stranger_in(empty_url) as (role, connection), connect(empty_url) as admin:
            database = await admin.fetchval("SELECT quote_ident(current_database())")
            await connection.execute(PLANTED_OPERATORS)
            await admin.execute(f"ALTER DATABASE {database} SET {setting.format(role=role)}")
            superuser = await asyncpg.connect(empty_url)
            try:  # in a transaction: the roles are other tests', too
                await superuser.execute(f"BEGIN; SET LOCAL ROLE NONE; GRANT {OWNER} TO {role}; RESET ROLE")
                with pytest.raises(asyncpg.RaiseError, match=f'^Role "{role}" can do what {OWNER} can'):
                    await superuser.execute((SQL_DIR / "roles.sql").read_text(encoding="utf-8"))
            finally:
                await superuser.close()

    async def test_the_serving_role_is_told_to_migrate_first(self, stack: Stack, empty_url: str) -> None:
        async with connect(empty_url) as admin:
            await admin.execute("CREATE SCHEMA carryout; REVOKE ALL ON SCHEMA carryout FROM PUBLIC")
            await admin.execute(f"ALTER SCHEMA carryout OWNER TO {OWNER}")
        async with connect(serving_url(stack, empty_url)) as serving:
            with pytest.raises(ConfigurationError, match="run `carryout migrate`, which grants it what it needs"):
                await check_schema(serving, user_id_type="uuid", owner=OWNER)

    async def test_a_schema_of_one_role_can_be_handed_over(self, stack: Stack, empty_url: str) -> None:
        await migrate(empty_url, user_id_type="uuid")

        await make_roles(empty_url, stack.role_urls)  # runs sql/hand_over.sql
        await migrate_as_owner(stack, empty_url)

        async with connect(serving_url(stack, empty_url)) as serving:
            await check_schema(serving, user_id_type="uuid", owner=OWNER)


class TestStart:
    @pytest.mark.parametrize(("sql", "named"), FOREIGN.values(), ids=FOREIGN)
    async def test_an_object_made_by_another_role_is_refused(
        self, stack: Stack, database: Connection, database_url: str, sql: str, named: str
    ) -> None:
        async with stranger_in(database_url) as (role, connection):
            await database.execute(f"GRANT USAGE, CREATE ON SCHEMA carryout TO {role}")
            await connection.execute(sql)
            async with connect(serving_url(stack, database_url)) as serving:
                with pytest.raises(ConfigurationError) as raised:
                    await check_schema(serving, user_id_type="uuid", owner=OWNER)
        assert raised.value.detail.startswith(f"The {named}")
        assert f" belongs to {role}, not to {OWNER}: " in raised.value.detail

    @pytest.mark.parametrize(("sql", "named"), SUPERUSERS_OBJECTS.values(), ids=SUPERUSERS_OBJECTS)
    async def test_an_object_made_by_a_superuser_is_refused(
        self, stack: Stack, database: Connection, database_url: str, sql: str, named: str
    ) -> None:
        await database.execute(sql)
        async with connect(serving_url(stack, database_url)) as serving:
            with pytest.raises(ConfigurationError, match=f"^The {named} belongs to .*, not to {OWNER}: "):
                await check_schema(serving, user_id_type="uuid", owner=OWNER)

    async def test_a_publication_is_not_refused(self, stack: Stack, database: Connection, database_url: str) -> None:
        await database.execute("CREATE PUBLICATION changes FOR TABLE carryout.export_audit")
        async with connect(serving_url(stack, database_url)) as serving:
            await check_schema(serving, user_id_type="uuid", owner=OWNER)

    @pytest.mark.parametrize(("sql", "sentence"), CHANGES.values(), ids=CHANGES)
    async def test_an_object_that_no_migration_made_is_refused(
        self, stack: Stack, database: Connection, database_url: str, sql: str, sentence: str
    ) -> None:
        await database.execute(PLANTED.format(role="nobody"))
        await database.execute(sql)
        async with connect(serving_url(stack, database_url)) as serving:
            with pytest.raises(ConfigurationError) as raised:
                await check_schema(serving, user_id_type="uuid", owner=OWNER)
        assert raised.value.detail.startswith(sentence)

    async def test_a_whole_schema_of_another_role_is_refused(self, stack: Stack, empty_url: str) -> None:
        """It migrated its own, and lets the serving role use it."""
        async with stranger_in(empty_url) as (role, _):
            await migrate(f"{empty_url}?options=-c%20role%3D{role}", user_id_type="uuid")
            async with connect(f"{empty_url}?options=-c%20role%3D{role}") as mallory:
                await mallory.execute(f"GRANT ALL ON SCHEMA carryout TO {SERVICE}")
                await mallory.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA carryout TO {SERVICE}")
            async with connect(serving_url(stack, empty_url)) as serving:
                for owner, expected in ((OWNER, OWNER), ("", SERVICE)):
                    with pytest.raises(
                        ConfigurationError, match=f"^The schema carryout .* {role}, not to {expected}: "
                    ):
                        await check_schema(serving, user_id_type="uuid", owner=owner)

    async def test_processes_and_commands_say_so(self, stack: Stack, database: Connection, database_url: str) -> None:
        await database.execute("CREATE TABLE carryout.later ()")
        environ = stack.environ | database_environ(stack, database_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
        for command in ("serve", "worker", "audit"):
            status, sentence = run(command, environ)
            assert status == 2
            assert "The table carryout.later belongs to carryout, not to carryout_owner: " in sentence


class TestServingRole:
    @pytest.mark.parametrize(
        "sql",
        [
            "ALTER TABLE carryout.export_audit DISABLE TRIGGER append_only",
            "DROP TRIGGER append_only ON carryout.export_audit",
            "CREATE TRIGGER t BEFORE INSERT ON carryout.export_audit EXECUTE FUNCTION carryout.refuse_audit_change()",
            "CREATE OR REPLACE FUNCTION carryout.refuse_audit_change() RETURNS trigger LANGUAGE sql AS 'SELECT NULL'",
            "UPDATE carryout.export_audit SET outcome = 'nothing'",
            "DELETE FROM carryout.export_audit",
            "SET carryout.purging = 'on'; DELETE FROM carryout.export_audit",
            "SELECT carryout.record_purge('events', '1 year', 1, NULL)",
            "INSERT INTO carryout.export_audit (actor_type, action, occurred_at) VALUES ('system', 'a:b', now())",
            "INSERT INTO carryout.export_audit (id, action) OVERRIDING SYSTEM VALUE VALUES (9, 'a:b')",
            "TRUNCATE carryout.export_audit",
            "DROP TABLE carryout.export_audit",
            "DELETE FROM carryout.export_jobs",
            "DELETE FROM carryout.api_keys",
            "UPDATE carryout.schema_migrations SET sha256 = ''",
            "CREATE TABLE carryout.mine ()",
            "DROP SCHEMA carryout CASCADE",
            "SET ROLE carryout_owner",
            "SET session_replication_role = replica",
            "SELECT email FROM public.users",
        ],
    )
    async def test_may_not(self, stack: Stack, database_url: str, sql: str) -> None:
        async with connect(serving_url(stack, database_url)) as serving:
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as raised:
                await serving.execute(sql)
        assert "append-only" not in str(raised.value)  # the role lacks the right, so the guard is never asked

    async def test_loses_what_earlier_releases_granted(
        self, stack: Stack, database: Connection, database_url: str
    ) -> None:
        may = "SELECT has_column_privilege($1, 'carryout.export_audit', $2, 'INSERT')"
        await database.execute(f"GRANT INSERT ON carryout.export_audit TO {SERVICE}")
        assert await database.fetchval(may, SERVICE, "occurred_at")
        await migrate_as_owner(stack, database_url)
        assert not await database.fetchval(may, SERVICE, "occurred_at")
        assert await database.fetchval(may, SERVICE, "action")

    async def test_owns_nothing(self, database: Connection) -> None:
        query = "SELECT count(*) FROM pg_shdepend WHERE refobjid = $1::text::regrole AND deptype = 'o'"
        assert await database.fetchval(query, SERVICE) == 0
        assert await database.fetchval(query, OWNER) > 0

    async def test_is_what_the_tests_of_the_contract_serve_with(self, settings: Settings) -> None:
        async with open_resources(settings) as resources:
            assert await resources.database.fetchval("SELECT current_user") == SERVICE
            assert await resources.source.fetchval("SELECT current_user") == "carryout_reader"
            assert await resources.streams.fetchval("SELECT current_user") == "carryout_reader"


class TestWarning:
    async def test_a_role_that_may_lift_the_guard_is_reported_once(self, settings: Settings, database_url: str) -> None:
        with capture_logs() as lines:
            async with open_client(msgspec.structs.replace(settings, database_url=database_url)) as client:
                unguarded = (await scrape(client)).value(UNGUARDED)
        assert [line["event"] for line in lines].count("serving_role_can_change_audit_trail") == 1
        assert unguarded == 1

    async def test_a_role_that_owns_nothing_is_not(self, settings: Settings) -> None:
        with capture_logs() as lines:
            async with open_client(settings) as client:
                unguarded = (await scrape(client)).value(UNGUARDED)
        assert "serving_role_can_change_audit_trail" not in [line["event"] for line in lines]
        assert unguarded == 0

    @pytest.mark.parametrize(
        "grant",
        [
            "GRANT carryout_owner TO {role}",
            "GRANT TRIGGER ON carryout.export_audit TO {role}",
            "ALTER ROLE {role} SUPERUSER",
        ],
    )
    async def test_every_way_counts(self, database: Connection, database_url: str, grant: str) -> None:
        role = f"served_{uuid4().hex}"
        await database.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA carryout TO {role}")
        try:
            async with connect(database_url) as connection:
                await connection.execute(f"SET ROLE {role}")
                assert not await may_change_trail(connection)
                await database.execute(grant.format(role=role))
                assert await may_change_trail(connection)
        finally:
            await database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

"""A role of the application chooses names; an operator runs what `init` and `check` make of them, as a superuser."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from devstack.servers import find_postgres
from devstack.stack import Stack
from guard.text import is_printable, quote_identifier
from tests.guard.names import HOSTILE, VICTIM
from tests.sql.databases import open_database
from tests.support import processes
from tests.support.factories import Connection
from tests.support.processes import Ended

USERS = """
CREATE TABLE public.users (id bigint PRIMARY KEY, email text NOT NULL, name text NOT NULL);
CREATE TABLE public.notes (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES public.users, title text);
"""
ROLES = (
    "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname <> $1 ORDER BY 1"
)


class Shop:
    def __init__(self, url: str, server: Connection, directory: Path) -> None:
        self.url = url
        self.server = server
        self.directory = directory
        self.role = f"reader_{uuid4().hex}"

    async def init(self, *options: str) -> Ended:
        return await processes.run({}, "init", self.url, "--out", str(self.directory), *options)

    async def check(self, *options: str) -> Ended:
        return await processes.run({}, "check", self.url, "--datasets", str(self.directory), *options)

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.directory.rglob("*.sql*")}


@pytest.fixture
async def shop(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    """A database; its role VICTIM is the one that must not rise."""
    async with open_database(stack.admin_url, getattr(request, "param", "")) as url:
        server = await asyncpg.connect(url)
        await server.execute(f"DROP ROLE IF EXISTS {VICTIM}; CREATE ROLE {VICTIM}")
        await server.execute(USERS)
        made = Shop(url, server, tmp_path / "datasets")
        try:
            yield made
        finally:
            if await server.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", made.role):
                await server.execute(f"DROP OWNED BY {made.role}; DROP ROLE {made.role}")
            await server.execute(f"DROP ROLE {VICTIM}")
            await server.close()


async def plant(shop: Shop, names: list[str]) -> None:
    """Each name as a schema's, a table's, a column's, a type's, a label's and a constraint's."""
    for name in names:
        quoted, literal = quote_identifier(name), await shop.server.fetchval("SELECT quote_literal($1)", name)
        table, type_ = f"{quoted}.{quoted}", f"{quoted}.{quote_identifier(name[1:] + 'k')}"
        await shop.server.execute(
            f"CREATE SCHEMA {quoted}; GRANT CREATE ON SCHEMA {quoted} TO PUBLIC;"
            f"CREATE TYPE {type_} AS ENUM ({literal});"
            f"CREATE TABLE {table} ({quoted} bigint, key bigint PRIMARY KEY,"
            f" user_id bigint NOT NULL CONSTRAINT {quoted} REFERENCES public.users, of_type {type_},"
            f" json {type_}[]);"
            f"COMMENT ON TABLE {table} IS {literal};"
            f"ALTER TABLE public.notes ADD {quoted} bigint"
        )


async def run_psql(url: str, printed: str) -> str:
    """As an operator runs it: psql has commands of its own, which a line can begin with."""
    child = await asyncio.create_subprocess_exec(
        *(find_postgres() / "psql", url, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", "-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await child.communicate(printed.encode())
    return said.decode()


def require_printable(printed: str) -> None:
    assert all(is_printable(line) for line in printed.split("\n"))


async def test_printed_statements_give_no_role_more_rights(shop: Shop) -> None:
    await plant(shop, HOSTILE)
    before = await shop.server.fetch(ROLES, shop.role)
    made = await shop.init()
    assert made.err == ""
    require_printable(made.out)
    granted = await shop.check("--grants", "--role", shop.role)
    assert (granted.status, granted.err) == (0, "")
    require_printable(granted.out)
    assert await run_psql(shop.url, granted.out) == ""
    assert await shop.server.fetchval("SELECT NOT rolsuper FROM pg_roles WHERE rolname = $1", shop.role)
    assert await shop.server.fetch(ROLES, shop.role) == before
    for line in granted.out.splitlines():  # with an operator's dashes off, too
        if line.startswith("-- REVOKE"):
            await shop.server.execute(line.removeprefix("-- "))
    assert await shop.server.fetch(ROLES, shop.role) == before
    opened = await shop.server.fetch(
        "SELECT nspname FROM pg_namespace WHERE has_schema_privilege('public', oid, 'CREATE')"
    )
    assert not opened


@pytest.mark.parametrize("name", [name for name in HOSTILE if VICTIM in name])
async def test_a_schema_without_tables_gives_no_role_more_rights(shop: Shop, name: str) -> None:
    """It reaches what is printed by its name alone, as everybody may make objects in it."""
    await shop.init()
    quoted = quote_identifier(name)
    await shop.server.execute(f"CREATE SCHEMA {quoted}; GRANT CREATE ON SCHEMA {quoted} TO PUBLIC")
    await shop.server.execute((await shop.check("--grants", "--role", shop.role)).out)
    assert not await shop.server.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = $1", VICTIM)


async def test_the_files_hold_nothing_but_their_query(shop: Shop) -> None:
    await plant(shop, HOSTILE)
    await shop.init()
    before = await shop.server.fetch(ROLES, shop.role)
    for name, text in shop.files().items():
        require_printable(text)
        assert is_printable(name)
        if name != "export.sql":  # it has another parameter
            await shop.server.prepare(text)  # refuses a second statement
    assert await shop.server.fetch(ROLES, shop.role) == before


async def test_no_link_in_the_folder_is_followed(shop: Shop, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (shop.directory / "users").mkdir(parents=True)
    for name in ("profile.sql", "users/export.sql"):
        (shop.directory / name).symlink_to(victim)
    ended = await shop.init("--force")
    assert (ended.status, ended.err) == (0, "")
    assert victim.read_text() == "precious"
    assert (shop.directory / "profile.sql").read_text().startswith("-- users: public.users\n")


async def test_unseen_characters_are_looked_at_named_and_left_to_people(shop: Shop) -> None:
    await plant(shop, HOSTILE)
    made = await shop.init()
    assert "notes.sql" in made.out
    assert "    title,\n" in shop.files()["notes.sql"] or "    title\n" in shop.files()["notes.sql"]
    found = await shop.check()
    assert (found.status, found.err) == (1, "")
    require_printable(found.out)
    for name in HOSTILE:
        quoted = quote_identifier(name)
        if not is_printable(name):
            assert f"    {quoted}.{quoted}\n" in found.out
            assert f"    public.notes.{quoted}\n" in found.out
    denied = "".join(f"-- deny table {quote_identifier(name)}.{quote_identifier(name)}: ours\n" for name in HOSTILE)
    notes = shop.directory / "notes.sql"
    columns = "".join(f"-- deny {quote_identifier(name)}: ours\n" for name in HOSTILE if not is_printable(name))
    notes.write_text(notes.read_text().replace("SELECT\n", f"{columns}SELECT\n"))
    profile = shop.directory / "profile.sql"
    profile.write_text(denied + profile.read_text())
    for path in shop.directory.glob("*.sql"):
        if path.stem not in {"profile", "notes"}:
            path.unlink()
    left = (await shop.check()).out
    assert "Tables" not in left
    assert not any(quote_identifier(name) in left for name in HOSTILE if not is_printable(name))


async def test_a_comma_in_a_name_parts_no_list_of_names(shop: Shop) -> None:
    await shop.server.execute(
        "CREATE TABLE public.accounts (id bigint PRIMARY KEY);"
        'ALTER TABLE public.users ADD "a, b" bigint UNIQUE REFERENCES public.accounts'
    )
    await shop.init()
    assert '-- own: "a, b"\n' in shop.files()["profile.sql"]
    assert (await shop.check()).err == ""


async def test_a_file_that_is_not_utf8_or_writable_by_all_is_named(shop: Shop) -> None:
    await shop.init()
    odd = shop.directory / "odd.sql"
    odd.write_bytes(b"-- \xff")
    assert (await shop.check()).err == "carryout: Dataset odd.sql: it is not UTF-8\n"
    odd.write_bytes(b"SELECT 1")
    odd.chmod(0o666)
    for ended in (await shop.check(), await shop.check("--grants"), await shop.init()):
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.startswith("carryout: Dataset odd.sql: it can't be read: every account may write it")


async def test_json_for_scripts_is_escaped_too(shop: Shop) -> None:
    await plant(shop, ["\x9b2J", "\N{RIGHT-TO-LEFT OVERRIDE}x"])
    await shop.init()
    (shop.directory / "broken.sql").write_text('SELECT id FROM public."\x9b2J\N{RIGHT-TO-LEFT OVERRIDE}"')
    require_printable((await shop.check("--json")).out)
    require_printable((await shop.check()).out)


async def test_a_servers_words_move_no_cursor(shop: Shop) -> None:
    await shop.init()
    (shop.directory / "broken.sql").write_text('SELECT id FROM public."\x1b[2J\x9b2J"')
    for ended in (await shop.check("--grants"), await shop.init()):
        assert ended.status == 2
        require_printable(ended.err)
        assert r"\x1b[2J\x9b2J" in ended.err


@pytest.mark.parametrize("shop", ["ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"], indirect=True, ids=["LATIN1"])
async def test_another_encoding_changes_nothing(shop: Shop) -> None:
    names = [name for name in HOSTILE if name == name.encode("latin-1", "ignore").decode("latin-1")]
    await plant(shop, names)
    made = await shop.init()
    assert (made.status, made.err) == (0, "")
    granted = await shop.check("--grants", "--role", shop.role)
    require_printable(granted.out)
    await shop.server.execute(granted.out.replace("…", "sesame"))
    assert not await shop.server.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = $1", VICTIM)


@pytest.mark.parametrize(
    "shop", ["ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"], indirect=True, ids=["SQL_ASCII"]
)
async def test_a_name_that_is_not_utf8_ends_init_with_one_sentence(shop: Shop) -> None:
    await shop.server.execute(
        r"""DO $$ BEGIN EXECUTE 'CREATE TABLE "' || convert_from('\xff', 'SQL_ASCII') || '" (id int)'; END $$"""
    )
    ended = await shop.init()
    assert (ended.status, ended.err) == (
        2,
        "carryout: The name of an object in this database isn't valid UTF-8: rename the object\n",
    )

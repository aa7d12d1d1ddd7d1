"""A role that may make objects where names are looked up gets nothing of its own run by Carryout."""

import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest

from devstack.roles import make_roles
from devstack.stack import Stack
from service.api.app import create_app
from service.mails.sending import send_due_mails
from service.resources import Resources, open_resources
from service.settings import SQL_DIR, Settings
from tests.api.conftest import ASYNC, CSV, JSON
from tests.api.problems import bearer
from tests.api.serving import serve
from tests.conftest import PUBLIC_URL, OpenDatabase, Token, on_database, patient_client
from tests.hostile.planting import TRAP, find_functions, find_operators, plant
from tests.sql.databases import open_database as open_empty
from tests.sql.databases import owner_url, serving_url
from tests.support import processes
from tests.support.factories import Connection, create_user_with
from worker import repair
from worker.expiry import expire_files
from worker.orphans import sweep
from worker.running import run_export

# PostgreSQL's own names come first, as by default; and last, so that all that isn't qualified is a trap's.
FIRST, LAST = '"$user", public', "public, pg_catalog"
PARAMETER = re.compile(r"::(text|bigint|uuid)")
COMPARISON = re.compile(r" ([=>]) ")


class Planted(msgspec.Struct, frozen=True):
    """A database with traps; the path is that of every session that doesn't choose its own."""

    url: str
    settings: Settings
    path: str
    names: set[str]
    user_id: UUID
    queued_user_id: UUID


@pytest.fixture(params=[FIRST, LAST])
async def planted(
    request: pytest.FixtureRequest, open_database: OpenDatabase, common_settings: Settings, tmp_path: Path
) -> AsyncIterator[Planted]:
    directory = tmp_path / "datasets"
    shutil.copytree(SQL_DIR / "datasets", directory)
    profile = directory / "profile.sql"
    profile.write_text(profile.read_text().replace("SELECT id, email, name,", "SELECT id, email, name, mood, moods,"))
    if request.param == LAST:
        for path in directory.rglob("*.sql"):
            path.write_text(_qualify(path.read_text()))
    async with open_database() as url:
        connection = await asyncpg.connect(url)
        user_id, queued_user_id = await create_user_with(connection, 5), await create_user_with(connection, 5)
        await connection.execute("""
            CREATE TYPE public.mood AS ENUM ('calm', 'cross');
            ALTER TABLE public.users ADD mood public.mood DEFAULT 'calm', ADD moods public.mood[];
            GRANT SELECT (mood, moods) ON public.users TO carryout_reader;
        """)
        names = await plant(connection)
        await _choose_path(connection, url, request.param)
        await connection.close()
        settings = msgspec.structs.replace(on_database(common_settings, url), datasets_dir=str(directory))
        yield Planted(url, settings, request.param, names, user_id, queued_user_id)


async def _choose_path(connection: Connection, url: str, path: str) -> None:
    name = url.rpartition("/")[2]
    await connection.execute(f"ALTER DATABASE {name} SET search_path = {path}")
    await connection.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")


def _qualify(sql: str) -> str:
    types = {"bigint": "int8"}
    sql = PARAMETER.sub(lambda found: f"::pg_catalog.{types.get(found[1], found[1])}", sql)
    return COMPARISON.sub(r" OPERATOR(pg_catalog.\1) ", sql)


@pytest.fixture
def run(stack: Stack, planted: Planted) -> Callable[..., Awaitable[str]]:
    """The output of a command, which must succeed or find something undecided."""
    environ = stack.environ | {
        "CARRYOUT_DATABASE_URL": planted.settings.database_url,
        "CARRYOUT_MIGRATION_DATABASE_URL": owner_url(stack, planted.url),
        "CARRYOUT_SOURCE_DATABASE_URL": planted.url,
        "CARRYOUT_PUBLIC_URL": planted.settings.public_url,
        "CARRYOUT_DATASETS_DIR": planted.settings.datasets_dir,
    }

    async def ran(*arguments: str) -> str:
        ended = await processes.run(environ, *arguments)
        assert ended.status in {0, 1}, ended.err
        assert "Traceback" not in ended.err
        return ended.out

    return ran


class _Log:
    """The server's new log lines: errors with their words, and all statements of the planted database."""

    def __init__(self, stack: Stack) -> None:
        assert stack.postgres
        self._path = stack.postgres.process.log_path
        self._start = self._path.stat().st_size

    def read(self) -> str:
        with self._path.open("rb") as file:
            file.seek(self._start)
            return file.read().decode(errors="replace")


async def test_none_is_called(
    stack: Stack, planted: Planted, token: Token, run: Callable[..., Awaitable[str]], tmp_path: Path
) -> None:
    log = _Log(stack)
    key = (await run("keys", "create", "nightly", "--scope", "users:export", "--scope", "users:export_full")).split()[
        -1
    ]
    async with (
        open_resources(planted.settings) as resources,
        serve(create_app(resources)) as served,
        patient_client(served) as client,
    ):
        small, queued = bearer(token(planted.user_id)), bearer(token(planted.queued_user_id))
        await _use_as_a_user(client, resources, small, queued)
        await _use_as_an_operator(client, key)
        await _repair(resources)
    await _run_commands(run, str(planted.user_id), tmp_path, init=planted.url if planted.path == FIRST else None)
    await _migrate_afresh(stack, planted.path)

    written = log.read()
    assert [line for line in written.splitlines() if TRAP in line] == []
    plain = await asyncpg.connect(stack.admin_url)
    used = await find_functions(plain, written) | await find_operators(plain, written)
    await plain.close()
    assert {"hashtextextended", "quote_ident", "count", "=", "||"} <= used
    assert used <= planted.names


async def _use_as_a_user(
    client: httpx.AsyncClient, resources: Resources, small: dict[str, str], queued: dict[str, str]
) -> None:
    made = await client.post("/api/export", json=CSV, headers=small)
    assert (made.status_code, made.json()["record_count"]) == (201, 5)
    file = await client.get(made.json()["download_url"].partition("/carryout")[2], follow_redirects=True)
    assert file.text.count("\r\n") == 6
    assert ",calm," in file.text
    accepted = await client.post("/api/export", json=JSON, headers=queued | ASYNC)
    assert accepted.status_code == 202
    job_id = UUID(accepted.json()["job_id"])
    assert (await client.post("/api/export", json=JSON, headers=queued)).status_code == 409
    await run_export(resources, job_id)
    assert await send_due_mails(resources, limit=10) == 1
    shown = (await client.get(f"/api/export/{job_id}", headers=queued)).json()
    assert (shown["status"], shown["record_count"]) == ("completed", 5)
    assert (await client.get(f"/api/export/{job_id}/downloads", headers=queued)).status_code == 200
    assert (await client.get("/api/export", headers=small)).status_code == 200
    assert (await client.get("/api/export/stream?format=csv", headers=small)).text.count("\r\n") == 6
    document = (await client.get("/api/export/stream?format=json", headers=small)).json()
    assert (document["user"]["mood"], len(document["activity"])) == ("calm", 2)
    assert (await client.delete(f"/api/export/{job_id}", headers=queued)).status_code == 204
    assert (await client.get("/readyz")).status_code == 200


async def _use_as_an_operator(client: httpx.AsyncClient, key: str) -> None:
    headers = {"X-API-Key": key}
    for path in ("export", "export-full"):
        response = await client.get(f"/api/v1/users/{path}", headers=headers)
        assert (response.status_code, response.text.count("\r\n")) == (200, 3)
    assert (await client.get("/api/v1/users/export?email=ada@example.com", headers=headers)).status_code == 200


async def _repair(resources: Resources) -> None:
    assert await sweep(resources)
    await repair.enqueue_forgotten(resources, lambda _export: None, is_free=lambda: False)
    await repair.fail_lost(resources)
    await expire_files(resources)
    await repair.forget_idempotency_keys(resources)


async def _run_commands(run: Callable[..., Awaitable[str]], user_id: str, tmp_path: Path, *, init: str | None) -> None:
    for command in (
        ("keys", "list"),
        ("keys", "revoke", "nightly"),
        ("features", "disable", "users:export"),
        ("features", "list"),
        ("audit", "--since", "1h", "--user", user_id),
        ("exports", "list", "--user", user_id),
        ("exports", "end", "--user", user_id),
        ("migrate",),
        ("check",),
    ):
        assert await run(*command)
    assert "GRANT SELECT (" in await run("check", "--grants", "--role", "somebody")
    if init:
        assert "verified" in await run("init", init, "--out", str(tmp_path / "drafts"))


async def _migrate_afresh(stack: Stack, path: str) -> None:
    async with open_empty(stack.admin_url) as url:
        connection = await asyncpg.connect(url)
        await make_roles(url, stack.role_urls)
        await plant(connection)
        await _choose_path(connection, url, path)
        await connection.close()
        ended = await processes.run(
            stack.environ
            | {
                "CARRYOUT_DATABASE_URL": serving_url(stack, url),
                "CARRYOUT_MIGRATION_DATABASE_URL": owner_url(stack, url),
                "CARRYOUT_PUBLIC_URL": PUBLIC_URL,
            },
            "migrate",
        )
        assert (ended.status, ended.err) == (0, "")

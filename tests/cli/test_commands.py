"""The `carryout` command as real processes: how they start, refuse to start, and end."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import click
import httpx
import jwt
import msgspec
import pytest

from devstack.ports import keep_port
from devstack.roles import make_roles
from devstack.stack import Stack
from service.backends.database import MIGRATION_URL
from service.cli.commands import COMMANDS, cli
from tests.api.problems import bearer, read_problem
from tests.conftest import PUBLIC_URL
from tests.sql.databases import database_environ, owner_url
from tests.sql.databases import open_database as open_empty_database
from tests.support.factories import Connection, create_user
from tests.support.forking import ROOT
from tests.support.processes import run, run_anew, start
from tests.support.waiting import until

USER_ID = UUID("01234567-89ab-4def-8123-456789abcdef")
CLOSED_PORT = 1


@pytest.fixture
def environ(stack: Stack, database_url: str) -> dict[str, str]:
    return stack.environ | database_environ(stack, database_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}


async def expect_refusal(environ: Mapping[str, str], *named: str, arguments: tuple[str, ...] = ()) -> None:
    """The API doesn't start: one sentence that holds `named`, and no secret."""
    finished = await run(environ, "serve", *arguments)
    assert (finished.status, finished.out) == (2, "")
    (line,) = finished.err.splitlines()
    assert line.startswith("carryout: ")
    for text in named:
        assert text in line
    for name in ("CARRYOUT_DATABASE_URL", "CARRYOUT_REDIS_URL"):
        assert (urlsplit(environ.get(name, "")).password or "no password") not in line


class TestRefusedStarts:
    @pytest.mark.parametrize(
        ("name", "text", "named"),
        [
            ("CARRYOUT_MAX_EXPORT_RECORDS", "many", "CARRYOUT_MAX_EXPORT_RECORDS"),
            ("CARRYOUT_MAX_RECORDS", "1", "CARRYOUT_MAX_RECORDS is not a setting"),
            (
                "CARRYOUT_DATABASE_URL",
                f"postgresql://user:hunter2@127.0.0.1:{CLOSED_PORT}/x",
                "PostgreSQL can't be reached: nothing listens there (CARRYOUT_DATABASE_URL)",
            ),
            (
                "CARRYOUT_REDIS_URL",
                f"redis://:hunter2@127.0.0.1:{CLOSED_PORT}/0",
                "Redis can't be reached: nothing listens there (CARRYOUT_REDIS_URL)",
            ),
            (
                "CARRYOUT_S3_BUCKET",
                "no-such-bucket",
                "S3 has no such bucket, asked for no-such-bucket (CARRYOUT_S3_BUCKET)",
            ),
            ("CARRYOUT_S3_BUCKET", "No Bucket", "asked for No Bucket (CARRYOUT_S3_BUCKET)"),
            (
                "CARRYOUT_S3_SECRET_ACCESS_KEY",
                "hunter2",
                "(CARRYOUT_S3_ACCESS_KEY_ID, CARRYOUT_S3_SECRET_ACCESS_KEY)",
            ),
            ("CARRYOUT_S3_ENDPOINT_URL", f"http://127.0.0.1:{CLOSED_PORT}", "(CARRYOUT_S3_ENDPOINT_URL)"),
            ("AWS_PROFILE", "absent", "The AWS configuration is wrong: The config profile (absent) could not be found"),
            ("CARRYOUT_USER_ID_TYPE", "bigint", "CARRYOUT_USER_ID_TYPE"),
        ],
    )
    async def test_setting_or_server(self, environ: dict[str, str], name: str, text: str, named: str) -> None:
        await expect_refusal(environ | {name: text}, named)

    @pytest.mark.parametrize(
        ("name", "pattern", "text", "named"),
        [
            (
                *("CARRYOUT_DATABASE_URL", "/[^/]*$", "/absent"),
                "PostgreSQL has no such database (CARRYOUT_DATABASE_URL; 3D000)",
            ),
            (
                *("CARRYOUT_DATABASE_URL", ":[^:@]*@", ":hunter2@"),
                "PostgreSQL refused the password (CARRYOUT_DATABASE_URL; 28P01)",
            ),
            ("CARRYOUT_SOURCE_DATABASE_URL", ":[^:@]*@", ":hunter2@", "password (CARRYOUT_SOURCE_DATABASE_URL; 28P01)"),
            ("CARRYOUT_REDIS_URL", "^redis:", "rediss:", "Redis didn't answer in time (does it speak TLS?)"),
            ("CARRYOUT_REDIS_URL", ":[^:@]*@", ":hunter2@", "Redis refused the password (CARRYOUT_REDIS_URL)"),
        ],
    )
    async def test_part_of_a_url(self, environ: dict[str, str], name: str, pattern: str, text: str, named: str) -> None:
        url = environ.get(name, environ["CARRYOUT_DATABASE_URL"])
        await expect_refusal(environ | {name: re.sub(pattern, text, url, count=1)}, named)

    async def test_unmigrated_database(self, environ: dict[str, str], stack: Stack) -> None:
        async with open_empty_database(stack.admin_url) as url:
            await expect_refusal(environ | {"CARRYOUT_DATABASE_URL": url}, "carryout migrate")

    async def test_edited_migration(self, environ: dict[str, str], database: Connection) -> None:
        await database.execute("UPDATE carryout.schema_migrations SET sha256 = '' WHERE name LIKE '0001%'")
        await expect_refusal(environ, "0001_exports", "edited")

    @pytest.mark.parametrize(
        ("sql", "named"),
        [
            ("SELECT * FROM public.users WHERE id = $1", "`*`"),
            ("SELECT id, email, password_hash AS note FROM public.users WHERE id = $1", "password_hash"),
        ],
    )
    async def test_broken_dataset(
        self, environ: dict[str, str], database_url: str, tmp_path: Path, sql: str, named: str
    ) -> None:
        """Even if the role could read all that it names."""
        (tmp_path / "profile.sql").write_text(sql)
        changed = {"CARRYOUT_DATASETS_DIR": str(tmp_path), "CARRYOUT_SOURCE_DATABASE_URL": database_url}
        await expect_refusal(environ | changed, "profile.sql", named)

    async def test_taken_port(self, environ: dict[str, str]) -> None:
        port = str(urlsplit(environ["CARRYOUT_REDIS_URL"]).port)
        quiet = environ | {"CARRYOUT_JWT_AUDIENCE": "exports"}  # no warning about tokens without an audience
        await expect_refusal(quiet, port, arguments=("--port", port))


class Serving(NamedTuple):
    process: asyncio.subprocess.Process
    client: httpx.AsyncClient


@asynccontextmanager
async def serve(environ: Mapping[str, str], tmp_path: Path) -> AsyncIterator[Serving]:
    port = keep_port(tmp_path / "port")
    process = await start(environ, "serve", "--port", str(port))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            await until(lambda: answers(client, "/readyz", 200))
            yield Serving(process, client)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def answers(client: httpx.AsyncClient, path: str, status: int) -> bool:
    try:
        return (await client.get(path)).status_code == status
    except httpx.ConnectError:
        return False


async def read_to_end(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


class TestServing:
    async def test_sigterm(self, environ: dict[str, str], tmp_path: Path) -> None:
        async with serve(environ, tmp_path) as serving:
            serving.process.send_signal(signal.SIGTERM)
            stdout, stderr = await serving.process.communicate()
        assert (serving.process.returncode, stderr) == (0, b"")
        lines = [msgspec.json.decode(line) for line in stdout.splitlines()]
        assert "draining" in [line["event"] for line in lines]

    async def test_readiness_fails_first(self, environ: dict[str, str], tmp_path: Path) -> None:
        async with serve(environ | {"CARRYOUT_DRAIN_SECONDS": "600"}, tmp_path) as serving:
            serving.process.send_signal(signal.SIGTERM)
            await until(lambda: answers(serving.client, "/readyz", 503))
            assert read_problem(await serving.client.get("/readyz"), 503)["detail"] == "Shutting down"
            assert (await serving.client.get("/livez")).status_code == 200
            serving.process.send_signal(signal.SIGTERM)
            assert await serving.process.wait() == 0

    async def test_a_stalled_stream_outlives_no_grace(
        self, environ: dict[str, str], tmp_path: Path, database: Connection
    ) -> None:
        user_id = await create_user(database, content=5_000, body_bytes=1_900)
        token = (await run(environ, "token", str(user_id))).out.strip()
        async with serve(environ | {"CARRYOUT_SHUTDOWN_GRACE_SECONDS": "1"}, tmp_path) as serving:
            request = serving.client.stream(
                "GET", "/api/export/stream?format=csv", headers=bearer(token) | {"Accept-Encoding": "identity"}
            )
            async with request as response:
                chunks = response.aiter_raw()
                assert (await anext(chunks)).startswith(b"user_id,")
                serving.process.send_signal(signal.SIGTERM)
                assert await serving.process.wait() == 0
                with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                    await read_to_end(chunks)
            assert serving.process.stdout
            lines = [msgspec.json.decode(line) async for line in serving.process.stdout]
        (cut,) = [line for line in lines if line["event"] == "Exception in ASGI application"]
        assert (cut["level"], cut["detail"]) == ("warning", "Cut by the end of the process")
        assert "exception" not in cut
        *_, end = await database.fetch("SELECT * FROM carryout.export_audit ORDER BY id")
        assert (end["action"], end["outcome"]) == ("export:streamed", "failed")


class TestLoading:
    @pytest.mark.parametrize(("name", "summary"), [(name, summary) for name, (_, summary) in COMMANDS.items()])
    def test_a_summary_is_the_first_sentence_of_the_commands_own_help(self, name: str, summary: str) -> None:
        command = cli.get_command(click.Context(cli), name)
        assert command
        assert command.help
        assert " ".join(command.help.split()).startswith(summary)
        assert re.fullmatch(r"[^.]+\.", summary)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_a_manual_names_the_command(self, name: str) -> None:
        manuals = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        assert any(re.search(rf"\bcarryout {name}\b", manual.read_text()) for manual in manuals)

    @pytest.mark.parametrize("arguments", [("--version",), ("export", "--help"), ("users", "--help")])
    async def test_commands_without_servers_import_no_drivers(self, arguments: tuple[str, ...]) -> None:
        finished = await run({"PYTHONPROFILEIMPORTTIME": "1"}, *arguments)
        imported = {line.rpartition("|")[2].strip() for line in finished.err.splitlines()}
        assert finished.status == 0
        assert "click" in imported
        assert imported.isdisjoint({"aiohttp", "asyncpg", "cryptography", "jwt", "msgspec", "structlog"})

    @pytest.mark.parametrize("name", {module: name for name, (module, _) in COMMANDS.items()}.values())
    async def test_an_interpreter_of_its_own_finds_all_it_needs(self, name: str) -> None:
        """Other processes of these tests are forked from one that has loaded all modules."""
        finished = await run_anew({}, name, "--help")
        assert (finished.status, finished.err) == (0, "")

    @pytest.mark.parametrize(
        ("module", "arguments"),
        [
            ("click", ("--version",)),
            ("msgspec", ("keys", "list")),
            ("aiohttp", ("users", "--url", "http://127.0.0.1", "-o", "-", "--key", "x")),
        ],
    )
    async def test_an_interrupt_meanwhile_ends_it_quietly(
        self, tmp_path: Path, module: str, arguments: tuple[str, ...]
    ) -> None:
        (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
        finished = await run({"PYTHONPATH": str(tmp_path)}, *arguments)
        assert (finished.status, finished.out, finished.err.strip()) == (130, "", "")


class TestToken:
    async def test_is_believed(self, environ: dict[str, str], idle_api: httpx.AsyncClient) -> None:
        finished = await run(environ, "token", str(USER_ID))
        assert (finished.status, finished.err) == (0, "")
        response = await idle_api.get("/api/export", headers=bearer(finished.out.strip()))
        assert response.status_code == 200

    async def test_settings_from_a_file(
        self, environ: dict[str, str], idle_api: httpx.AsyncClient, tmp_path: Path
    ) -> None:
        file = tmp_path / "env"
        file.write_text("".join(f"{name}={text}\n" for name, text in environ.items()))
        finished = await run({}, "token", str(USER_ID), "--env-file", file)
        response = await idle_api.get("/api/export", headers=bearer(finished.out.strip()))
        assert response.status_code == 200

    async def test_lives_as_long_as_asked(self, environ: dict[str, str]) -> None:
        finished = await run(environ, "token", str(USER_ID), "--ttl", "60")
        claims = jwt.decode(finished.out.strip(), options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == 60

    async def test_wrong_user_id(self, environ: dict[str, str]) -> None:
        finished = await run(environ, "token", "ada")
        assert (finished.status, finished.out) == (1, "")
        assert finished.err == "carryout: Not a user id of type uuid\n"


class TestMigrate:
    async def test_three_at_once_apply_each_once(self, environ: dict[str, str], stack: Stack) -> None:
        async with open_empty_database(stack.admin_url) as url:
            await make_roles(url, stack.role_urls)
            fresh = environ | database_environ(stack, url) | {MIGRATION_URL: owner_url(stack, url)}
            finished = await asyncio.gather(*(run(fresh, "migrate") for _ in range(3)))
            again = await run(fresh, "migrate")
        assert [(each.status, each.err) for each in (*finished, again)] == [(0, "")] * 4
        lines = [line for each in finished if each.out != "nothing to apply\n" for line in each.out.splitlines()]
        names = sorted(path.stem for path in (ROOT / "sql" / "migrations").glob("*.sql"))
        assert sorted(lines) == [f"applied {name}" for name in names]
        assert again.out == "nothing to apply\n"

    async def test_refuses_another_type_of_user_ids(
        self, environ: dict[str, str], stack: Stack, database_url: str
    ) -> None:
        changed = {MIGRATION_URL: owner_url(stack, database_url), "CARRYOUT_USER_ID_TYPE": "bigint"}
        finished = await run(environ | changed, "migrate")
        assert finished.status == 2
        assert "CARRYOUT_USER_ID_TYPE" in finished.err

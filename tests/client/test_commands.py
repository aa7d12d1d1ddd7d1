"""The commands as people and scripts run them."""

import asyncio
import json
import os
import shlex
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from click.testing import CliRunner, Result

from client.errors import MEANINGS, ExitCode
from client.outputs import part_path
from devstack.stack import Stack
from service.cli.commands import cli
from service.resources import Resources
from service.settings import Settings
from tests.api.serving import Served
from tests.client.conftest import Doors
from tests.client.test_exports import fail, queue
from tests.conftest import Token
from tests.support import processes
from tests.support.certificates import write_certificate
from tests.support.documents import read_csv
from tests.support.factories import Connection, create_user, create_user_with
from tests.support.forking import ROOT
from tests.support.processes import CARRYOUT

SMALL_EXPORT_RECORDS = 500
MAX_EXPORT_RECORDS = 1_000

Invoke = Callable[..., Awaitable[Result]]


class Start:
    """Starts `carryout` in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def __call__(
        self,
        *arguments: str,
        variables: Mapping[str, str],
        stdout: int = asyncio.subprocess.PIPE,
        stderr: int = asyncio.subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        return await processes.start(variables, *arguments, cwd=self.folder, stdout=stdout, stderr=stderr)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(
        settings, small_export_records=SMALL_EXPORT_RECORDS, max_export_records=MAX_EXPORT_RECORDS
    )


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return Start(tmp_path)


@pytest.fixture
async def worker(start: Start, stack: Stack, settings: Settings) -> AsyncIterator[None]:
    names = ("database_url", "source_database_url", "public_url", "s3_public_url")
    variables = stack.environ | {f"CARRYOUT_{name.upper()}": str(getattr(settings, name)) for name in names}
    process = await start("worker", variables=variables)
    yield
    process.kill()
    await process.communicate()


@pytest.fixture
def url(served: Served, doors: Doors) -> str:
    """Where `served` is reached."""
    return doors.api.url


@pytest.fixture
def invoke(url: str, tmp_path: Path) -> Invoke:
    """Runs a command within this process, writing to the file `data` unless told otherwise."""

    async def invoked(command: str, *options: str, **variables: str) -> Result:
        arguments = [command, "--url", url, "-o", str(tmp_path / "data"), "--quiet", *options]
        return await asyncio.to_thread(CliRunner().invoke, cli, arguments, env=variables)

    return invoked


def read_all(terminal: int) -> bytes:
    """The text shown on a terminal whose other side is closed."""
    shown = b""
    with open(terminal, "rb", buffering=0) as screen, suppress(OSError):
        while piece := screen.read(2**16):
            shown += piece
    return shown


class TestExport:
    @pytest.mark.usefixtures("worker")
    async def test_a_queued_one(self, start: Start, url: str, database: Connection, token: Token) -> None:
        user_id = await create_user_with(database, SMALL_EXPORT_RECORDS)
        variables = {"CARRYOUT_TOKEN": token(user_id)}
        export = await start("export", "--url", url, "-o", "data.csv", variables=variables)
        _, err = await export.communicate()
        assert export.returncode == 0, err
        assert (start.folder / "data.csv").read_bytes().count(b"\r\n") == 1 + SMALL_EXPORT_RECORDS
        assert err.endswith(b" bytes, checked\n")

    @pytest.mark.usefixtures("worker")
    async def test_a_package_is_verified(self, start: Start, url: str, database: Connection, token: Token) -> None:
        variables = {"CARRYOUT_TOKEN": token(await create_user_with(database, 30))}
        export = await start("export", "--url", url, "--format", "zip", "-o", "data.zip", variables=variables)
        _, err = await export.communicate()
        assert export.returncode == 0, err
        assert err.endswith(b" bytes, all as the manifest says\n")
        verify = await start("verify", "data.zip", variables={})
        _, err = await verify.communicate()
        assert verify.returncode == 0, err
        assert b"data.zip: " in err

    async def test_interrupted_it_says_how_to_go_on(
        self, start: Start, url: str, doors: Doors, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database, content=300, body_bytes=900)
        variables = {"CARRYOUT_TOKEN": token(user_id)}
        doors.storage.cuts, doors.storage.stalling = [100_000], True
        first = await start("export", "--url", url, "-o", "my data.csv", "--quiet", variables=variables)
        part = part_path(start.folder / "my data.csv")
        while not (part.exists() and part.stat().st_size > 50_000):
            await asyncio.sleep(0.05)
        first.send_signal(signal.SIGINT)
        _, err = await first.communicate()
        assert first.returncode == ExitCode.INTERRUPTED
        said, how = err.decode().splitlines()
        assert said == "carryout: Interrupted"
        left_bytes = part.stat().st_size
        command = shlex.split(how.removeprefix("To resume: "))
        assert command[0] == "carryout"
        second = await start(*command[1:], variables=variables)
        await second.communicate()
        assert second.returncode == 0
        assert (start.folder / "my data.csv").read_bytes().count(b"\r\n") == 302
        assert f"\r\nRange: bytes={left_bytes}-\r\n".encode() in doors.storage.asked

    async def test_standard_error_closed(self, start: Start, url: str, database: Connection, token: Token) -> None:
        user_id = await create_user(database)
        command = shlex.join([*map(str, CARRYOUT), "export", "--url", url, "-o", "data.csv"])
        variables = {"PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1", "CARRYOUT_TOKEN": token(user_id)}
        export = await asyncio.create_subprocess_shell(f"{command} 2>&-", cwd=start.folder, env=variables)
        assert await export.wait() == 0
        assert (start.folder / "data.csv").exists()

    async def test_to_standard_output_with_a_bar_on_the_terminal(
        self, start: Start, url: str, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database, activity=9)
        variables = {"CARRYOUT_TOKEN": token(user_id)}
        terminal, side = os.openpty()
        export = await start("export", "--url", url, "-o", "-", variables=variables, stderr=side)
        out, _ = await export.communicate()
        os.close(side)
        shown = read_all(terminal)
        assert (export.returncode, out.count(b"\r\n")) == (0, 11), shown
        assert f"{len(out)}/{len(out)}".encode() in shown
        assert list(start.folder.iterdir()) == []

    async def test_a_closed_standard_output_ends_the_export(
        self, start: Start, url: str, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        reading, writing = os.pipe()
        os.close(reading)
        for options in ([], ["--live"]):
            export = await start(
                *("export", "--url", url, "-o", "-", "--quiet", *options),
                variables={"CARRYOUT_TOKEN": token(user_id)},
                stdout=writing,
            )
            _, err = await export.communicate()
            assert (export.returncode, err) == (ExitCode.BROKEN_PIPE, b"")
        os.close(writing)


class TestExitCodes:
    """None of them leaves a FILE; all but usage errors say one sentence."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "data"

    async def test_usage(self, invoke: Invoke, file: Path, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("x\n")
        for options in ([], ["--token", "a\nb"], ["--token", "x", "--token-file", str(tmp_path / "token")]):
            assert (await invoke("export", *options)).exit_code == ExitCode.USAGE
        assert (await invoke("export", "--token", "x", "--live", "--job", str(UUID(int=1)))).exit_code == ExitCode.USAGE
        assert (await invoke("export", "--token", "x", "--url", "ftp://x")).exit_code == ExitCode.USAGE
        file.write_text("old")
        assert (await invoke("export", "--token", "x")).exit_code == ExitCode.USAGE
        assert file.read_text() == "old"
        for parent in (tmp_path / "missing", file):
            nowhere = await invoke("export", "--token", "x", "-o", str(parent / "data"))
            assert (nowhere.exit_code, nowhere.stderr) == (
                ExitCode.USAGE,
                f"carryout: The folder {parent} doesn't exist\n",
            )

    async def test_no_tls(self, invoke: Invoke, url: str, file: Path) -> None:
        host = url.removeprefix("http://")
        refused = await invoke("export", "--token", "x", "--url", f"https://{host}")
        assert refused.exit_code == ExitCode.REFUSED
        assert refused.stderr.startswith(f"carryout: {host} doesn't speak TLS (")
        assert refused.stderr.endswith("): does it need http://?\n")
        assert not file.exists()

    async def test_an_untrusted_certificate_is_refused(self, invoke: Invoke, file: Path, tmp_path: Path) -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(write_certificate(tmp_path / "localhost.pem"))
        async with await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0, ssl=tls) as server:
            port = server.sockets[0].getsockname()[1]
            refused = await invoke("export", "--token", "x", "--url", f"https://127.0.0.1:{port}")
        assert refused.exit_code == ExitCode.REFUSED
        assert refused.stderr == "carryout: The certificate of 127.0.0.1 isn't trusted: self-signed certificate\n"
        assert not file.exists()

    async def test_not_authorised(self, invoke: Invoke, file: Path) -> None:
        refused = await invoke("export", CARRYOUT_TOKEN="x")
        assert refused.exit_code == ExitCode.NOT_AUTHORISED
        assert refused.stderr.startswith("carryout: Missing or invalid token (request_id ")
        assert (await invoke("users", CARRYOUT_API_KEY="x")).exit_code == ExitCode.NOT_AUTHORISED
        meanwhile = await invoke("export", "--job", str(UUID(int=1)), CARRYOUT_TOKEN="x")
        assert meanwhile.exit_code == ExitCode.NOT_AUTHORISED
        assert f"\nTo resume: carryout export --job {UUID(int=1)} --url " in meanwhile.stderr
        assert not file.exists()

    async def test_in_progress(
        self, invoke: Invoke, file: Path, resources: Resources, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        job_id = await queue(resources, user_id)
        refused = await invoke("export", "--no-wait", CARRYOUT_TOKEN=token(user_id))
        assert refused.exit_code == ExitCode.IN_PROGRESS
        assert refused.stderr.startswith(f"carryout: Export already in progress: job {job_id} (request_id ")
        assert not file.exists()

    async def test_too_large(self, invoke: Invoke, file: Path, database: Connection, token: Token) -> None:
        user_id = await create_user_with(database, MAX_EXPORT_RECORDS + 1)
        for options in ([], ["--live"]):
            refused = await invoke("export", *options, CARRYOUT_TOKEN=token(user_id))
            assert refused.exit_code == ExitCode.TOO_LARGE
            refusal, suggestion = refused.stderr.splitlines()
            assert refusal.startswith("carryout: Export too large, please filter data (request_id ")
            assert "date range (from and to)" in suggestion
        assert not file.exists()

    async def test_too_large_and_the_ranges_that_fit(
        self, invoke: Invoke, file: Path, database: Connection, token: Token
    ) -> None:
        user_id = await create_user_with(database, MAX_EXPORT_RECORDS)
        insert = "INSERT INTO public.activity (user_id, kind, occurred_at) VALUES ($1, 'old', '2025-06-01')"
        await database.execute(insert, user_id)
        refused = await invoke("export", CARRYOUT_TOKEN=token(user_id))
        assert refused.stderr.endswith(": --to 2026-01-01 (2 records), --from 2026-01-01 (1,000 records)\n")
        made = await invoke("export", "--to", "2026-01-01", CARRYOUT_TOKEN=token(user_id))
        assert made.exit_code == ExitCode.OK
        assert len(read_csv(file.read_bytes().decode())) == 3

    async def test_sections(self, invoke: Invoke, file: Path, database: Connection, token: Token) -> None:
        user_id = await create_user(database, activity=2, content=3)
        options = ["--section", "content", "--section", "user", "--format", "json"]
        for live in ([], ["--live"]):
            made = await invoke("export", *options, *live, "--force", CARRYOUT_TOKEN=token(user_id))
            assert made.exit_code == ExitCode.OK, made.stderr
            document = json.loads(file.read_text())
            assert (document.keys(), len(document["content"])) == ({"exported_at", "filter", "user", "content"}, 3)

    async def test_since_last(self, invoke: Invoke, file: Path, database: Connection, token: Token) -> None:
        user_id = await create_user(database, activity=2)
        first = await invoke("export", "--since-last", "--format", "json", CARRYOUT_TOKEN=token(user_id))
        assert first.exit_code == ExitCode.OK
        assert "filter" not in json.loads(file.read_text())  # the first
        await database.execute("INSERT INTO public.activity (user_id, kind) VALUES ($1, 'new')", user_id)
        options = ["--since-last", "--format", "json", "--force"]
        second = await invoke("export", *options, CARRYOUT_TOKEN=token(user_id))
        assert second.exit_code == ExitCode.OK
        document = json.loads(file.read_text())
        assert "new" in [row["kind"] for row in document["activity"]]
        assert document["filter"]["since"]

    async def test_since_last_that_had_an_end(
        self, invoke: Invoke, file: Path, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        insert = "INSERT INTO public.activity (user_id, kind, occurred_at) VALUES ($1, $2, $2::text::timestamptz)"
        await database.executemany(insert, [(user_id, "2024-05-05"), (user_id, "2025-05-05")])
        for given, kinds in ([["--to", "2025-01-01"], ["2024-05-05"]], [["--since-last"], ["2025-05-05"]]):
            made = await invoke("export", *given, "--format", "json", "--force", CARRYOUT_TOKEN=token(user_id))
            assert made.exit_code == ExitCode.OK
            document = json.loads(file.read_text())
            assert [row["kind"] for row in document["activity"]] == kinds
        assert document["filter"]["from"] == "2025-01-01"

    async def test_options_that_exclude_each_other(self, invoke: Invoke) -> None:
        for options in (["--since-last", "--from", "2025-01-01"], ["--job", str(UUID(int=1)), "--to", "2025-01-01"]):
            refused = await invoke("export", *options, CARRYOUT_TOKEN="t")
            assert refused.exit_code == ExitCode.USAGE

    async def test_failed_and_unknown(
        self, invoke: Invoke, file: Path, resources: Resources, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        job_id = await queue(resources, user_id)
        await fail(database, job_id)
        failed = await invoke("export", "--job", job_id, CARRYOUT_TOKEN=token(user_id))
        assert failed.exit_code == ExitCode.EXPORT_FAILED
        assert failed.stderr == f"carryout: The export failed: Out of luck (job {job_id})\n"
        unknown = await invoke("export", "--job", str(UUID(int=1)), CARRYOUT_TOKEN=token(user_id))
        assert unknown.exit_code == ExitCode.REFUSED
        assert not file.exists()

    async def test_incomplete(
        self, invoke: Invoke, file: Path, doors: Doors, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database, content=100)
        doors.api.cuts = [900]
        broken = await invoke("export", "--live", CARRYOUT_TOKEN=token(user_id))
        assert broken.exit_code == ExitCode.INCOMPLETE
        assert broken.stderr == "carryout: The connection to 127.0.0.1 broke\n"
        assert not file.exists()

    async def test_other_bytes(
        self, invoke: Invoke, file: Path, resources: Resources, database: Connection, token: Token
    ) -> None:
        async def other() -> AsyncIterator[bytes]:
            yield b"x" * size

        user_id = await create_user(database)
        assert (await invoke("export", CARRYOUT_TOKEN=token(user_id))).exit_code == ExitCode.OK
        size = file.stat().st_size
        file.unlink()
        query = "SELECT id, file_url FROM carryout.export_jobs WHERE user_id = $1"
        job_id, stored = await database.fetchrow(query, user_id) or ("", "")
        await resources.storage.upload(stored.split("/", 3)[3], other(), content_type="text/csv")
        other_file = await invoke("export", "--job", str(job_id), CARRYOUT_TOKEN=token(user_id))
        assert other_file.exit_code == ExitCode.CHECKSUM
        assert not file.exists()


async def test_users(invoke: Invoke, key: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{key}\n")
    assert (await invoke("users", "full", "--key-file", str(tmp_path / "key"))).exit_code == 0
    assert (tmp_path / "data").read_bytes().startswith(b"id,email,name,created_at")
    one = await invoke("users", "--email", "user-2@example.com", "--force", CARRYOUT_API_KEY=key)
    assert (one.exit_code, one.stderr) == (0, "")
    header, row = read_csv((tmp_path / "data").read_bytes().decode())
    assert (header, row[1]) == (["id", "email", "name"], "user-2@example.com")


def test_help_names_every_exit_code() -> None:
    for command in ("export", "users"):
        text = CliRunner().invoke(cli, [command, "--help"]).stdout
        assert [line for line in text.splitlines() if any(line.endswith(meaning) for meaning in MEANINGS.values())] == [
            f"    {code:<3}  {MEANINGS[code]}" for code in ExitCode
        ]


def test_the_clients_credentials_are_not_refused_as_unknown_settings(stack: Stack) -> None:
    environ = stack.environ | {
        "CARRYOUT_PUBLIC_URL": "https://x.example",
        "CARRYOUT_TOKEN": "x",
        "CARRYOUT_API_KEY": "x",
    }
    assert CliRunner().invoke(cli, ["token", str(UUID(int=1))], env=environ).exit_code == 0

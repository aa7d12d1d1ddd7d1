"""The stack as its users see it: data that stay, pieces that are replaced, an end that is one."""

import asyncio
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiobotocore.session
import aiosmtplib
import asyncpg
import pytest
import redis.asyncio

from devstack.servers import find_postgres
from devstack.stack import Stack, open_stack
from service.errors import ConfigurationError
from service.settings import from_env

BUCKET = "carryout"
REPLACEMENTS = {
    "CARRYOUT_DATABASE_URL": "postgresql://db.example/app",
    "CARRYOUT_REDIS_URL": "redis://redis.example",
    "CARRYOUT_S3_ENDPOINT_URL": "https://s3.example",
    "CARRYOUT_SMTP_URL": "smtp://mail.example",
}

# Opens a stack, says so, and stays until it is ended from outside.
OWNER = """
import asyncio, sys
from pathlib import Path
from devstack.stack import open_stack

async def main():
    async with open_stack(Path(sys.argv[1]), {}) as stack:
        print(" ".join(stack.environ[name] for name in sys.argv[2:]), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def connect(stack: Stack) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(stack.admin_url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def connect_s3(stack: Stack) -> AsyncIterator[Any]:
    session = aiobotocore.session.get_session()
    async with session.create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=stack.environ["CARRYOUT_S3_ENDPOINT_URL"],
        aws_access_key_id=stack.environ["CARRYOUT_S3_ACCESS_KEY_ID"],
        aws_secret_access_key=stack.environ["CARRYOUT_S3_SECRET_ACCESS_KEY"],
    ) as client:
        yield client


async def write(stack: Stack) -> None:
    async with connect(stack) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 'ÄÖÜ' AS text")
    async with connect_s3(stack) as s3:
        await s3.put_object(Bucket=BUCKET, Key="a/b.csv", Body=b"1,2\r\n")


async def read(stack: Stack) -> tuple[str, bytes]:
    async with connect(stack) as connection:
        text: str = await connection.fetchval("SELECT text FROM kept")
    async with connect_s3(stack) as s3:
        answer = await s3.get_object(Bucket=BUCKET, Key="a/b.csv")
        return text, await answer["Body"].read()


def listens(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as client:
        return client.connect_ex((address.hostname or "", address.port or 0)) == 0


async def falls_silent(url: str) -> None:
    """The children of a killed PostgreSQL hold its listener until they notice."""
    async with asyncio.timeout(60):
        while listens(url):
            await asyncio.sleep(0.05)


async def test_data_and_urls_survive_the_stack(data_dir: Path) -> None:
    async with open_stack(data_dir, {}) as stack:
        await write(stack)
    async with open_stack(data_dir, {}) as again:
        assert await read(again) == ("ÄÖÜ", b"1,2\r\n")
        assert again.environ == stack.environ


@pytest.mark.parametrize("ending", ["stop", "kill"])
async def test_a_server_comes_back_with_its_data_and_url(data_dir: Path, ending: str) -> None:
    async with open_stack(data_dir, {}) as stack:
        await write(stack)
        for server in (stack.postgres, stack.redis, stack.object_store, stack.mail_sink):
            assert server is not None
            url = server.url
            assert listens(url)
            if ending == "kill":
                server.kill()
            await server.stop()
            await falls_silent(url)
            await server.start()
            assert server.url == url
            assert listens(url)
        assert await read(stack) == ("ÄÖÜ", b"1,2\r\n")


async def test_two_stacks_at_once_share_nothing(data_dir: Path) -> None:
    async with open_stack(data_dir / "one", {}) as one, open_stack(data_dir / "two", {}) as two:
        different = {name for name in one.environ if one.environ[name] != two.environ[name]}
        names = {"CARRYOUT_S3_BUCKET", "CARRYOUT_MAIL_FROM", "CARRYOUT_SCHEMA_OWNER"}
        assert different == one.environ.keys() - names
        assert one.migration != two.migration
        await write(one)
        await write(two)


async def test_a_data_folder_serves_one_stack(data_dir: Path) -> None:
    async with open_stack(data_dir, REPLACEMENTS):
        with pytest.raises(ConfigurationError, match="in use by another process"):
            async with open_stack(data_dir, REPLACEMENTS):
                pass


async def test_the_settings_are_all_a_process_needs(data_dir: Path) -> None:
    async with open_stack(data_dir, {"CARRYOUT_S3_BUCKET": "mine", "HOME": "/"}) as stack:
        settings = from_env(stack.environ | {"CARRYOUT_PUBLIC_URL": "http://127.0.0.1:8000"})
        assert settings.s3_bucket == "mine"
        assert all(name.startswith("CARRYOUT_") for name in stack.environ)
        async with connect_s3(stack) as s3:
            assert [bucket["Name"] for bucket in (await s3.list_buckets())["Buckets"]] == ["mine"]
        address = urlsplit(settings.redis_url)
        client = redis.asyncio.Redis(port=address.port or 0, password=address.password)
        assert await client.ping()
        await client.aclose()


async def test_a_replaced_server_is_not_started(data_dir: Path) -> None:
    async with open_stack(data_dir, REPLACEMENTS | {"CARRYOUT_JWT_JWKS_URL": "https://id.example/keys"}) as stack:
        assert (stack.postgres, stack.redis, stack.object_store, stack.mail_sink) == (None, None, None, None)
        assert stack.environ.items() >= REPLACEMENTS.items()
        settings = from_env(stack.environ | {"CARRYOUT_PUBLIC_URL": "http://127.0.0.1:8000"})
        assert settings.s3_access_key_id == ""
        assert list((data_dir / "run").iterdir()) == []


def test_another_postgresql_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "initdb").touch()
    monkeypatch.setenv("POSTGRES_BIN", str(tmp_path))
    assert find_postgres() == tmp_path


async def test_a_chosen_postgresql_must_be_there(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_BIN", "/nowhere")
    with pytest.raises(ConfigurationError, match=r"^POSTGRES_BIN has no initdb: /nowhere$"):
        async with open_stack(data_dir, {}):
            pass


async def test_strangers_cannot_read_the_secrets(data_dir: Path) -> None:
    async with open_stack(data_dir, {}) as stack:
        assert stat.S_IMODE((data_dir / "secrets.json").stat().st_mode) == 0o600
        wrong = stack.admin_url.replace("carryout:", "carryout:x")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(wrong)
        address = urlsplit(stack.environ["CARRYOUT_REDIS_URL"])
        client = redis.asyncio.Redis(port=address.port or 0)
        with pytest.raises(redis.exceptions.AuthenticationError):
            await client.ping()
        await client.aclose()


async def test_a_mail_becomes_a_file(data_dir: Path) -> None:
    async with open_stack(data_dir, {}) as stack:
        assert stack.mail_sink is not None
        for subject in ("first", "second"):
            mail = EmailMessage()
            mail["From"], mail["To"], mail["Subject"] = "a@example.com", "list@example.com", subject
            mail.set_content("Grüße\n.\n")
            address = urlsplit(stack.mail_sink.url)
            await aiosmtplib.send(mail, recipients=["zoë@example.com"], hostname="127.0.0.1", port=address.port)
        received = [message_from_bytes(path.read_bytes()) for path in stack.mail_sink.mails()]
        assert [mail["Subject"] for mail in received] == ["first", "second"]
        payload = received[1].get_payload(decode=True)
        assert isinstance(payload, bytes)
        assert payload.decode().splitlines() == ["Grüße", "."]


async def test_a_server_that_cannot_start_takes_the_others_with_it(data_dir: Path) -> None:
    async with open_stack(data_dir, {}) as stack:
        pass
    (data_dir / "postgres" / "cluster" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigurationError, match=r"^postgres ended with status 1; its log ends: .*FATAL.*incompatible"):
        async with open_stack(data_dir, {}):
            pass
    assert not any(listens(stack.environ[name]) for name in REPLACEMENTS)


# Where a shell starts it with `&`.
IN_BACKGROUND = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"


@pytest.mark.parametrize(
    ("number", "preamble"), [(signal.SIGINT, ""), (signal.SIGTERM, ""), (signal.SIGTERM, IN_BACKGROUND)]
)
async def test_a_signal_stops_everything(data_dir: Path, number: signal.Signals, preamble: str) -> None:
    with start_owner(preamble + OWNER, data_dir) as (owner, urls):
        owner.send_signal(number)
        await asyncio.to_thread(owner.wait)
    assert not any(map(listens, urls))
    assert not (data_dir / "postgres" / "cluster" / "postmaster.pid").exists()


async def test_the_next_start_ends_what_a_killed_owner_left(data_dir: Path) -> None:
    with start_owner("import devstack.process\ndevstack.process._LIBC = None\n" + OWNER, data_dir) as (owner, urls):
        owner.kill()
    before = datetime.now(UTC)
    assert [listens(url) for url in urls] == [True, True, True, False]  # the last one lived in the owner
    async with open_stack(data_dir, {}) as stack:
        assert [stack.environ[name] for name in REPLACEMENTS] == urls
        async with connect(stack) as connection:
            assert await connection.fetchval("SELECT pg_postmaster_start_time() > $1", before)
    assert not any(map(listens, urls))


if sys.platform == "linux":  # elsewhere the kernel doesn't help

    async def test_a_killed_owner_takes_its_servers_with_it(data_dir: Path) -> None:
        with start_owner(OWNER, data_dir) as (owner, urls):
            owner.kill()
        while any(map(listens, urls)):
            await asyncio.sleep(0.05)


@contextmanager
def start_owner(program: str, data_dir: Path) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """A process with a stack of its own, and the URLs of its servers; waited for at the end."""
    command = [sys.executable, "-c", program, str(data_dir), *REPLACEMENTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        yield owner, owner.stdout.readline().split()

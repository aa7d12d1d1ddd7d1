"""`carryout dev` as a person runs it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest

from devstack.dev import CARRYOUT as CHILD
from devstack.ports import keep_port
from devstack.sample import ADA
from service.backends.database import may_change_trail
from service.settings import from_env
from tests.support.processes import CARRYOUT, child_environ


@pytest.fixture
def port(data_dir: Path) -> int:
    return keep_port(data_dir / "port")


@contextmanager
def start_dev(port: int, data_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [*CARRYOUT, "dev", "--port", str(port), "--data-dir", str(data_dir)]
    environ = child_environ({name: os.environ[name] for name in ("POSTGRES_BIN",) if name in os.environ})
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(seen)


async def get_readyz(port: int) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as answer:
        return answer.status


async def test_dev_from_an_empty_folder_to_its_end(data_dir: Path, port: int) -> None:
    with start_dev(port, data_dir) as process:
        welcome = read_until(process, "/api/v1/users/export-full")
        assert f"http://127.0.0.1:{port}" in welcome
        assert await get_readyz(port) == 200
        env_file = data_dir / "env"
        assert env_file.stat().st_mode & 0o777 == 0o600
        settings = from_env(dict(line.split("=", 1) for line in env_file.read_text().splitlines()))
        serving = await asyncpg.connect(settings.database_url)
        assert (
            settings.migration_database_url == settings.database_url
        )  # the owner's isn't there: `migrate` alone has it
        assert not await may_change_trail(serving)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await serving.execute("SELECT email FROM public.users")
        await serving.close()
        reader = await asyncpg.connect(settings.source_database_url)
        assert await reader.fetchval("SELECT email FROM public.users WHERE id = $1", ADA) == "ada@example.com"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute("SELECT password_hash FROM public.users")
        await reader.close()

        token = welcome.partition("TOKEN=")[2].split()[0]
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.post(f"{settings.public_url}/api/export", json={"format": "csv"}) as answer,
        ):
            assert (answer.status, (await answer.json())["record_count"]) == (201, 400)

        key = welcome.partition("KEY=")[2].split()[0]
        async with (
            aiohttp.ClientSession(headers={"X-API-Key": key}) as session,
            session.get(f"{settings.public_url}/api/v1/users/export-full") as answer,
        ):
            assert (answer.status, (await answer.text()).partition(",")[0]) == (200, "id")

        with start_dev(port, data_dir) as second:
            assert "is in use by another process" in read_until(second, "carryout:")
            assert second.wait() == 2

        ports = {
            name: urlsplit(url).port or 0
            for name, url in {
                "postgres": settings.database_url,
                "redis": settings.redis_url,
                "s3": settings.s3_endpoint_url,
                "api": settings.public_url,
            }.items()
        }
        for name in ports:
            os.kill(int((data_dir / "run" / f"{name}.pid").read_text().split()[0]), signal.SIGKILL)
            read_until(process, f"{name} ended with status -9")
        for restarted in ports.values():
            while not await answers(restarted):
                await asyncio.sleep(0.1)
        while await get_readyz(port) != 200:
            await asyncio.sleep(0.1)
    assert process.returncode == 0
    assert not await answers(port)


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_a_taken_port_is_named(data_dir: Path, port: int) -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", port)
    async with server:
        with start_dev(port, data_dir) as process:
            assert f"Port {port} is in use" in await asyncio.to_thread(read_until, process, "carryout:")
            assert process.wait() == 2


def test_children_import_nothing_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise SystemExit('planted')")
    command = [*CHILD, "--version"]
    ended = subprocess.run(command, cwd=tmp_path, env=child_environ({}), capture_output=True, timeout=60, check=False)
    assert b", version " in ended.stdout, ended.stderr

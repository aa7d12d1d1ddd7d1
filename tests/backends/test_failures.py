"""The reason why a server can't be reached has the same words for every client library."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest

from devstack.stack import Stack
from service.backends.database import connect
from service.backends.failures import (
    DEMANDS_TLS,
    NO_AUTHORITY,
    NO_CONNECTION_LEFT,
    OTHER_NAME,
    POOLERS_WORDS,
    UNTRUSTED,
    describe_cause,
    describe_unreachable,
)
from service.backends.postgresql_url import parse_postgresql_url
from service.backends.queue import open_queue, open_redis
from service.backends.storage import open_storage
from service.errors import ConfigurationError, OutageError
from service.settings import from_env
from tests.conftest import PUBLIC_URL
from tests.support.certificates import write_certificate

Asked = Callable[[str, str], Awaitable[str]]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

SSL_REQUEST: Final = 80_877_103
NOTHING_LISTENS: Final = "can't be reached: nothing listens there"
UNKNOWN: Final = "can't be reached: its host is unknown"
MISSING: Final = "can't be reached: a file or socket that its URL names is missing"
CLOSED: Final = "can't be reached: it closed the connection (do both sides speak TLS?)"


async def ask_postgresql(host: str, query: str = "") -> str:
    with pytest.raises(ConfigurationError) as raised:
        async with connect(f"postgresql://user:hunter2@{host}/x{query}"):
            pass
    return raised.value.detail.removeprefix("PostgreSQL ").removesuffix(" (CARRYOUT_DATABASE_URL)")


async def ask_redis(host: str, query: str = "", *, scheme: str = "redis") -> str:
    async with open_queue(f"{scheme}://:hunter2@{host}{query}") as queue:
        return await find_words(queue.check())


async def ask_s3(stack: Stack, host: str, *, scheme: str = "http") -> str:
    settings = from_env(stack.environ | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL})
    async with open_storage(msgspec.structs.replace(settings, s3_endpoint_url=f"{scheme}://{host}")) as storage:
        return await find_words(storage.delete("exports/x"))


async def find_words(asking: Awaitable[None]) -> str:
    with pytest.raises(OutageError) as raised:
        await asking
    return describe_cause(raised.value)


@asynccontextmanager
async def open_server(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Its host and port."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """The TLS context of a certificate that no client trusts."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(write_certificate(tmp_path / "localhost.pem"))
    return context


@pytest.mark.parametrize(("host", "words"), [("127.0.0.1:1", NOTHING_LISTENS), ("absent.invalid", UNKNOWN)])
async def test_no_server(stack: Stack, host: str, words: str) -> None:
    assert [await ask_postgresql(host), await ask_redis(host), await ask_s3(stack, host)] == [words] * 3


async def test_a_missing_socket() -> None:
    assert await ask_redis("", "/no/such.sock", scheme="unix") == MISSING


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("absent.pem", "names a file that can't be read: No such file or directory"),
        (".", "names a file that can't be read: Is a directory"),
        ("text.pem", "must name a file with certificates in PEM form"),
    ],
)
async def test_no_certificates(tmp_path: Path, file: str, fault: str) -> None:
    (tmp_path / "text.pem").write_text("none")
    query = f"?sslmode=verify-full&sslrootcert={tmp_path / file}"
    with pytest.raises(ConfigurationError, match=f"^CARRYOUT_DATABASE_URL in sslrootcert {fault}$"):
        parse_postgresql_url(f"postgresql://h/d{query}", "CARRYOUT_DATABASE_URL")
    with pytest.raises(ConfigurationError, match=f"^CARRYOUT_REDIS_URL in ssl_ca_certs {fault}$"):
        open_redis(f"rediss://h?ssl_ca_certs={tmp_path / file}")


@pytest.mark.parametrize("authorities", ["", "&sslrootcert=system"])
@pytest.mark.parametrize("file", ["absent.pem", "text.pem"])
def test_no_client_certificate(tmp_path: Path, authorities: str, file: str) -> None:
    (tmp_path / "text.pem").write_text("none")
    url = f"postgresql://h/d?sslmode=verify-full{authorities}&sslcert={tmp_path / file}"
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_DATABASE_URL has a certificate in sslcert or a key in "):
        parse_postgresql_url(url, "CARRYOUT_DATABASE_URL")


async def test_no_authority_to_verify_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    assert await ask_postgresql("127.0.0.1:1", "?sslmode=verify-full") == NO_AUTHORITY


async def test_a_server_without_tls(stack: Stack) -> None:
    async with open_server(hang_up) as host:
        assert await ask_postgresql(host, "?sslmode=require") == CLOSED
        assert await ask_redis(host, scheme="rediss") == CLOSED
        assert await ask_s3(stack, host, scheme="https") == CLOSED


async def test_a_server_of_another_protocol(stack: Stack) -> None:
    async with open_server(hang_up) as host:
        assert await ask_redis(host) == CLOSED
        assert await ask_s3(stack, host) == CLOSED


async def test_a_database_of_redis_that_it_does_not_have(stack: Stack) -> None:
    assert stack.redis
    async with open_queue(stack.redis.url.removesuffix("/0") + "/99") as queue:
        assert await find_words(queue.check()) == "has no database of the number that its URL gives"


async def test_a_server_with_an_untrusted_certificate(stack: Stack, tls: ssl.SSLContext) -> None:
    async with open_server(hang_up, tls) as host:
        assert await ask_redis(host, scheme="rediss") == UNTRUSTED
        assert await ask_s3(stack, host, scheme="https") == UNTRUSTED


async def test_a_redis_with_the_certificate_of_another(tls: ssl.SSLContext, tmp_path: Path) -> None:
    """An authority that vouches for many servers vouches for each by its name."""
    own = tmp_path / "localhost.pem"
    async with open_server(hang_up, tls) as host:
        assert await ask_redis(host, f"?ssl_ca_certs={own}", scheme="rediss") != UNTRUSTED  # but that it hangs up
    other = write_certificate(tmp_path / "other.pem", "other.example")
    tls.load_cert_chain(other)
    async with open_server(hang_up, tls) as host:
        assert await ask_redis(host, f"?ssl_ca_certs={other}", scheme="rediss") == OTHER_NAME


async def test_a_postgresql_with_an_untrusted_certificate(tls: ssl.SSLContext, tmp_path: Path) -> None:
    async def start_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"S")
        with pytest.raises(ssl.SSLError):
            await writer.start_tls(tls)
        writer.close()

    other = write_certificate(tmp_path / "other.pem")
    async with open_server(start_tls) as host:
        assert await ask_postgresql(host, f"?sslmode=verify-full&sslrootcert={other}") == UNTRUSTED


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (9, "its certificate isn't valid yet (do the clocks agree?)"),
        (10, "its certificate has expired"),
        (64, "its certificate is for another name than its host's"),
        (85, "its certificate can't be verified: Missing Authority Key Identifier"),
    ],
)
def test_a_certificate_s_fault_is_named(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "Missing Authority Key Identifier"
    assert describe_unreachable(error) == f"can't be reached: {words}"


def refuse(code: str, said: str) -> Serve:
    """A server that refuses each connection as PostgreSQL, and what stands before it, do."""
    fields = f"SFATAL\0VFATAL\0C{code}\0M{said}\0\0".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length, request = struct.unpack("!ii", await reader.readexactly(8))
        if request == SSL_REQUEST:
            writer.write(b"N")
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            length += 4
        await reader.readexactly(length - 8)
        writer.write(b"E" + struct.pack("!i", 4 + len(fields)) + fields)
        await writer.drain()
        writer.close()

    return serve


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        ("08P01", "no such database: x", "has no such database"),
        ("XX000", "Tenant or user not found", POOLERS_WORDS["Tenant or user not found"]),
        (
            "08P01",
            "server login has been failing, try again later (server_login_retry)",
            "is behind a pooler that can't log in to it",
        ),
        ("08P01", "no more connections allowed (max_client_conn)", NO_CONNECTION_LEFT),
        (
            "XX000",
            "MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to pool_size",
            NO_CONNECTION_LEFT,
        ),
        ("08P01", "SASL authentication failed", "refused the password"),
        ("28000", 'no pg_hba.conf entry for host "10.0.0.1", user "u", no encryption', POOLERS_WORDS["no encryption"]),
        ("28000", "This RDS Proxy requires TLS connections", DEMANDS_TLS),
        ("08P01", "connection is insecure (try using `sslmode=require`)", DEMANDS_TLS),
        ("28000", 'role "u" is not permitted to log in', "refused the user"),
    ],
)
async def test_a_pooler_s_or_a_managed_server_s_own_words(code: str, said: str, words: str) -> None:
    """They come under codes that mean something else."""
    async with open_server(refuse(code, said)) as host:
        assert await ask_postgresql(host) == f"{words} (CARRYOUT_DATABASE_URL; {code})"


async def test_a_parameter_that_postgresql_does_not_know(database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="doesn't know the parameter no_such_setting that the URL gives"):
        async with connect(f"{database_url}?no_such_setting=10"):
            pass

"""Database URLs as libpq, poolers and other libraries write them."""

import asyncio
from urllib.parse import urlsplit

import pytest

from service.backends.database import acquire, connect, open_pool
from service.backends.postgresql_url import parse_postgresql_url
from service.errors import ConfigurationError

NAME = "CARRYOUT_DATABASE_URL"
HARMLESS = (
    "connect_timeout=5&keepalives=1&keepalives_idle=30&tcp_user_timeout=1000&client_encoding=utf8&sslsni=1"
    "&channel_binding=prefer&gssencmode=disable&schema=public&connection_limit=5&pool_timeout=0&supa=base-pooler.x"
    "&application_name=theirs&target_session_attrs=read-write&uselibpqcompat=true"
)
CLOSED = "127.0.0.1:1"


class TestParameters:
    async def test_those_of_others_are_used_or_ignored(self, database_url: str) -> None:
        async with connect(f"{database_url}?{HARMLESS}") as connection:
            assert await connection.fetchval("SHOW application_name") == "theirs"

    @pytest.mark.parametrize(
        ("query", "sentence"),
        [
            ("channel_binding=require", "a parameter that can't be obeyed, channel_binding: use sslmode=verify-full"),
            ("hostaddr=127.0.0.1", "a parameter that can't be obeyed, hostaddr: give the address as the host"),
            ("require_auth=scram-sha-256", "a parameter that can't be obeyed, require_auth: leave it off"),
            ("gssencmode=require", "a parameter that can't be obeyed, gssencmode: leave it off"),
            ("connect_timeout=soon", "a wrong value of the parameter connect_timeout"),
            ("pgbouncer=yes", "a wrong value of the parameter pgbouncer"),
            ("sslrootcert=system&sslmode=require", "sslrootcert=system, which needs sslmode=verify-full"),
            ("no-such=1", "a parameter that PostgreSQL doesn't know: no-such"),
        ],
    )
    def test_one_that_cannot_be_obeyed_is_named(self, query: str, sentence: str) -> None:
        with pytest.raises(ConfigurationError, match=f"^{NAME} has {sentence}"):
            parse_postgresql_url(f"postgresql://u@h/db?{query}", NAME)

    def test_the_systems_authorities(self) -> None:
        url = parse_postgresql_url("postgresql://u@h/db?sslrootcert=system", NAME)
        assert url.dsn == "postgresql://u@h/db"
        assert url.tls
        assert url.tls.check_hostname

    def test_a_password_stays_as_it_is(self) -> None:
        dsn = "postgresql://u:p%40%2F%2B+@h/db"
        assert parse_postgresql_url(f"{dsn}?keepalives=1", NAME).dsn == dsn


class TestHosts:
    @pytest.mark.parametrize(
        ("url", "hosts"),
        [
            ("postgresql://u:p@a:1,b:2/db", (("a", 1), ("b", 2))),
            ("postgresql://a,[::1]:6/db", (("a", 5432), ("::1", 6))),
            ("postgresql:///db?host=a,b&port=1", (("a", 1), ("b", 1))),
            ("postgresql:///db?host=a,b&port=1,2", (("a", 1), ("b", 2))),
            ("postgresql://%2Ftmp,b/db", (("/tmp", 5432), ("b", 5432))),
            ("postgresql://a/db", ()),
        ],
    )
    def test_as_libpq_reads_them(self, url: str, hosts: tuple[tuple[str, int], ...]) -> None:
        assert parse_postgresql_url(url, NAME).hosts == hosts

    async def test_the_next_takes_the_place_of_a_closed_one(self, database_url: str) -> None:
        async with connect(_behind(CLOSED, database_url)) as connection:
            assert await connection.fetchval("SELECT 1") == 1

    @pytest.mark.slow
    async def test_a_silent_one_costs_its_share_of_the_time_once(self, database_url: str) -> None:
        """It takes connections and never answers, as behind a load balancer."""
        asked = 0

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            asked += 1
            await reader.read()
            writer.close()

        async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            url = f"{_behind(f'127.0.0.1:{port}', database_url)}?connect_timeout=4"
            async with (
                open_pool(url, size=2, application_name="test") as pool,
                acquire(pool, timeout_seconds=10) as one,
                acquire(pool, timeout_seconds=10) as other,
            ):
                assert await one.fetchval("SELECT 1") == await other.fetchval("SELECT 1")
        assert asked == 1

    async def test_none_that_can_be_written_to(self, database_url: str) -> None:
        with pytest.raises(ConfigurationError, match="has no server of the kind that target_session_attrs names"):
            async with connect(f"{database_url}?target_session_attrs=standby"):
                pass


def _behind(host: str, url: str) -> str:
    parts = urlsplit(url)
    account, _, own = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{account}@{host},{own}").geturl()

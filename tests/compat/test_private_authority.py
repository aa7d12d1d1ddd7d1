"""Servers with certificates of a private authority: known, unknown, for another name, and out of date."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from uuid import uuid4

import pytest

from devstack.stack import Stack
from service.backends.database import connect
from service.backends.failures import NO_SENTINEL, OTHER_NAME, UNTRUSTED
from service.backends.storage import open_storage
from service.errors import ConfigurationError
from service.resources import open_resources
from service.settings import from_env
from tests.compat.private import (
    open_debians_stack,
    open_private_redis,
    open_private_s3,
    open_private_sentinel,
    present,
    verified,
)
from tests.conftest import PUBLIC_URL
from tests.fleet.surroundings import create_sample
from tests.sql.databases import database_environ
from tests.support.certificates import create_authority
from tests.support.processes import run

EXPIRED: Final = "can't be reached: its certificate has expired"
# The certificate that the server shows, and the words for it.
FAULTS: Final = MappingProxyType(
    {"unknown": ("good", UNTRUSTED), "other": ("other", OTHER_NAME), "expired": ("expired", EXPIRED)}
)
SENTENCES: Final = MappingProxyType(
    {
        "database": "PostgreSQL {} (CARRYOUT_DATABASE_URL)",
        "source": "PostgreSQL {} (CARRYOUT_SOURCE_DATABASE_URL)",
        "redis": "Redis {} (CARRYOUT_REDIS_URL)",
        "sentinel": f"Redis {NO_SENTINEL} {{}} (CARRYOUT_REDIS_URL)",
        "s3": "S3 {}, asked for carryout (CARRYOUT_S3_ENDPOINT_URL)",
    }
)


@dataclass(frozen=True)
class Private:
    """`environ` is of plain servers; PostgreSQL is one of its own, which can show certificates."""

    environ: dict[str, str] = field(repr=False)
    server_url: str = field(repr=False)
    objects: Path
    folder: Path
    certificates: dict[str, Path]

    @asynccontextmanager
    async def serving(self, server: str, certificate: str) -> AsyncIterator[dict[str, str]]:
        """The setting by which the server is asked for its certificate, one of `certificates`."""
        shown, authority = self.certificates[certificate], self.certificates["authority"]
        async with AsyncExitStack() as stack:
            if server in {"database", "source"}:
                await present(self.server_url, shown)
                name = "CARRYOUT_DATABASE_URL" if server == "database" else "CARRYOUT_SOURCE_DATABASE_URL"
                yield {name: verified(self.environ[name])}
            elif server == "s3":
                keys = self.environ["CARRYOUT_S3_ACCESS_KEY_ID"], self.environ["CARRYOUT_S3_SECRET_ACCESS_KEY"]
                opened = open_private_s3(self.objects, self.folder, shown, keys)
                yield {"CARRYOUT_S3_ENDPOINT_URL": await stack.enter_async_context(opened)}
            else:
                opener = open_private_sentinel if server == "sentinel" else open_private_redis
                opened = opener(self.folder, shown, authority)
                yield {"CARRYOUT_REDIS_URL": await stack.enter_async_context(opened)}


@pytest.fixture(scope="session")
async def private(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Private]:
    folder = tmp_path_factory.mktemp("private")
    authority = create_authority(folder / "authority.pem")
    certificates = {
        "authority": authority.file,
        "good": authority.issue(folder / "good.pem"),
        "other": authority.issue(folder / "other.pem", "other.example"),
        "expired": authority.issue(folder / "expired.pem", days_left=-1),
        "stranger": create_authority(folder / "stranger.pem").file,
    }
    async with open_debians_stack(folder / "stack") as opened:
        own = database_environ(opened, await create_sample(opened))
        environ = stack.environ | own | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
        environ["CARRYOUT_SCHEMA_OWNER"] = opened.environ["CARRYOUT_SCHEMA_OWNER"]
        yield Private(environ, opened.admin_url, stack.data_dir / "objects", folder, certificates)


@pytest.mark.parametrize("redis", ["redis", "sentinel"])
async def test_a_known_authority_is_trusted(private: Private, redis: str) -> None:
    async with AsyncExitStack() as stack:
        environ = private.environ | {"CARRYOUT_CA_FILE": str(private.certificates["authority"])}
        for server in ("database", "source", redis, "s3"):
            environ |= await stack.enter_async_context(private.serving(server, "good"))
        resources = await stack.enter_async_context(open_resources(from_env(environ)))
        await resources.queue.check_writable()
        assert await resources.queue.enqueue_export(uuid4(), 1)
        await resources.storage.delete("exports/none")
        for pool in (resources.database, resources.source, resources.streams, resources.lists):
            assert await pool.fetchval("SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("server", SENTENCES)
async def test_a_fault_is_named(private: Private, server: str, fault: str) -> None:
    certificate, words = FAULTS[fault]
    known = private.certificates["stranger" if fault == "unknown" else "authority"]
    async with private.serving(server, certificate) as changed:
        environ = private.environ | changed | {"CARRYOUT_CA_FILE": str(known)}
        with pytest.raises(ConfigurationError) as raised:
            async with open_resources(from_env(environ)):
                pass
    assert raised.value.detail == SENTENCES[server].format(words)


@pytest.mark.parametrize("command", ["serve", "worker", "migrate"])
async def test_a_process_ends_with_one_sentence(private: Private, command: str) -> None:
    async with private.serving("database", "good") as changed:
        environ = private.environ | changed | {"CARRYOUT_CA_FILE": str(private.certificates["stranger"])}
        ended = await run(environ, command)
    assert ended == (2, "", f"carryout: PostgreSQL {UNTRUSTED} (CARRYOUT_DATABASE_URL)\n")


@pytest.mark.parametrize("server", ["redis", "s3"])
async def test_so_does_one_whose_other_servers_are_unknown(private: Private, server: str) -> None:
    async with private.serving(server, "good") as changed:
        ended = await run(private.environ | changed, "serve")
    assert ended == (2, "", f"carryout: {SENTENCES[server].format(UNTRUSTED)}\n")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "AWS_CA_BUNDLE"])
async def test_an_s3_of_the_machine_s_list(private: Private, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Botocore itself reads only AWS_CA_BUNDLE and REQUESTS_CA_BUNDLE."""
    for variable in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, str(private.certificates["authority"]))
    async with private.serving("s3", "good") as changed, open_storage(from_env(private.environ | changed)) as storage:
        await storage.delete("exports/none")  # which has more patience than a probe


async def test_a_parameter_of_the_url_comes_first(private: Private) -> None:
    async with private.serving("database", "good") as changed:
        url = f"{changed['CARRYOUT_DATABASE_URL']}&sslrootcert={private.certificates['authority']}"
        environ = private.environ | {
            "CARRYOUT_DATABASE_URL": url,
            "CARRYOUT_CA_FILE": str(private.certificates["stranger"]),
        }
        async with connect(from_env(environ).database_url) as connection:
            assert await connection.fetchval("SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()")

"""The probes of Kubernetes, with a Redis that these tests may stop."""

import asyncio
import dataclasses
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import msgspec
import pytest
import structlog
from structlog.typing import EventDict

from devstack.roles import SERVICE, with_role
from devstack.servers import Redis
from devstack.stack import Stack
from service import readiness
from service.backends.database import connect
from service.backends.failures import NO_ANSWER, describe_cause
from service.backends.queue import open_queue
from service.readiness import Servers, watch_servers
from service.resources import Resources
from service.settings import Settings
from tests.api.conftest import ASYNC, Create
from tests.api.problems import bearer, read_problem
from tests.api.serving import until
from tests.conftest import Token
from tests.support.factories import Connection, create_user

SERVERS = {"postgresql", "source", "redis", "s3"}
COUNT_BACKENDS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
"""
AWAY, BACK = "server_unavailable", "server_available"


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    server = Redis(tmp_path, password="test")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def settings(settings: Settings, redis: Redis) -> Settings:
    return msgspec.structs.replace(settings, redis_url=redis.url)


async def test_alive_and_ready(api: httpx.AsyncClient) -> None:
    alive, ready = await api.get("/livez"), await api.get("/readyz")
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "checks": dict.fromkeys(SERVERS, "ok")})


async def test_a_busy_pool_is_ready(api: httpx.AsyncClient, resources: Resources) -> None:
    async with AsyncExitStack() as stack:
        for pool in (resources.database, resources.source):
            for _ in range(pool.get_max_size()):
                await stack.enter_async_context(pool.acquire())
        assert (await api.get("/readyz")).json() == {"status": "ready", "checks": dict.fromkeys(SERVERS, "ok")}


async def test_without_its_rights(api: httpx.AsyncClient, database: Connection, token: Token) -> None:
    """As after `sql/hand_over.sql`, or on a database that was restored without its grants."""
    await database.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA carryout FROM {SERVICE}")
    assert read_problem(await _until_answered(api, 503), 503, "checks")["detail"] == "Not ready: postgresql"
    assert (await api.get("/api/export", headers=bearer(token(uuid4())))).status_code == 503


async def test_any_number_of_probes_asks_once(
    api: httpx.AsyncClient, resources: Resources, database: Connection
) -> None:
    async with AsyncExitStack() as stack:
        for pool in (resources.database, resources.source):
            for _ in range(pool.get_max_size()):
                await stack.enter_async_context(pool.acquire())
        before = await database.fetchval(COUNT_BACKENDS)
        probes = [asyncio.create_task(api.request(method, "/readyz")) for method in ("GET", "HEAD") * 100]
        peak = before
        while not all(probe.done() for probe in probes):
            peak = max(peak, await database.fetchval(COUNT_BACKENDS))
    assert {(await probe).status_code for probe in probes} == {200}
    assert peak <= before + 3  # the one that asks, and whose end PostgreSQL hasn't noticed yet


async def test_a_probe_that_gives_up_does_not_stop_the_others(resources: Resources) -> None:
    probed = Servers(resources)
    asking = [asyncio.create_task(probed.check("redis")) for _ in range(2)]
    await asyncio.sleep(0)
    asking[0].cancel()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] is None


async def test_no_check_outlives_the_watch(resources: Resources) -> None:
    probed = Servers(resources)
    async with watch_servers(probed):
        asking = [asyncio.create_task(probed.check(server)) for server in readiness.SERVERS]
        await asyncio.sleep(0)
        assert _checks_under_way()
    assert not _checks_under_way()
    await asyncio.wait(asking)


async def test_without_the_database(api: httpx.AsyncClient, database_url: str, stack: Stack) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    async with connect(stack.admin_url) as server:
        assert (await api.get("/readyz")).status_code == 200
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        # Each is asked as a role of its own, and what one answered is good for a second.
        while read_problem(await _until_answered(api, 503), 503, "checks")["detail"] != "Not ready: postgresql, source":
            await asyncio.sleep(0.05)
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await _until_answered(api, 200)


class TestRotatedPassword:
    """The pool's connections live on; requests need further ones."""

    @pytest.fixture
    async def role(self, stack: Stack) -> AsyncIterator[str]:
        name = f"reader_{uuid4().hex}"
        async with connect(stack.admin_url) as server:
            await server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'first' IN ROLE carryout_reader")
            yield name
            await server.execute(f"DROP ROLE {name}")

    @pytest.fixture
    def settings(self, settings: Settings, role: str) -> Settings:
        return msgspec.structs.replace(
            settings, source_database_url=with_role(settings.source_database_url, role, "first")
        )

    async def test_is_not_ready(self, api: httpx.AsyncClient, role: str, stack: Stack) -> None:
        assert (await api.get("/readyz")).status_code == 200
        async with connect(stack.admin_url) as server:
            await server.execute(f"ALTER ROLE {role} PASSWORD 'second'")
        problem = read_problem(await _until_answered(api, 503), 503, "checks")
        assert problem["detail"] == "Not ready: source"
        async with connect(stack.admin_url) as server:
            await server.execute(f"ALTER ROLE {role} PASSWORD 'first'")
        await _until_answered(api, 200)


async def test_without_redis(api: httpx.AsyncClient, redis: Redis) -> None:
    await redis.stop()
    response = await api.get("/readyz")
    problem = read_problem(response, 503, "checks")
    assert problem["detail"] == "Not ready: redis"
    assert {name for name, result in problem["checks"].items() if result == "ok"} == SERVERS - {"redis"}
    assert int(response.headers["retry-after"]) >= 1
    assert (await api.get("/livez")).status_code == 200
    await redis.start()
    await _until_answered(api, 200)


async def test_excluded_checks(api: httpx.AsyncClient, redis: Redis) -> None:
    await redis.stop()
    ready = await api.get("/readyz?exclude=redis&exclude=s3")
    assert ready.status_code == 200
    assert ready.json()["checks"] == {"postgresql": "ok", "source": "ok", "redis": "excluded", "s3": "excluded"}
    problem = read_problem(await api.get("/readyz?exclude=s3"), 503, "checks")
    assert (problem["detail"], problem["checks"]["s3"]) == ("Not ready: redis", "excluded")


@pytest.mark.parametrize(
    ("query", "named"), [("exclude=mail", "postgresql, source, redis, s3"), ("exclude=", "s3"), ("verbose", "verbose")]
)
async def test_excluding_an_unknown_check_is_refused(idle_api: httpx.AsyncClient, query: str, named: str) -> None:
    assert named in read_problem(await idle_api.get(f"/readyz?{query}"), 400)["detail"]


async def test_changes_are_logged_and_probes_are_not(
    api: httpx.AsyncClient, resources: Resources, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(readiness, "FRESH_SECONDS", 0.0)
    expected = []
    with structlog.testing.capture_logs() as events:
        async with watch_servers(Servers(resources)):
            for change, event in ((redis.stop, AWAY), (redis.start, BACK), (redis.stop, AWAY)):
                expected.append(event)
                await change()
                await api.get("/readyz")
                await until(lambda: _told_of_redis(events) == expected)


async def test_a_server_that_hangs_is_logged_as_such(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CHECK_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, structlog.testing.capture_logs() as events:
        async with (
            open_queue(f"redis://127.0.0.1:{silent.getsockname()[1]}") as queue,
            watch_servers(Servers(dataclasses.replace(resources, queue=queue))),
        ):
            await until(lambda: _told_of_redis(events) == [AWAY])
    told = next(event for event in events if event.get("server") == "redis")
    assert describe_cause(told["exc_info"]) == NO_ANSWER


async def _until_answered(api: httpx.AsyncClient, status: int) -> httpx.Response:
    while (response := await api.get("/readyz")).status_code != status:
        await asyncio.sleep(0.05)
    return response


def _checks_under_way() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if "_Check._run" in repr(task)]


def _told_of_redis(events: list[EventDict]) -> list[str]:
    """In turn: on a busy machine a server that is away may be told of twice, by another cause."""
    told = (event["event"] for event in events if event.get("server") == "redis")
    return [event for event, _ in itertools.groupby(told)]


async def test_exports_are_accepted_without_redis(create: Create, database: Connection, redis: Redis) -> None:
    await redis.stop()
    assert (await create(await create_user(database), headers=ASYNC)).status_code == 202
    assert (await create(await create_user(database))).status_code == 201

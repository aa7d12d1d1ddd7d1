"""What Kubernetes asks, with a Redis that these tests may stop."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import msgspec
import pytest
import structlog

from devstack.servers import Redis
from service.bootstrap import Resources
from service.settings import Settings
from tests.api.conftest import ASYNC, Create
from tests.api.problems import read_problem
from tests.factories import Connection, create_user

SERVERS = {"postgresql", "source", "redis", "s3"}


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


async def test_without_redis(api: httpx.AsyncClient, redis: Redis) -> None:
    await redis.stop()
    response = await api.get("/readyz")
    problem = read_problem(response, 503, "checks")
    assert problem["detail"] == "Not ready: redis"
    assert {name for name, result in problem["checks"].items() if result == "ok"} == SERVERS - {"redis"}
    assert int(response.headers["retry-after"]) >= 1
    assert (await api.get("/livez")).status_code == 200
    await redis.start()
    assert (await api.get("/readyz")).status_code == 200


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
async def test_what_cannot_be_excluded(idle_api: httpx.AsyncClient, query: str, named: str) -> None:
    assert named in read_problem(await idle_api.get(f"/readyz?{query}"), 400)["detail"]


async def test_changes_are_logged_and_probes_are_not(api: httpx.AsyncClient, redis: Redis) -> None:
    with structlog.testing.capture_logs() as events:
        for change in (redis.stop, redis.start, redis.stop):
            await change()
            for query in ("", "", "?exclude=redis"):
                await api.get(f"/readyz{query}")
    told = [event for event in events if event["event"] != "request"]
    failure = {"server": "redis", "cause": "can't be reached"}
    unavailable = {"event": "server_unavailable", "log_level": "warning", **failure}
    available = {"event": "server_available", "log_level": "info", "server": "redis"}
    assert told == [unavailable, available, unavailable]


async def test_exports_are_accepted_without_redis(create: Create, database: Connection, redis: Redis) -> None:
    await redis.stop()
    assert (await create(await create_user(database), headers=ASYNC)).status_code == 202
    assert (await create(await create_user(database))).status_code == 201

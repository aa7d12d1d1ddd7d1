"""What Kubernetes asks, with a Redis that these tests may stop."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import msgspec
import pytest

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


async def test_exports_are_accepted_without_redis(create: Create, database: Connection, redis: Redis) -> None:
    await redis.stop()
    assert (await create(await create_user(database), headers=ASYNC)).status_code == 202
    assert (await create(await create_user(database))).status_code == 201

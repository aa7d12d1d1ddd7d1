"""What Kubernetes asks, with a Redis that these tests may stop."""

import dataclasses
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import msgspec
import pytest
import structlog
from structlog.typing import EventDict

from devstack.servers import Redis
from service import servers
from service.bootstrap import Resources
from service.causes import describe_cause
from service.database import NO_ANSWER
from service.jobs import open_queue
from service.servers import watch_servers
from service.settings import Settings
from tests.api.conftest import ASYNC, Create
from tests.api.problems import read_problem
from tests.api.serving import until
from tests.factories import Connection, create_user

SERVERS = {"postgresql", "source", "redis", "s3"}
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


async def test_changes_are_logged_and_probes_are_not(
    api: httpx.AsyncClient, resources: Resources, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "WATCH_SECONDS", 0.02)
    expected = []
    with structlog.testing.capture_logs() as events:
        async with watch_servers(resources):
            for change, event in ((redis.stop, AWAY), (redis.start, BACK), (redis.stop, AWAY)):
                expected.append(event)
                await change()
                await api.get("/readyz")
                await until(lambda: _told_of_redis(events) == expected)


async def test_a_server_that_hangs_is_logged_as_such(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "CHECK_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, structlog.testing.capture_logs() as events:
        async with (
            open_queue(f"redis://127.0.0.1:{silent.getsockname()[1]}") as queue,
            watch_servers(dataclasses.replace(resources, queue=queue)),
        ):
            await until(lambda: _told_of_redis(events) == [AWAY])
    told = next(event for event in events if event.get("server") == "redis")
    assert describe_cause(told["exc_info"]) == NO_ANSWER


def _told_of_redis(events: list[EventDict]) -> list[str]:
    """In turn: on a busy machine a server that is away may be told of twice, by another cause."""
    told = (event["event"] for event in events if event.get("server") == "redis")
    return [event for event, _ in itertools.groupby(told)]


async def test_exports_are_accepted_without_redis(create: Create, database: Connection, redis: Redis) -> None:
    await redis.stop()
    assert (await create(await create_user(database), headers=ASYNC)).status_code == 202
    assert (await create(await create_user(database))).status_code == 201

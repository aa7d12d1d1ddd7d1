"""What Kubernetes asks."""

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import resources_of
from service.api.exports import json_response
from service.bootstrap import Resources
from service.database import Pool, acquire, connect
from service.errors import ServiceError, UnavailableError

CHECK_TIMEOUT_SECONDS = 2.0


class Alive(msgspec.Struct, frozen=True):
    status: Literal["alive"]


class Ready(msgspec.Struct, frozen=True):
    status: Literal["ready"]
    checks: Annotated[dict[str, str], Meta(description='What each server answered: "ok".')]


async def livez(request: Request) -> Response:  # noqa: ARG001 (an endpoint)
    """Whether the process answers at all; asks nobody else."""
    return json_response(Alive("alive"))


async def readyz(request: Request) -> Response:
    """Whether requests should come here. Raises UnavailableError naming what is missing."""
    if request.app.state.draining:
        raise UnavailableError("Shutting down", retry_after_seconds=1)
    checks = await check_servers(resources_of(request))
    if failed := sorted(name for name, result in checks.items() if result != "ok"):
        raise UnavailableError(f"Not ready: {', '.join(failed)}", checks=checks)
    return json_response(Ready("ready", checks))


async def check_servers(resources: Resources) -> dict[str, str]:
    checks = {
        "postgresql": _query(resources.database, resources.settings.database_url),
        "source": _query(resources.source, resources.settings.source_database_url),
        "redis": resources.queue.check(),
        "s3": resources.storage.check(),
    }
    results = await asyncio.gather(*(_result(check) for check in checks.values()))
    return dict(zip(checks, results, strict=True))


async def _query(pool: Pool, dsn: str) -> None:
    """A busy pool says nothing about its server: then a connection of its own asks. Or busy pods would get no traffic,
    and what they leave would make the others busy.
    """
    busy = pool.get_size() == pool.get_max_size() and not pool.get_idle_size()
    async with connect(dsn) if busy else acquire(pool, timeout_seconds=CHECK_TIMEOUT_SECONDS) as connection:
        await connection.execute("SELECT")


async def _result(check: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            await check
    except TimeoutError:
        return "timeout"
    except ServiceError:
        return "unavailable"
    return "ok"

"""What Kubernetes asks."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, Final, Literal, get_args

import msgspec
import structlog
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import resources_of
from service.api.errors import render_error
from service.api.exports import json_response
from service.api.requests import repeated_param
from service.bootstrap import Resources
from service.causes import describe_cause
from service.database import NO_ANSWER, Pool, acquire, connect
from service.errors import InvalidRequestError, ServiceError, UnavailableError

CHECK_TIMEOUT_SECONDS = 2.0
Check = Literal["postgresql", "source", "redis", "s3"]
CHECKS: Final[tuple[Check, ...]] = get_args(Check)

logger = structlog.get_logger()


class Alive(msgspec.Struct, frozen=True):
    status: Literal["alive"]


class Ready(msgspec.Struct, frozen=True):
    status: Literal["ready"]
    checks: Annotated[dict[str, str], Meta(description='What each server answered, "ok", or "excluded".')]


class ReadyQuery(msgspec.Struct, frozen=True):
    exclude: Annotated[
        list[Check], Meta(description="Checks to leave out; may be given again and again, as to Kubernetes' own.")
    ] = []


async def livez(request: Request) -> Response:  # noqa: ARG001 (an endpoint)
    """Whether the process answers at all; asks nobody else."""
    return json_response(Alive("alive"))


async def readyz(request: Request) -> Response:
    """Whether requests should come here; what is missing is named, and not logged with each probe."""
    excluded = _excluded(request)
    if request.app.state.draining:
        return render_error(request, UnavailableError("Shutting down", retry_after_seconds=1))
    readiness: Readiness = request.app.state.readiness
    checks = await readiness.check(resources_of(request), excluded)
    if failed := sorted(name for name, result in checks.items() if result not in {"ok", "excluded"}):
        return render_error(request, UnavailableError(f"Not ready: {', '.join(failed)}", checks=checks))
    return json_response(Ready("ready", checks))


def _excluded(request: Request) -> Collection[str]:
    excluded = repeated_param(request, "exclude")
    for name in excluded:
        if name not in CHECKS:
            raise InvalidRequestError(f"Unknown check to exclude; there are {', '.join(CHECKS)}")
    return excluded


class Readiness:
    """Asks the servers, and logs when one begins or ceases to answer."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    async def check(self, resources: Resources, excluded: Collection[str]) -> dict[str, str]:
        settings = resources.settings
        checks: dict[str, Callable[[], Awaitable[None]]] = {
            "postgresql": lambda: _query(resources.database, settings.database_url),
            "source": lambda: _query(resources.source, settings.source_database_url),
            "redis": resources.queue.check,
            "s3": resources.storage.check,
        }
        asked = {name: ask for name, ask in checks.items() if name not in excluded}
        results = await asyncio.gather(*(self._result(name, ask) for name, ask in asked.items()))
        return dict.fromkeys(checks, "excluded") | dict(zip(asked, results, strict=True))

    async def _result(self, name: str, ask: Callable[[], Awaitable[None]]) -> str:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await ask()
        except TimeoutError:
            await self._note_failure(name, NO_ANSWER)
            return "timeout"
        except ServiceError as error:
            await self._note_failure(name, describe_cause(error))
            return "unavailable"
        if name in self._failing:
            self._failing.discard(name)
            await logger.ainfo("server_available", server=name)
        return "ok"

    async def _note_failure(self, name: str, cause: str) -> None:
        if name not in self._failing:
            self._failing.add(name)
            await logger.awarning("server_unavailable", server=name, cause=cause)


async def _query(pool: Pool, dsn: str) -> None:
    """A busy pool says nothing about its server: then a connection of its own asks. Or busy pods would get no traffic,
    and what they leave would make the others busy.
    """
    busy = pool.get_size() == pool.get_max_size() and not pool.get_idle_size()
    async with connect(dsn) if busy else acquire(pool, timeout_seconds=CHECK_TIMEOUT_SECONDS) as connection:
        await connection.execute("SELECT")

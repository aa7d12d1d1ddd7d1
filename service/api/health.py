"""What Kubernetes asks."""

import asyncio
from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service.api.errors import render_error
from service.api.requests import repeated_param
from service.api.responses import json_response
from service.errors import InvalidRequestError, OutageError, UnavailableError
from service.servers import SERVERS, Server, Servers


class Alive(msgspec.Struct, frozen=True):
    status: Literal["alive"]


class Ready(msgspec.Struct, frozen=True):
    status: Literal["ready"]
    checks: Annotated[dict[str, str], Meta(description='What each server answered, "ok", or "excluded".')]


class ReadyQuery(msgspec.Struct, frozen=True):
    exclude: Annotated[
        list[Server], Meta(description="Checks to leave out; may be given again and again, as to Kubernetes' own.")
    ] = []


async def livez(request: Request) -> Response:  # noqa: ARG001 (an endpoint)
    """Whether the process answers at all; asks nobody else."""
    return json_response(Alive("alive"))


async def readyz(request: Request) -> Response:
    """Whether requests should come here; what is missing is named."""
    excluded = _excluded(request)
    if request.app.state.draining:
        return render_error(request, UnavailableError("Shutting down", retry_after_seconds=1))
    checks = await _check(request.app.state.servers, excluded)
    if failed := sorted(name for name, result in checks.items() if result not in {"ok", "excluded"}):
        return render_error(request, UnavailableError(f"Not ready: {', '.join(failed)}", checks=checks))
    return json_response(Ready("ready", checks))


def _excluded(request: Request) -> Collection[str]:
    excluded = repeated_param(request, "exclude")
    for name in excluded:
        if name not in SERVERS:
            raise InvalidRequestError(f"Unknown check to exclude; there are {', '.join(SERVERS)}")
    return excluded


async def _check(servers: Servers, excluded: Collection[str]) -> dict[str, str]:
    asked = [server for server in SERVERS if server not in excluded]
    results = await asyncio.gather(*(_result(servers, server) for server in asked))
    return {**dict.fromkeys(SERVERS, "excluded"), **dict(zip(asked, results, strict=True))}


async def _result(servers: Servers, server: Server) -> str:
    try:
        await servers.check(server)
    except OutageError as error:
        return "timeout" if isinstance(error.__cause__, TimeoutError) else "unavailable"
    return "ok"

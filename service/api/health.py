"""The endpoints for Kubernetes' probes."""

import asyncio
from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.api.examples import UNKNOWN_PARAMETER
from service.api.http.problems import UNEXPECTED, render_error
from service.api.http.requests import repeated_param
from service.api.http.responses import json_response
from service.api.operations import Answer, Operation
from service.api.routing import ExactRoute
from service.errors import InvalidRequestError, OutageError, UnavailableError
from service.readiness import SERVERS, Server, Servers


class Alive(msgspec.Struct, frozen=True):
    status: Literal["alive"]


class Ready(msgspec.Struct, frozen=True):
    status: Literal["ready"]
    checks: Annotated[
        dict[str, str], Meta(description='For each server: "ok", "timeout", "unavailable" or "excluded".')
    ]


class ReadyQuery(msgspec.Struct, frozen=True):
    exclude: Annotated[
        list[Server], Meta(description="A check to leave out; repeatable, as in Kubernetes' own `/readyz`.")
    ] = []


async def livez(request: Request) -> Response:  # noqa: ARG001 (an endpoint)
    """Report that the process answers. No other server is asked."""
    return json_response(Alive("alive"))


async def readyz(request: Request) -> Response:
    """Report whether this process should get requests. The answer names the servers that fail."""
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
            raise InvalidRequestError(f"Unknown check to exclude; the checks are {', '.join(SERVERS)}")
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


LIVEZ = Operation(
    tag="Operation",
    summary="Check whether the process answers",
    answers={200: Answer(description="The process answers.", example=Alive("alive"))},
)
READYZ = Operation(
    tag="Operation",
    summary="Check whether the process can serve requests",
    description="Checks PostgreSQL, the application's database, Redis and S3, each with a timeout of two seconds. "
    "Without "
    "Redis or S3 most calls still work, so a load balancer's probe should exclude them: "
    "`/readyz?exclude=redis&exclude=s3`, as with Kubernetes' own `/readyz`.",
    query=ReadyQuery,
    answers={
        200: Answer(
            description="The process can serve requests.",
            example=Ready("ready", dict.fromkeys(SERVERS, "ok")),
        )
    },
    refusals=(
        errors.InvalidRequestError(f"Unknown check to exclude; the checks are {', '.join(SERVERS)}"),
        UNKNOWN_PARAMETER,
        errors.UnavailableError(
            "Not ready: postgresql",
            checks={"postgresql": "unavailable", "source": "ok", "redis": "ok", "s3": "ok"},
        ),
        errors.UnavailableError("Shutting down", retry_after_seconds=1),
        UNEXPECTED,
    ),
)

ROUTES = (
    ExactRoute("/livez", livez, LIVEZ),
    ExactRoute("/readyz", readyz, READYZ),
)

"""What the API's document says of each route.

Beside a new route in `service.api.app` belongs an entry here: of OPERATIONS, or `include_in_schema=False` at the route.
"""

from collections.abc import Callable, Mapping
from typing import Any

from service import errors
from service.api import docs, health, metrics, users
from service.api.errors import UNEXPECTED
from service.api.examples import NO_KEY, NOT_ENABLED, SERVERS_FAIL, UNKNOWN_PARAMETER
from service.api.export_operations import EXPORT_OPERATIONS
from service.api.openapi import Answer, Operation
from service.servers import SERVERS


def _user_list(summary: str, *, name: str, columns: str, example: str, scope: str) -> Operation:
    return Operation(
        tag="Lists",
        summary=summary,
        description=f"CSV with the columns `{columns}`, ordered by id. The key needs the scope `{scope}`.",
        security=["apiKey", "apiKeyAsBearer"],
        query=users.ListQuery,
        headers=["Accept-Encoding"],
        answers={
            200: Answer(
                description="The list.",
                content={"text/csv": {"schema": {"type": "string"}, "example": f"{columns}\r\n{example}\r\n"}},
                headers=["Content-Disposition", "Content-Encoding"],
            )
        },
        refusals=(
            errors.InvalidRequestError(users.UNSUPPORTED_FORMAT),
            UNKNOWN_PARAMETER,
            NO_KEY,
            NOT_ENABLED,
            errors.PermissionDeniedError(users.NOT_SET_UP.format(name)),
            errors.PermissionDeniedError(f"This API key lacks the scope {scope}"),
            errors.RateLimitedError("Too many wrong API keys at once", retry_after_seconds=1),
            *SERVERS_FAIL,
        ),
    )


OPERATIONS: Mapping[Callable[..., Any], Operation] = {
    **EXPORT_OPERATIONS,
    users.export_users: _user_list(
        "List the users",
        name="export",
        columns="id,email,name",
        example="1,ada@example.com,Ada Lovelace",
        scope="users:export",
    ),
    users.export_users_full: _user_list(
        "List the users with all columns",
        name="export_full",
        columns="id,email,name,created_at,updated_at,is_active,is_admin",
        example="1,ada@example.com,Ada Lovelace,2026-01-01T00:00:00Z,2026-01-01T00:00:00Z,true,false",
        scope="users:export_full",
    ),
    users.show_alive: Operation(
        tag="Lists",
        summary="Whether lists are served at all",
        answers={200: Answer(description="They are.", example=users.ListsAlive("users export alive"))},
        refusals=(UNKNOWN_PARAMETER, NOT_ENABLED, UNEXPECTED),
    ),
    users.show_simple: Operation(
        tag="Lists",
        summary="The lists' simple status",
        answers={200: Answer(description="The status.", example=users.ListsSimple("export simple status"))},
        refusals=(UNKNOWN_PARAMETER, NOT_ENABLED, UNEXPECTED),
    ),
    health.livez: Operation(
        tag="Operation",
        summary="Whether the process answers",
        answers={200: Answer(description="It does.", example=health.Alive("alive"))},
    ),
    health.readyz: Operation(
        tag="Operation",
        summary="Whether requests should come here",
        description="Asks PostgreSQL, the application's database, Redis and S3, each for two seconds at most. Without "
        "Redis or S3 most calls still work, so a load balancer's probe does better to leave them out: "
        "`/readyz?exclude=redis&exclude=s3`, as with Kubernetes' own `/readyz`.",
        query=health.ReadyQuery,
        answers={
            200: Answer(
                description="They should.",
                example=health.Ready("ready", dict.fromkeys(SERVERS, "ok")),
            )
        },
        refusals=(
            errors.InvalidRequestError(f"Unknown check to exclude; there are {', '.join(SERVERS)}"),
            UNKNOWN_PARAMETER,
            errors.UnavailableError(
                "Not ready: postgresql",
                checks={"postgresql": "unavailable", "source": "ok", "redis": "ok", "s3": "ok"},
            ),
            errors.UnavailableError("Shutting down", retry_after_seconds=1),
            UNEXPECTED,
        ),
    ),
    metrics.show_metrics: Operation(
        tag="Operation",
        summary="Numbers for Prometheus",
        answers={
            200: Answer(
                description="In the format that `Accept` prefers.",
                content={
                    "text/plain": {"schema": {"type": "string"}},
                    "application/openmetrics-text": {"schema": {"type": "string"}},
                },
            )
        },
        refusals=(UNEXPECTED,),
    ),
    docs.show_document: Operation(
        tag="Reference",
        summary="This document",
        headers=["If-None-Match"],
        answers={
            200: Answer(
                description="OpenAPI 3.1.",
                content={"application/json": {"schema": {"type": "object"}}},
                headers=["ETag"],
            ),
            304: Answer(description="The copy at hand is current.", headers=["ETag"]),
        },
    ),
    docs.show_page: Operation(
        tag="Reference",
        summary="This document for people",
        headers=["If-None-Match"],
        answers={
            200: Answer(description="A page.", content={"text/html": {"schema": {"type": "string"}}}, headers=["ETag"]),
            304: Answer(description="The copy at hand is current.", headers=["ETag"]),
        },
    ),
}

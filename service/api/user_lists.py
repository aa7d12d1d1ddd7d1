"""The two lists of users for operators, with an API key, behind feature flags."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.access.api_keys import Scope
from service.access.flags import Flag
from service.api import selections
from service.api.callers import resources_of
from service.api.examples import UNKNOWN_PARAMETER
from service.api.http.problems import UNEXPECTED
from service.api.http.requests import query_params
from service.api.http.responses import json_response
from service.api.listings import Listing, list_refusals, require_unguarded
from service.api.operations import Answer, Operation
from service.api.operators import DISABLED, require_flag, require_operator
from service.api.routing import ExactRoute
from service.bookkeeping.audit import AuditAction
from service.documents.encoding import EncoderOptions
from service.documents.selection import Query
from service.errors import InvalidRequestError, PermissionDeniedError
from service.formats import Format
from service.user_ids import BIGINT, parse_bigint

NOT_SET_UP = "This user list is not set up: the file users/{}.sql is missing"
UNSUPPORTED_FORMAT = "Unsupported format. Only 'csv' is supported."
SPACE_IN_EMAIL = "email has a space, which is what + means in a query string: write a + as %2B"
CSV = re.compile("[Cc][Ss][Vv]")


class UserListQuery(msgspec.Struct, frozen=True):
    format: Annotated[str, Meta(pattern=f"^{CSV.pattern}$", description="Only `csv`; case is ignored.")] = "csv"
    email: Annotated[str | None, Meta(description="Only users with exactly this e-mail address.")] = None
    after: Annotated[
        Annotated[int, Meta(ge=BIGINT.start, le=BIGINT.stop - 1)] | None,
        Meta(description="Only users after this id, to continue an interrupted download."),
    ] = None
    bom: Annotated[Literal["0", "1"], Meta(description="`1` puts a byte order mark first, for spreadsheets.")] = "0"
    guard: selections.Guard = "formulas"


class ListsAlive(msgspec.Struct, frozen=True):
    status: Literal["users export alive"]


class ListsSimple(msgspec.Struct, frozen=True):
    users: Literal["export simple status"]


async def export_users(request: Request) -> Response:
    return await _export(request, "export", Scope.USERS_EXPORT, resources_of(request).settings.users_filename)


async def export_users_full(request: Request) -> Response:
    filename = resources_of(request).settings.users_full_filename
    return await _export(request, "export_full", Scope.USERS_EXPORT_FULL, filename)


async def show_alive(request: Request) -> Response:
    """Asks no other server: the answer depends on the flag and the process only."""
    require_flag(request, Flag.USERS_EXPORT_ALIVE)
    query_params(request, set())
    return json_response(ListsAlive("users export alive"))


async def show_simple(request: Request) -> Response:
    require_flag(request, Flag.USERS_EXPORT_SIMPLE)
    query_params(request, set())
    return json_response(ListsSimple("export simple status"))


async def _export(request: Request, name: str, permission: str, filename: str) -> Response:
    key, actor = await require_operator(request, flag=permission, scope=permission)
    query = _query(request)
    if query.guard == "none":
        await require_unguarded(request, key, actor)
    resources = resources_of(request)
    if name not in resources.user_lists:
        raise PermissionDeniedError(NOT_SET_UP.format(name))
    dataset = resources.user_lists[name]
    return Listing(
        key=key,
        actor=actor,
        flag=permission,
        query=Query(dataset, (query.email, query.after)),
        format=Format.CSV,
        options=EncoderOptions(bom=query.bom == "1", unguarded=query.guard == "none"),
        filename=filename,
        started=AuditAction.USERS_EXPORT_STARTED,
        ended=AuditAction.USERS_EXPORTED,
        subject=f"users/{dataset.name}",
        extent=_extent(query),
    ).response(request)


def _query(request: Request) -> UserListQuery:
    given = query_params(request, set(UserListQuery.__struct_fields__))
    if not CSV.fullmatch(given.get("format", "csv")):
        raise InvalidRequestError(UNSUPPORTED_FORMAT)
    if " " in given.get("email", ""):
        raise InvalidRequestError(SPACE_IN_EMAIL)
    after = _after(given["after"]) if "after" in given else None
    return UserListQuery(email=given.get("email"), after=after, bom=_bom(given.get("bom", "0")), guard=_guard(given))


def _bom(text: str) -> Literal["0", "1"]:
    if text not in {"0", "1"}:
        raise InvalidRequestError("bom must be 1, for a byte order mark, or 0")
    return "1" if text == "1" else "0"


def _guard(given: Mapping[str, str]) -> Literal["formulas", "none"]:
    match given.get("guard", "formulas"):
        case "formulas" | "none" as guard:
            return guard
    raise InvalidRequestError("guard must be none, which needs the scope users:unguarded, or formulas")


def _after(text: str) -> int:
    id_ = parse_bigint(text)
    if id_ is None:
        raise InvalidRequestError("after must be the id of the last row received")
    return id_


def _extent(query: UserListQuery) -> str:
    """The list's filters for the audit trail, which stores no e-mail addresses."""
    if query.email is not None:
        return "one e-mail address"
    return "all users" if query.after is None else f"all users after {query.after}"


def _user_list(summary: str, *, name: str, columns: str, example: str, scope: str) -> Operation:
    return Operation(
        tag="Lists",
        summary=summary,
        description=f"CSV with the columns `{columns}`, ordered by id. The key needs the scope `{scope}`, and "
        "`users:unguarded` for `guard=none`.",
        security=["apiKey", "apiKeyAsBearer"],
        query=UserListQuery,
        headers=["Accept-Encoding"],
        answers={
            200: Answer(
                description="The list.",
                content={"text/csv": {"schema": {"type": "string"}, "example": f"{columns}\r\n{example}\r\n"}},
                headers=["Content-Disposition", "Content-Encoding"],
            )
        },
        refusals=(
            errors.InvalidRequestError(UNSUPPORTED_FORMAT),
            errors.InvalidRequestError(SPACE_IN_EMAIL),
            UNKNOWN_PARAMETER,
            errors.PermissionDeniedError(NOT_SET_UP.format(name)),
            *list_refusals(scope),
        ),
    )


EXPORT_USERS = _user_list(
    "List the users",
    name="export",
    columns="id,email,name",
    example="1,ada@example.com,Ada Lovelace",
    scope="users:export",
)
EXPORT_USERS_FULL = _user_list(
    "List the users with all columns",
    name="export_full",
    columns="id,email,name,created_at,updated_at,is_active,is_admin",
    example="1,ada@example.com,Ada Lovelace,2026-01-01T00:00:00Z,2026-01-01T00:00:00Z,true,false",
    scope="users:export_full",
)
SHOW_ALIVE = Operation(
    tag="Lists",
    summary="Check whether lists are served",
    answers={200: Answer(description="They are.", example=ListsAlive("users export alive"))},
    refusals=(UNKNOWN_PARAMETER, DISABLED, UNEXPECTED),
)
SHOW_SIMPLE = Operation(
    tag="Lists",
    summary="Get the lists' status",
    answers={200: Answer(description="The status.", example=ListsSimple("export simple status"))},
    refusals=(UNKNOWN_PARAMETER, DISABLED, UNEXPECTED),
)

ROUTES = (
    ExactRoute("/api/v1/users/export", export_users, EXPORT_USERS),
    ExactRoute("/api/v1/users/export-full", export_users_full, EXPORT_USERS_FULL),
    ExactRoute("/api/v1/users/export-alive", show_alive, SHOW_ALIVE),
    ExactRoute("/api/v1/users/export-simple", show_simple, SHOW_SIMPLE),
)

"""The desk: operators ask for exports on users' behalf. The users get the links, and are told who asked and why."""

import datetime as dt
import hashlib
import re
import uuid
from functools import partial
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from guard.text import is_printable
from service import errors
from service.access.api_keys import ApiKey, Scope
from service.access.flags import Flag
from service.api import selections
from service.api.callers import resources_of
from service.api.downloads import CONDITIONS, FILE_ANSWERS, FILE_HEAD_ANSWERS, serve_file
from service.api.examples import (
    COMPLETED_AT,
    CREATED_AT,
    EXPIRES_AT,
    GONE,
    JOB_ID,
    NO_USER,
    NOT_FOUND,
    NOT_READY,
    SERVERS_FAIL,
    UNKNOWN_PARAMETER,
)
from service.api.exports import (
    NOT_ADMITTED,
    CreateExport,
    Ending,
    Instant,
    NextPage,
    PageQuery,
    PendingExport,
    RecordCount,
    message_of,
    pending_response,
    read_spec,
)
from service.api.http.body_limit import MAX_BODY_BYTES
from service.api.http.requests import idempotency_key, job_id_of, query_params, read_json, read_query
from service.api.http.responses import json_response
from service.api.operations import Answer, Operation
from service.api.operators import (
    DISABLED,
    NO_KEY,
    TOO_MANY_WRONG_KEYS,
    require_operator,
    require_permission,
)
from service.api.routing import ExactRoute
from service.backends.mail_addresses import normalize_address
from service.bookkeeping.audit import Actor, AuditAction
from service.bookkeeping.exports import DeskRequest, Export, ExportRequest, ExportStatus
from service.documents.snapshots import naming_failures, refusing_foreign_characters
from service.documents.user_search import NO_SUCH_ADDRESS, find_ids
from service.errors import NO_SUCH_USER, InvalidValueError, PermissionDeniedError, SubjectNotFoundError
from service.exports import attempts, requests
from service.exports.admission import conflict_with
from service.formats import Format
from service.mails.recipients import find_recipient
from service.resources import Resources
from service.user_ids import UserId, parse_user_id

PATH = "/api/v1/requests"
MAX_REASON_CHARACTERS = 1_000
# A date counts from midnight UTC, but somewhere the day has begun this much earlier.
EARLIEST_ZONE = dt.timedelta(hours=14)
WANTED_BODY = 'send {"user_id":"…","format":"zip","reason":"…"}, or email instead of user_id'
ONE_NAME = "Name the user by user_id or by email: give one of them"
SEVERAL_USERS = "Several users have this e-mail address: give user_id"
NO_SEARCH = "Users can't be named by their e-mail address here: the file requests/by_email.sql is missing"
NO_ADDRESS = "The application has no valid e-mail address for this user, so the link could not be sent"
UNPRINTABLE_REASON = "reason must be one line without control or invisible characters, because the user reads it"
LINK = re.compile(r"://|\bwww\.", re.IGNORECASE)
LINK_IN_REASON = "reason must not hold a web address: the user's mail program would make it a link"
IN_THE_FUTURE = "received_at is in the future"

Reason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_REASON_CHARACTERS,
        pattern=r"\S",
        description="Why an operator asks: one line without a web address. The user reads it on the page and by mail.",
    ),
]


class CreateRequest(CreateExport, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    user_id: Annotated[str | None, Meta(description="The user's id, as in their token. This or `email`.")] = None
    email: Annotated[str | None, Meta(description="The user's e-mail address, if one user alone has it.")] = None
    reason: Reason
    received_at: Annotated[
        str | None,
        Meta(
            description="When the user's request arrived: RFC 3339 date (in UTC) or date-time. Default: now. It is due "
            "one calendar month later."
        ),
    ] = None


class RequestView(msgspec.Struct, frozen=True):
    """An export that an operator asked for on a user's behalf, without its file and its link."""

    job_id: uuid.UUID
    user_id: str
    status: ExportStatus
    format: Format
    requested_by: Annotated[str, Meta(description="The name of the API key.")]
    reason: str
    received_at: Instant
    due_at: Annotated[
        Instant,
        Meta(
            description="The same time of day in UTC, one calendar month after `received_at`; on the month's last day, "
            "if it has no such day."
        ),
    ]
    answered_at: Annotated[
        Instant | None,
        Meta(
            description="When its link was mailed, its file downloaded, or the export ended by its user or an "
            "operator; or a later request for the same part of the user's data was answered so."
        ),
    ]
    created_at: Instant
    completed_at: Instant | None
    expires_at: Ending
    record_count: RecordCount
    size_bytes: int | None
    error_message: str | None
    filter: Annotated[selections.Filter | UnsetType, Meta(description="Only if a part of the data was asked for.")] = (
        UNSET
    )


class RequestPage(msgspec.Struct, frozen=True):
    """Requests, newest first."""

    requests: list[RequestView]
    next: NextPage


async def create_request(request: Request) -> Response:
    resources = resources_of(request)
    key, actor = await _require(request, Scope.REQUESTS_CREATE)
    query_params(request, set())
    body = await read_json(request, CreateRequest, wanted=WANTED_BODY)
    desk = _read_desk(key, body)
    user_id = await _find_user(resources, body)
    own_key = _own_key(key, idempotency_key(request))
    repeated = await resources.exports.find_request_by_key(resources.autocommit, own_key) if own_key else None
    if repeated and repeated.user_id != user_id:
        raise conflict_with(repeated)
    if not repeated:
        await _require_address(resources, user_id)
    wanted = ExportRequest(
        spec=await read_spec(resources, actor, user_id, body, repeated),
        actor=actor,
        respond_async=True,
        idempotency_key=own_key,
        traceparent=request.state.traceparent,
        desk=desk,
    )
    export = await requests.request_export(resources, wanted)
    location = {"Location": f"{resources.settings.public_path}{PATH}/{export.id}"}
    if export.running:
        return await pending_response(resources, export, location)
    return json_response(_view(resources, export), 200, location)


async def list_requests(request: Request) -> Response:
    resources = resources_of(request)
    await _require(request, Scope.REQUESTS_READ)
    page = read_query(request, PageQuery)
    async with resources.connection() as connection:
        found = await resources.exports.list_requests(connection, after=page.after or None, limit=page.limit + 1)
    views = [_view(resources, export) for export in found[: page.limit]]
    path = f"{resources.settings.public_path}{PATH}"
    more = len(found) > page.limit
    return json_response(RequestPage(views, f"{path}?limit={page.limit}&after={views[-1].job_id}" if more else None))


async def show_request(request: Request) -> Response:
    resources = resources_of(request)
    await _require(request, Scope.REQUESTS_READ)
    query_params(request, set())
    export = await resources.exports.get_request(resources.autocommit, job_id_of(request))
    return json_response(_view(resources, export))


async def download_request(request: Request) -> Response:
    resources = resources_of(request)
    key, actor = await _require(request, Scope.REQUESTS_DOWNLOAD)
    query_params(request, set())
    export = await resources.exports.get_request(resources.autocommit, job_id_of(request))
    return await serve_file(request, export.id, actor, require=partial(require_permission, request, key, Flag.REQUESTS))


async def _require(request: Request, scope: Scope) -> tuple[ApiKey, Actor]:
    return await require_operator(request, flag=Flag.REQUESTS, scope=scope, denial=AuditAction.REQUESTS_DENIED)


def _read_desk(key: ApiKey, body: CreateRequest) -> DeskRequest:
    if not is_printable(body.reason):
        raise InvalidValueError(UNPRINTABLE_REASON)
    if LINK.search(body.reason):
        raise InvalidValueError(LINK_IN_REASON)
    received_at = selections.read_instant("received_at", body.received_at)
    if received_at and received_at > dt.datetime.now(dt.UTC) + EARLIEST_ZONE:
        raise InvalidValueError(IN_THE_FUTURE)
    return DeskRequest(key.name, body.reason, received_at)


async def _find_user(resources: Resources, body: CreateRequest) -> UserId:
    """Raises InvalidValueError, SubjectNotFoundError, and PermissionDeniedError without a search by address."""
    if (body.user_id is None) == (body.email is None):
        raise InvalidValueError(ONE_NAME)
    if body.email is None:
        return parse_user_id(body.user_id or "", resources.settings.user_id_type)
    if resources.user_search is None:
        raise PermissionDeniedError(NO_SEARCH)
    first, *others = await find_ids(
        resources.source,
        resources.user_search,
        body.email,
        acquire_timeout_seconds=resources.settings.acquire_timeout_seconds,
    )
    if others:
        raise InvalidValueError(SEVERAL_USERS)
    return parse_user_id(first, resources.settings.user_id_type)


async def _require_address(resources: Resources, user_id: UserId) -> None:
    """Raise InvalidValueError, or SubjectNotFoundError, unless the link can be mailed to the user."""
    now = dt.datetime.now(dt.UTC)
    timeout_seconds = resources.settings.acquire_timeout_seconds
    profile = resources.datasets[0]
    try:
        with naming_failures(), refusing_foreign_characters(SubjectNotFoundError(NO_SUCH_USER)):
            found = await find_recipient(
                resources.source, profile, user_id, since=now, acquire_timeout_seconds=timeout_seconds
            )
    except UnicodeDecodeError:  # a database in SQL_ASCII holds any bytes
        raise InvalidValueError(NO_ADDRESS) from None
    if found is None:
        await attempts.require_user(resources, user_id, since=now)
    if found is None or normalize_address(found.address) is None:
        raise InvalidValueError(NO_ADDRESS)


def _own_key(key: ApiKey, text: str | None) -> str | None:
    """The idempotency key in a space of its own for each API key, which no user's header reaches: it has no spaces."""
    return f"desk {hashlib.sha256(f'{key.id} {text}'.encode()).hexdigest()}" if text else None


def _view(resources: Resources, export: Export) -> RequestView:
    assert export.requested_by is not None  # by a constraint of the table, as the three below
    assert export.reason is not None
    assert export.received_at is not None
    assert export.due_at is not None
    return RequestView(
        job_id=export.id,
        user_id=str(export.user_id),
        status=export.status,
        format=export.format,
        requested_by=export.requested_by,
        reason=export.reason,
        received_at=export.received_at,
        due_at=export.due_at,
        answered_at=export.answered_at,
        created_at=export.created_at,
        completed_at=export.completed_at,
        expires_at=export.expires_at,
        record_count=export.record_count,
        size_bytes=export.size_bytes,
        error_message=message_of(resources, export),
        filter=selections.view_filter(export.spec),
    )


REQUEST = RequestView(
    job_id=JOB_ID,
    user_id="0190b7f2-5d3c-7c1e-8a44-3f6f0b1f2a10",
    status=ExportStatus.COMPLETED,
    format=Format.ZIP,
    requested_by="support",
    reason="Your letter of 27 February 2026",
    received_at=CREATED_AT - dt.timedelta(days=1),
    due_at=CREATED_AT + dt.timedelta(days=27),
    answered_at=COMPLETED_AT,
    created_at=CREATED_AT,
    completed_at=COMPLETED_AT,
    expires_at=EXPIRES_AT,
    record_count=1_200,
    size_bytes=181_204,
    error_message=None,
)
FOLLOW = {"show_request": "Watch it.", "download_request": "Download the file, with another scope."}
KEY = ("apiKey", "apiKeyAsBearer")


def _key_refusals(scope: Scope) -> tuple[errors.ServiceError, ...]:
    lacking = errors.PermissionDeniedError(f"This API key lacks the scope {scope}")
    return (UNKNOWN_PARAMETER, NO_KEY, DISABLED, lacking, TOO_MANY_WRONG_KEYS)


CREATE_REQUEST = Operation(
    tag="Requests",
    summary="Ask for an export on a user's behalf",
    description="For users without a login, by letter or through support. The key needs the scope `requests:create`. "
    "The export is always queued, and its link is mailed to the user's own address, never shown to the caller. The "
    "limits are those of a user's own exports. An `Idempotency-Key` is that of the API key.",
    security=KEY,
    headers=["Idempotency-Key"],
    body=CreateRequest(
        Format.ZIP, user_id=REQUEST.user_id, reason=REQUEST.reason, received_at=f"{REQUEST.received_at:%Y-%m-%d}"
    ),
    answers={
        200: Answer(
            description="The earlier request with this Idempotency-Key, which has ended.",
            example=REQUEST,
            headers=["Location"],
            links=FOLLOW,
        ),
        202: Answer(
            description="A worker will make the file, and mail the link to the user.",
            example=PendingExport(JOB_ID, ExportStatus.PENDING, 1_200, COMPLETED_AT),
            headers=["Location", "Retry-After"],
            links=FOLLOW,
        ),
    },
    refusals=(
        errors.InvalidRequestError("The body is not valid JSON"),
        *_key_refusals(Scope.REQUESTS_CREATE),
        errors.PermissionDeniedError(NO_SEARCH),
        NO_USER,
        errors.SubjectNotFoundError(NO_SUCH_ADDRESS),
        errors.ExportInProgressError("Export already in progress", job_id=JOB_ID, estimated_completion=COMPLETED_AT),
        HTTPException(413, f"The body must not exceed {MAX_BODY_BYTES} bytes"),
        errors.UnsupportedMediaTypeError("The body must be declared as Content-Type: application/json"),
        errors.InvalidValueError(f"Object missing required field `reason`: {WANTED_BODY}"),
        errors.InvalidValueError(ONE_NAME),
        errors.InvalidValueError(SEVERAL_USERS),
        errors.InvalidValueError(NO_ADDRESS),
        errors.InvalidValueError(UNPRINTABLE_REASON),
        errors.InvalidValueError(IN_THE_FUTURE),
        *NOT_ADMITTED,
        *SERVERS_FAIL,
    ),
)
LIST_REQUESTS = Operation(
    tag="Requests",
    summary="List the requests, newest first",
    description="Those of all API keys. The key needs the scope `requests:read`.",
    security=KEY,
    query=PageQuery,
    answers={
        200: Answer(description="A page of requests.", example=RequestPage([REQUEST], f"{PATH}?limit=1&after={JOB_ID}"))
    },
    refusals=(*_key_refusals(Scope.REQUESTS_READ), *SERVERS_FAIL),
)
SHOW_REQUEST = Operation(
    tag="Requests",
    summary="Show a request",
    description="The key needs the scope `requests:read`. A user's own export answers like an id that doesn't exist.",
    security=KEY,
    answers={200: Answer(description="The request.", example=REQUEST)},
    refusals=(*_key_refusals(Scope.REQUESTS_READ), NOT_FOUND, *SERVERS_FAIL),
)
DOWNLOAD_REFUSALS = (
    *_key_refusals(Scope.REQUESTS_DOWNLOAD),
    NOT_FOUND,
    NOT_READY,
    GONE,
    errors.PreconditionFailedError(),
    *SERVERS_FAIL,
)
DOWNLOAD_REQUEST = Operation(
    tag="Requests",
    summary="Download the file of a request",
    description="The key needs the scope `requests:download`, which no other scope implies. The user sees the download "
    "in the list of the export's downloads. The file is sent as to the user, by a redirect or by the service.",
    security=KEY,
    headers=["Prefer-no-redirect", "Range", "If-Range", *CONDITIONS],
    answers=FILE_ANSWERS,
    refusals=(*DOWNLOAD_REFUSALS, errors.RangeNotSatisfiableError(51_200)),
    head=Operation(
        tag="Requests",
        summary="Get the headers of a request's file",
        description="A HEAD request isn't recorded as a download.",
        security=KEY,
        headers=["Prefer-no-redirect", *CONDITIONS],
        answers=FILE_HEAD_ANSWERS,
        refusals=DOWNLOAD_REFUSALS,
    ),
)

ROUTES = (
    ExactRoute(PATH, create_request, CREATE_REQUEST, method="POST"),
    ExactRoute(PATH, list_requests, LIST_REQUESTS),
    ExactRoute(f"{PATH}/{{job_id}}", show_request, SHOW_REQUEST),
    ExactRoute(f"{PATH}/{{job_id}}/download", download_request, DOWNLOAD_REQUEST),
)

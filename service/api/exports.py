"""Endpoints that create, show, list and delete exports."""

import datetime as dt
import math
import uuid
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from languages.choice import Wishes
from service import errors
from service.api import selections
from service.api.callers import get_owned, require_access, require_user, resources_of, user_actor
from service.api.examples import (
    COMPLETED_AT,
    CREATED_AT,
    EXPIRES_AT,
    JOB_ID,
    LINK,
    NO_USER,
    NOT_FOUND,
    SERVERS_FAIL,
    TOKEN_REFUSED,
    TOO_LARGE,
    UNKNOWN_PARAMETER,
    UNKNOWN_SECTION,
)
from service.api.http.body_limit import MAX_BODY_BYTES
from service.api.http.requests import (
    accepted_language,
    idempotency_key,
    job_id_of,
    prefers,
    query_params,
    read_json,
    read_query,
)
from service.api.http.responses import json_response
from service.api.operations import Answer, Operation
from service.api.routing import ExactRoute
from service.bookkeeping.audit import Actor
from service.bookkeeping.exports import Export, ExportRequest, ExportStatus
from service.errors import InvalidValueError, UnavailableError
from service.export_spec import ExportSpec
from service.exports import cancellation, files, requests
from service.exports.admission import ACCEPTED_DETAIL, KEPT_FILES_DETAIL
from service.formats import Format
from service.resources import Resources
from service.user_ids import UserId

PAGE_SIZE = 20
MAX_PAGE_SIZE = 100
RESPOND_ASYNC = "respond-async"
UNKNOWN_WAIT = dt.timedelta(minutes=1)
WANTED_BODY = "send " + " or ".join(f'{{"format":"{format_}"}}' for format_ in Format)

Instant = Annotated[dt.datetime, Meta(tz=True)]
LinkUrl = Annotated[str, Meta(description="The signed link. It needs no credentials and works until `expires_at`.")]
Ending = Annotated[Instant | None, Meta(description="When the link expires.")]
NextPage = Annotated[str | None, Meta(description="Path of the next page; null on the last one.")]
RecordCount = Annotated[int | None, Meta(description="Data rows of the file; null until it is complete.")]


class CreateExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    format: Format
    sections: selections.Sections = None
    start: selections.Start = msgspec.field(name="from", default=None)
    end: selections.End = msgspec.field(name="to", default=None)
    since: selections.Since = None
    bom: Annotated[bool, Meta(description="Begin a CSV with a byte order mark.")] = False
    guard: selections.Guard = "formulas"
    big: selections.BigNumbers = "number"

    @property
    def selection(self) -> selections.Selection:
        return selections.Selection(self.sections, self.start, self.end, self.since)


class CompletedExport(msgspec.Struct, frozen=True):
    """A completed export. `download_url` is null if an earlier request made the export and its link has expired."""

    job_id: uuid.UUID
    status: ExportStatus
    download_url: LinkUrl | None
    record_count: RecordCount
    expires_at: Ending


class PendingExport(msgspec.Struct, frozen=True):
    """An export that a worker makes."""

    job_id: uuid.UUID
    status: ExportStatus
    estimated_records: Annotated[
        int,
        Meta(description="Counted or, if that takes a second with `respond-async`, the most there may be."),
    ]
    estimated_completion: Instant


class Progress(msgspec.Struct, frozen=True):
    """The number of records that an export has written; the bytes are those of attachments, if there are any."""

    records_done: int
    records_total: int
    bytes_done: int | UnsetType = UNSET
    bytes_total: int | UnsetType = UNSET


class Files(msgspec.Struct, frozen=True):
    """The attachments of a package. Its `index.html` says why some are missing."""

    included: int
    missing: int


class AskedBySupport(msgspec.Struct, frozen=True):
    """Why an operator asked for the export on the user's behalf, and when the user's request arrived."""

    reason: str
    received_at: Instant


class ExportView(msgspec.Struct, frozen=True):
    """An export as its owner sees it."""

    job_id: uuid.UUID
    status: ExportStatus
    format: Format
    record_count: RecordCount
    created_at: Instant
    completed_at: Instant | None
    expires_at: Ending
    size_bytes: int | None
    sha256: Annotated[str | None, Meta(description="Checksum of the file, in hexadecimal.")]
    error_message: Annotated[
        str | None, Meta(description="Why the export failed, or why its file is not available any more.")
    ]
    progress: Progress
    estimated_completion: Annotated[Instant | None, Meta(description="Only while the export is pending or processing.")]
    schema_sha256: Annotated[
        str | None,
        Meta(description="Of the document's schema at `/api/export/schema`; null until it is made."),
    ] = None
    download_url: LinkUrl | UnsetType = UNSET
    filter: Annotated[
        selections.Filter | UnsetType, Meta(description="Only if the export was asked for a part of the data.")
    ] = UNSET
    files: Annotated[Files | UnsetType, Meta(description="Only of a package that has, or lacks, attachments.")] = UNSET
    asked_by_support: Annotated[
        AskedBySupport | UnsetType, Meta(description="Only if an operator asked for it on the user's behalf.")
    ] = UNSET


class ExportPage(msgspec.Struct, frozen=True):
    """Exports, newest first."""

    exports: list[ExportView]
    next: NextPage


class PageQuery(msgspec.Struct, frozen=True):
    # UNSET, because msgspec would read None from "null"
    after: Annotated[
        uuid.UUID | UnsetType, Meta(description="The `job_id` of the last export of the previous page.")
    ] = UNSET
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_SIZE, description="Exports per page.")] = PAGE_SIZE


async def create_export(request: Request) -> Response:
    resources = resources_of(request)
    access = await require_access(request)
    user_id = access.user_id
    query_params(request, set())
    body = await read_json(request, CreateExport, wanted=WANTED_BODY)
    respond_async = prefers(request, RESPOND_ASYNC)
    key = idempotency_key(request)
    repeated = await resources.exports.find_by_key(resources.autocommit, user_id, key) if key else None
    actor = user_actor(request, user_id)
    wanted = ExportRequest(
        spec=await read_spec(resources, actor, user_id, body, repeated),
        actor=actor,
        respond_async=respond_async,
        idempotency_key=key,
        traceparent=request.state.traceparent,
        wishes=Wishes(access.language, accepted_language(request)),
    )
    export = await requests.request_export(resources, wanted)
    response = await _accepted(resources, export)
    if respond_async:
        response.headers["Preference-Applied"] = RESPOND_ASYNC
    return response


async def list_exports(request: Request) -> Response:
    resources = resources_of(request)
    user_id = await require_user(request)
    page = read_query(request, PageQuery)
    async with resources.connection() as connection:
        found = await resources.exports.list_owned(connection, user_id, after=page.after or None, limit=page.limit + 1)
    views = [await view_export(resources, export) for export in found[: page.limit]]
    path = f"{resources.settings.public_path}/api/export"
    more = len(found) > page.limit
    return json_response(ExportPage(views, f"{path}?limit={page.limit}&after={views[-1].job_id}" if more else None))


async def show_export(request: Request) -> Response:
    resources = resources_of(request)
    user_id = await require_user(request)
    query_params(request, set())
    export = await get_owned(request, user_id, job_id_of(request))
    return json_response(await view_export(resources, export))


async def delete_export(request: Request) -> Response:
    resources = resources_of(request)
    user_id = await require_user(request)
    query_params(request, set())
    export = await get_owned(request, user_id, job_id_of(request))
    await cancellation.cancel_or_delete(resources, export, user_actor(request, user_id))
    return Response(status_code=204)


async def read_spec(
    resources: Resources, actor: Actor, user_id: UserId, body: CreateExport, repeated: Export | None
) -> ExportSpec:
    """Raises InvalidValueError."""
    if body.bom and body.format is not Format.CSV:
        raise InvalidValueError("bom is for csv only: leave it out")
    if body.guard == "none" and body.format is not Format.CSV:
        raise InvalidValueError("guard is for csv only: leave it out")
    if body.big == "text" and body.format not in selections.BIG_FORMATS:
        raise InvalidValueError(f"big is for {' and '.join(selections.BIG_FORMATS)} only: leave it out")
    spec = await selections.read_selection(resources, actor, user_id, body.format, body.selection, repeated=repeated)
    return msgspec.structs.replace(spec, bom=body.bom, unguarded=body.guard == "none", big_as_text=body.big == "text")


async def _accepted(resources: Resources, export: Export) -> Response:
    location = {"Location": f"{resources.settings.public_path}/api/export/{export.id}"}
    if export.status is ExportStatus.FAILED:
        return json_response(await view_export(resources, export), 200, location)
    if export.status is ExportStatus.COMPLETED:
        url = files.download_url(resources, export)
        body = CompletedExport(export.id, export.status, url, export.record_count, export.expires_at)
        return json_response(body, 201, location)
    return await pending_response(resources, export, location)


async def pending_response(resources: Resources, export: Export, location: dict[str, str]) -> Response:
    estimate = await _estimate(resources, export)
    wait_seconds = math.ceil((estimate - dt.datetime.now(dt.UTC)).total_seconds())
    headers = location | {"Retry-After": str(max(1, wait_seconds))}
    return json_response(PendingExport(export.id, export.status, export.estimated_records, estimate), 202, headers)


async def _estimate(resources: Resources, export: Export) -> dt.datetime:
    """The estimated completion; a guess during an outage of PostgreSQL: the accepted export still gets its 202."""
    try:
        return await resources.exports.estimate_completion(resources.autocommit, export)
    except UnavailableError:
        return dt.datetime.now(dt.UTC) + UNKNOWN_WAIT


async def view_export(resources: Resources, export: Export) -> ExportView:
    running = export.running
    estimate = await resources.exports.estimate_completion(resources.autocommit, export) if running else None
    return ExportView(
        job_id=export.id,
        status=export.status,
        format=export.format,
        record_count=export.record_count,
        created_at=export.created_at,
        completed_at=export.completed_at,
        expires_at=export.expires_at,
        size_bytes=export.size_bytes,
        sha256=export.sha256.hex() if export.sha256 else None,
        error_message=message_of(resources, export),
        progress=progress_of(export),
        estimated_completion=estimate,
        download_url=files.download_url(resources, export) or UNSET,
        schema_sha256=export.schema_digest.hex() if export.schema_digest else None,
        filter=selections.view_filter(export.spec),
        files=_files(export),
        asked_by_support=_asked_by_support(export),
    )


def progress_of(export: Export) -> Progress:
    total = export.record_count or export.estimated_records
    if export.bytes_total is None:
        return Progress(export.records_done, total)
    return Progress(export.records_done, total, export.bytes_done, export.bytes_total)


def _files(export: Export) -> Files | UnsetType:
    if export.files_included is None or export.files_missing is None:
        return UNSET
    return Files(export.files_included, export.files_missing)


def _asked_by_support(export: Export) -> AskedBySupport | UnsetType:
    if export.reason is None or export.received_at is None:
        return UNSET
    return AskedBySupport(export.reason, export.received_at)


def message_of(resources: Resources, export: Export) -> str | None:
    """Why the export failed, or why its file is not available any more."""
    completed = export.status is ExportStatus.COMPLETED
    if completed and not export.expired and files.is_lost(resources.storage, export):
        return files.LOST
    return export.error_message


FAILED_EXPORT = ExportView(
    job_id=JOB_ID,
    status=ExportStatus.FAILED,
    format=Format.CSV,
    record_count=None,
    created_at=CREATED_AT,
    completed_at=COMPLETED_AT,
    expires_at=None,
    size_bytes=None,
    sha256=None,
    error_message="cancelled by user",
    progress=Progress(0, 1_200),
    estimated_completion=None,
)
EXPORT = ExportView(
    job_id=JOB_ID,
    status=ExportStatus.COMPLETED,
    format=Format.CSV,
    record_count=1_200,
    created_at=CREATED_AT,
    completed_at=COMPLETED_AT,
    expires_at=EXPIRES_AT,
    size_bytes=181_204,
    sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    error_message=None,
    progress=Progress(1_200, 1_200),
    estimated_completion=None,
    download_url=LINK,
)
FOLLOW = {
    "show_export": "Watch it.",
    "watch_export": "Follow it.",
    "delete_export": "Cancel the export or delete its file.",
    "download_export": "Download the file.",
    "list_downloads": "List the file's downloads.",
}

NOT_ADMITTED = (
    UNKNOWN_SECTION,
    TOO_LARGE,
    errors.IdempotencyConflictError("This Idempotency-Key was used with another body", job_id=JOB_ID),
    errors.RateLimitedError("At most 10 exports an hour", retry_after_seconds=1_800),
    errors.RateLimitedError(ACCEPTED_DETAIL.format(100), retry_after_seconds=1_800),
    errors.RateLimitedError(KEPT_FILES_DETAIL.format(50), retry_after_seconds=86_400),
)
CREATE_EXPORT = Operation(
    tag="Exports",
    summary="Create an export",
    description="A small export is made at once. A larger export is queued, and its link is mailed. A user can have "
    "one running export at a time. `sections`, `from`, `to` and `since` select a part of the data.",
    security=["userToken"],
    headers=["Prefer", "Idempotency-Key"],
    body=CreateExport(Format.CSV),
    answers={
        200: Answer(
            description="The earlier export of this Idempotency-Key has failed.",
            example=FAILED_EXPORT,
            headers=["Location", "Preference-Applied"],
            links=FOLLOW,
        ),
        201: Answer(
            description="The file is ready.",
            example=CompletedExport(JOB_ID, ExportStatus.COMPLETED, LINK, 41, EXPIRES_AT),
            headers=["Location", "Preference-Applied"],
            links=FOLLOW,
        ),
        202: Answer(
            description="A worker will make the file.",
            example=PendingExport(JOB_ID, ExportStatus.PENDING, 1_200, COMPLETED_AT),
            headers=["Location", "Retry-After", "Preference-Applied"],
            links=FOLLOW,
        ),
    },
    refusals=(
        errors.InvalidRequestError("The body is not valid JSON"),
        UNKNOWN_PARAMETER,
        *TOKEN_REFUSED,
        NO_USER,
        errors.ExportInProgressError("Export already in progress", job_id=JOB_ID, estimated_completion=COMPLETED_AT),
        HTTPException(413, f"The body must not exceed {MAX_BODY_BYTES} bytes"),
        errors.UnsupportedMediaTypeError("The body must be declared as Content-Type: application/json"),
        errors.InvalidValueError(f"Invalid enum value 'xml' - at `$.format`: {WANTED_BODY}"),
        *NOT_ADMITTED,
        *SERVERS_FAIL,
    ),
)
LIST_EXPORTS = Operation(
    tag="Exports",
    summary="List your exports, newest first",
    security=["userToken"],
    query=PageQuery,
    answers={
        200: Answer(
            description="A page of exports.",
            example=ExportPage([EXPORT], f"/api/export?limit=1&after={JOB_ID}"),
        )
    },
    refusals=(UNKNOWN_PARAMETER, *TOKEN_REFUSED, *SERVERS_FAIL),
)
SHOW_EXPORT = Operation(
    tag="Exports",
    summary="Show an export",
    description="Another user's export answers like an id that doesn't exist.",
    security=["userToken"],
    answers={200: Answer(description="The export.", example=EXPORT)},
    refusals=(UNKNOWN_PARAMETER, *TOKEN_REFUSED, NOT_FOUND, *SERVERS_FAIL),
)
DELETE_EXPORT = Operation(
    tag="Exports",
    summary="Cancel an export or delete its file",
    description="A running export fails. A completed export loses its file and its link. The export stays in the list.",
    security=["userToken"],
    answers={204: Answer(description="The export has no file, and won't get one.")},
    refusals=(UNKNOWN_PARAMETER, *TOKEN_REFUSED, NOT_FOUND, *SERVERS_FAIL),
)

ROUTES = (
    ExactRoute("/api/export", create_export, CREATE_EXPORT, method="POST"),
    ExactRoute("/api/export", list_exports, LIST_EXPORTS),
    ExactRoute("/api/export/{job_id}", show_export, SHOW_EXPORT),
    ExactRoute("/api/export/{job_id}", delete_export, DELETE_EXPORT, method="DELETE"),
)

"""Asking for an export and watching it."""

import datetime as dt
import math
import re
import uuid
from typing import Annotated
from urllib.request import parse_http_list

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service import exporting, requesting
from service.api.auth import require_user, resources_of, user_actor
from service.api.requests import job_id_of, query_params, read_json, read_query
from service.api.responses import json_response
from service.bootstrap import Resources
from service.database import Connection
from service.encoders import Format
from service.errors import InvalidRequestError, UnavailableError
from service.exports import Export, ExportStatus

PAGE_SIZE = 20
MAX_PAGE_SIZE = 100
UNKNOWN_WAIT = dt.timedelta(minutes=1)
WANTED_BODY = """send {"format":"csv"} or {"format":"json"}"""
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Instant = Annotated[dt.datetime, Meta(tz=True)]
LinkUrl = Annotated[str, Meta(description="The signed link. It needs no credentials and works until `expires_at`.")]
Ending = Annotated[Instant | None, Meta(description="When the link ends.")]
NextPage = Annotated[str | None, Meta(description="Path of the next page; null on the last one.")]
RecordCount = Annotated[int | None, Meta(description="Data rows of the file; null until it is complete.")]


class CreateExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Format


class CompletedExport(msgspec.Struct, frozen=True):
    """An export that is complete. `download_url` is null if an earlier request made it and its link has ended."""

    job_id: uuid.UUID
    status: ExportStatus
    download_url: LinkUrl | None
    record_count: RecordCount
    expires_at: Ending


class PendingExport(msgspec.Struct, frozen=True):
    """An export that a worker makes."""

    job_id: uuid.UUID
    status: ExportStatus
    estimated_records: int
    estimated_completion: Instant


class Progress(msgspec.Struct, frozen=True):
    """How many of its records an export has written."""

    records_done: int
    records_total: int


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
    error_message: Annotated[str | None, Meta(description="Why it failed.")]
    progress: Progress
    estimated_completion: Annotated[Instant | None, Meta(description="Only while it is pending or processing.")]
    download_url: LinkUrl | UnsetType = UNSET


class ExportPage(msgspec.Struct, frozen=True):
    """Exports, newest first."""

    exports: list[ExportView]
    next: NextPage


class PageQuery(msgspec.Struct, frozen=True):
    # not None, which msgspec would read from "null"
    after: Annotated[uuid.UUID | UnsetType, Meta(description="The `job_id` of the last export of the page before.")] = (
        UNSET
    )
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_SIZE, description="Exports per page.")] = PAGE_SIZE


async def create_export(request: Request) -> Response:
    resources = resources_of(request)
    user_id = await require_user(request)
    query_params(request, set())
    body = await read_json(request, CreateExport, wanted=WANTED_BODY)
    respond_async = _prefers_async(request)
    wanted = requesting.ExportRequest(
        user_id=user_id,
        format=body.format,
        actor=user_actor(request, user_id),
        respond_async=respond_async,
        idempotency_key=_idempotency_key(request),
        traceparent=request.state.traceparent,
    )
    export, _ = await requesting.request_export(resources, wanted)
    response = await _accepted(resources, export)
    if respond_async:
        response.headers["Preference-Applied"] = "respond-async"
    return response


async def list_exports(request: Request) -> Response:
    resources = resources_of(request)
    user_id = await require_user(request)
    page = read_query(request, PageQuery)
    async with exporting.open_connection(resources) as connection:
        found = await resources.exports.list_owned(connection, user_id, after=page.after or None, limit=page.limit + 1)
        views = [await view_export(resources, connection, export) for export in found[: page.limit]]
    path = f"{resources.settings.public_path}/api/export"
    more = len(found) > page.limit
    return json_response(ExportPage(views, f"{path}?limit={page.limit}&after={views[-1].job_id}" if more else None))


async def show_export(request: Request) -> Response:
    resources = resources_of(request)
    user_id = await require_user(request)
    query_params(request, set())
    export = await exporting.get_owned(resources, job_id_of(request), user_id, user_actor(request, user_id))
    async with exporting.open_connection(resources) as connection:
        return json_response(await view_export(resources, connection, export))


async def delete_export(request: Request) -> Response:
    resources = resources_of(request)
    user_id = await require_user(request)
    query_params(request, set())
    actor = user_actor(request, user_id)
    export = await exporting.get_owned(resources, job_id_of(request), user_id, actor)
    await exporting.cancel_or_delete(resources, export, actor)
    return Response(status_code=204)


async def _accepted(resources: Resources, export: Export) -> Response:
    location = {"Location": f"{resources.settings.public_path}/api/export/{export.id}"}
    if export.status is ExportStatus.FAILED:
        async with exporting.open_connection(resources) as connection:
            return json_response(await view_export(resources, connection, export), 200, location)
    if export.status is ExportStatus.COMPLETED:
        url = exporting.download_url(resources, export)
        body = CompletedExport(export.id, export.status, url, export.record_count, export.expires_at)
        return json_response(body, 201, location)
    estimate = await _estimate(resources, export)
    wait_seconds = math.ceil((estimate - dt.datetime.now(dt.UTC)).total_seconds())
    headers = location | {"Retry-After": str(max(1, wait_seconds))}
    return json_response(PendingExport(export.id, export.status, export.estimated_records, estimate), 202, headers)


async def _estimate(resources: Resources, export: Export) -> dt.datetime:
    """A guess where PostgreSQL can't be asked: the export is accepted, and its answer is owed."""
    try:
        async with exporting.open_connection(resources) as connection:
            return await resources.exports.estimate_completion(connection, export)
    except UnavailableError:
        return dt.datetime.now(dt.UTC) + UNKNOWN_WAIT


async def view_export(resources: Resources, connection: Connection, export: Export) -> ExportView:
    estimate = await resources.exports.estimate_completion(connection, export) if export.running else None
    total = export.record_count or export.estimated_records
    return ExportView(
        job_id=export.id,
        status=export.status,
        format=export.format,  # type: ignore[arg-type] # a constraint of the table
        record_count=export.record_count,
        created_at=export.created_at,
        completed_at=export.completed_at,
        expires_at=export.expires_at,
        size_bytes=export.size_bytes,
        sha256=export.sha256.hex() if export.sha256 else None,
        error_message=export.error_message,
        progress=Progress(export.records_done, total),
        estimated_completion=estimate,
        download_url=exporting.download_url(resources, export) or UNSET,
    )


def _prefers_async(request: Request) -> bool:
    """RFC 7240; preferences we don't know are to be ignored."""
    preferences = [preference for line in request.headers.getlist("prefer") for preference in parse_http_list(line)]
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequestError("Idempotency-Key must be 1 to 255 visible ASCII characters")
    return key

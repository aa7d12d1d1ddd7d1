"""What the API's document says of a user's own exports."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException

from service import errors
from service.api import downloads, events, exports, streams
from service.api.examples import (
    COMPLETED_AT,
    DOCUMENT,
    DOWNLOADS,
    EVENTS,
    EXPIRES_AT,
    EXPORT,
    FAILED_EXPORT,
    GONE,
    JOB_ID,
    LINK,
    NO_TOKEN,
    NO_USER,
    NOT_FOUND,
    NOT_READY,
    SERVERS_FAIL,
    TOO_LARGE,
    UNKNOWN_PARAMETER,
)
from service.api.openapi import Answer, Operation
from service.api.requests import MAX_BODY_BYTES
from service.exports import ExportStatus

FOLLOW = {
    "show_export": "Watch it.",
    "watch_export": "Follow it.",
    "delete_export": "Cancel it, or delete its file.",
    "download_export": "Fetch its file.",
    "list_downloads": "See who fetched it.",
}

CREATE_EXPORT = Operation(
    tag="Exports",
    summary="Ask for an export",
    description="A small export is made at once. A larger one is queued, and its link is mailed. One at a time.",
    security=["userToken"],
    headers=["Prefer", "Idempotency-Key"],
    body=exports.CreateExport("csv"),
    answers={
        200: Answer(
            description="What this Idempotency-Key asked for before has failed since.",
            example=FAILED_EXPORT,
            headers=["Location", "Preference-Applied"],
            links=FOLLOW,
        ),
        201: Answer(
            description="The file is ready.",
            example=exports.CompletedExport(JOB_ID, ExportStatus.COMPLETED, LINK, 41, EXPIRES_AT),
            headers=["Location", "Preference-Applied"],
            links=FOLLOW,
        ),
        202: Answer(
            description="A worker makes the file.",
            example=exports.PendingExport(JOB_ID, ExportStatus.PENDING, 1_200, COMPLETED_AT),
            headers=["Location", "Retry-After", "Preference-Applied"],
            links=FOLLOW,
        ),
    },
    refusals=(
        errors.InvalidRequestError("The body is not valid JSON"),
        UNKNOWN_PARAMETER,
        NO_TOKEN,
        NO_USER,
        errors.ExportInProgressError("Export already in progress", job_id=JOB_ID, estimated_completion=COMPLETED_AT),
        HTTPException(413, f"The body must not exceed {MAX_BODY_BYTES} bytes"),
        errors.UnsupportedMediaTypeError("The body must be declared as Content-Type: application/json"),
        errors.InvalidValueError(f"Invalid enum value 'xml' - at `$.format`: {exports.WANTED_BODY}"),
        TOO_LARGE,
        errors.IdempotencyConflictError("This Idempotency-Key was used with another body", job_id=JOB_ID),
        errors.RateLimitedError("At most 10 exports an hour", retry_after_seconds=1_800),
        *SERVERS_FAIL,
    ),
)
LIST_EXPORTS = Operation(
    tag="Exports",
    summary="List one's exports, newest first",
    security=["userToken"],
    query=exports.PageQuery,
    answers={
        200: Answer(
            description="A page of exports.",
            example=exports.ExportPage([EXPORT], f"/api/export?limit=1&after={JOB_ID}"),
        )
    },
    refusals=(UNKNOWN_PARAMETER, NO_TOKEN, *SERVERS_FAIL),
)
STREAM_EXPORT = Operation(
    tag="Exports",
    summary="Stream one's data",
    description="The same document as an export's, straight from the database: no job, no file. One at a time.",
    security=["userToken"],
    query=streams.StreamQuery,
    headers=["Accept-Encoding"],
    answers={
        200: Answer(description="The document.", content=DOCUMENT, headers=["Content-Disposition", "Content-Encoding"])
    },
    refusals=(
        UNKNOWN_PARAMETER,
        errors.InvalidRequestError("bom=1 is for format=csv only"),
        NO_TOKEN,
        NO_USER,
        errors.ExportInProgressError("A stream of your data is already running"),
        TOO_LARGE,
        *SERVERS_FAIL,
    ),
)
SHOW_EXPORT = Operation(
    tag="Exports",
    summary="Show an export",
    description="Another user's export looks like one that doesn't exist.",
    security=["userToken"],
    answers={200: Answer(description="The export.", example=EXPORT)},
    refusals=(UNKNOWN_PARAMETER, NO_TOKEN, NOT_FOUND, *SERVERS_FAIL),
)
DELETE_EXPORT = Operation(
    tag="Exports",
    summary="Cancel an export, or delete its file",
    description="A running export ends as failed; a completed one loses its file and its link. Its record stays.",
    security=["userToken"],
    answers={204: Answer(description="It has no file any more, and gets none.")},
    refusals=(UNKNOWN_PARAMETER, NO_TOKEN, NOT_FOUND, *SERVERS_FAIL),
)
WATCH_EXPORT = Operation(
    tag="Exports",
    summary="Watch an export",
    description="Server-sent events: `progress` with the export as `GET /api/export/{job_id}` shows it, at every "
    "change, and `end` when it has ended. Whoever is cut off asks again: each event says all.",
    security=["userToken"],
    answers={200: Answer(description="The events.", content={"text/event-stream": {"example": EVENTS}})},
    refusals=(
        UNKNOWN_PARAMETER,
        NO_TOKEN,
        NOT_FOUND,
        errors.RateLimitedError("You watch too many exports at once", retry_after_seconds=10),
        errors.UnavailableError("Too many exports are being watched", retry_after_seconds=10),
        *SERVERS_FAIL,
    ),
)
LIST_DOWNLOADS = Operation(
    tag="Exports",
    summary="List an export's downloads, newest first",
    description="Whether the link has got around.",
    security=["userToken"],
    query=downloads.DownloadPageQuery,
    answers={200: Answer(description="A page of downloads.", example=DOWNLOADS)},
    refusals=(UNKNOWN_PARAMETER, NO_TOKEN, NOT_FOUND, *SERVERS_FAIL),
)
FILE_HEADERS = ("Content-Disposition", "Accept-Ranges", "ETag")
LINK_REFUSALS = (NO_TOKEN, NOT_FOUND, NOT_READY, GONE, *SERVERS_FAIL)
DOWNLOAD_EXPORT = Operation(
    tag="Exports",
    summary="Download an export's file",
    description="By the signed link, or with the owner's token. The service redirects to the file storage, or sends "
    "the file itself (`CARRYOUT_DOWNLOAD_MODE=proxy`), then also in ranges.",
    security=["userToken", "downloadLink"],
    headers=["expires", "Range", "If-Range"],
    answers={
        200: Answer(description="The file.", content=DOCUMENT, headers=FILE_HEADERS),
        206: Answer(
            description="The part of the file that was asked for.",
            content={"text/csv": {"schema": {"type": "string"}}, "application/json": {}},
            headers=[*FILE_HEADERS, "Content-Range"],
        ),
        302: Answer(description="The file is there, for five minutes at most.", headers=["Location"]),
    },
    refusals=(*LINK_REFUSALS, errors.RangeNotSatisfiableError(51_200)),
    head=Operation(
        tag="Exports",
        summary="Look at an export's file",
        description="Isn't recorded as a download.",
        security=["userToken", "downloadLink"],
        headers=["expires"],
        answers={200: Answer(description="What the file is.", headers=FILE_HEADERS)},
        refusals=LINK_REFUSALS,
    ),
)

EXPORT_OPERATIONS: Mapping[Callable[..., Any], Operation] = {
    exports.create_export: CREATE_EXPORT,
    exports.list_exports: LIST_EXPORTS,
    exports.show_export: SHOW_EXPORT,
    exports.delete_export: DELETE_EXPORT,
    events.watch_export: WATCH_EXPORT,
    downloads.download_export: DOWNLOAD_EXPORT,
    downloads.list_downloads: LIST_DOWNLOADS,
    streams.stream_export: STREAM_EXPORT,
}

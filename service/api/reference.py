"""What the API's document says once for all operations: who may ask, common headers, members of problems."""

import uuid
from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service import errors
from service.api.examples import EXPIRES_AT, JOB_ID
from service.api.exports import Instant
from service.api.openapi import REQUEST_ID, Json, Reference
from service.api.operations import OPERATIONS
from service.exports import ExportStatus

DESCRIPTION = """\
Users take their data with them as CSV or JSON; operators download lists of users.

Errors are `application/problem+json` (RFC 9457); a browser that opens an address gets a page instead. Each names its
request by `request_id`, which is also the `X-Request-ID` of every answer. HEAD is answered wherever GET is. Documents
that break off on their way are incomplete: the connection is cut, and they never look finished.
"""


class RunningExport(msgspec.Struct, frozen=True):
    """Of an export that is in the way; a live stream has neither."""

    job_id: uuid.UUID | UnsetType = UNSET
    estimated_completion: Instant | UnsetType = UNSET


class Excess(msgspec.Struct, frozen=True):
    record_count: Annotated[str, Meta(description="`more than` the limit: nobody counts on.")]
    limit: int
    suggestion: str


class UnfinishedExport(msgspec.Struct, frozen=True):
    export_status: ExportStatus


class EarlierExport(msgspec.Struct, frozen=True):
    """What the idempotency key made before."""

    job_id: uuid.UUID


class Checks(msgspec.Struct, frozen=True):
    """Of `/readyz` alone: what each server answered."""

    checks: dict[str, str] | UnsetType = UNSET


FIELDS: Mapping[type[errors.ServiceError], type[msgspec.Struct]] = {
    errors.ExportInProgressError: RunningExport,
    errors.ExportTooLargeError: Excess,
    errors.ExportNotReadyError: UnfinishedExport,
    errors.IdempotencyConflictError: EarlierExport,
    errors.UnavailableError: Checks,
}

TAGS = {
    "Exports": "A user's own data, with the user's token.",
    "Lists": "For operators, with an API key. Each can be switched off.",
    "Operation": "For Kubernetes and Prometheus.",
    "Reference": "This document.",
}
SECURITY: Mapping[str, Json] = {
    "userToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The application's token; `sub` is the user's id.",
    },
    "downloadLink": {
        "type": "apiKey",
        "in": "query",
        "name": "signature",
        "description": "The signature of a download link. It opens that one file until `expires`.",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "From `carryout keys create`."},
    "apiKeyAsBearer": {"type": "http", "scheme": "bearer", "description": "An API key as a bearer token."},
}


def _header_parameter(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


PARAMETERS: Mapping[str, Json] = {
    "job_id": {
        "name": "job_id",
        "in": "path",
        "required": True,
        "description": "The export's id.",
        "schema": {"type": "string", "format": "uuid"},
        "example": str(JOB_ID),
    },
    "expires": {
        "name": "expires",
        "in": "query",
        "required": False,
        "description": "When the link ends, in seconds since 1970; part of the link. Unknown parameters are ignored: "
        "mail gateways add their own.",
        "schema": {"type": "string"},
        "example": f"{EXPIRES_AT.timestamp():.0f}",
    },
    "Prefer": _header_parameter(
        "Prefer", {"type": "string", "examples": ["respond-async"]}, "`respond-async` queues even a small export."
    ),
    "Idempotency-Key": _header_parameter(
        "Idempotency-Key",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "For 24 hours, the same key and body are answered with the same export.",
    ),
    "Accept-Encoding": _header_parameter(
        "Accept-Encoding", {"type": "string", "examples": ["zstd, gzip"]}, "`zstd` and `gzip` compress on the way."
    ),
    "Range": _header_parameter(
        "Range",
        {"type": "string", "examples": ["bytes=0-1023"]},
        "One range of bytes, when the service sends the file.",
    ),
    "If-Range": _header_parameter("If-Range", {"type": "string"}, "Send the range only while the `ETag` is this one."),
    "If-None-Match": _header_parameter("If-None-Match", {"type": "string"}, "The `ETag` of the copy at hand."),
}


def _header(description: str, example: object, *, always: bool = True, type_: str = "string") -> Json:
    return {"description": description, "required": always, "schema": {"type": type_}, "example": example}


HEADERS: Mapping[str, Json] = {
    "X-Request-ID": _header("The request's own `X-Request-ID` if it had a plain one, else a new id.", REQUEST_ID),
    "Location": _header("Path of the export, or URL of the file.", f"/api/export/{JOB_ID}"),
    "Retry-After": _header("Seconds to wait.", 8, type_="integer"),
    "Preference-Applied": _header("What was preferred and done.", "respond-async", always=False),
    "Content-Disposition": _header("The file's name.", 'attachment; filename="export-2026-03-01.csv"'),
    "Content-Encoding": _header("How the document is compressed on the way.", "gzip", always=False),
    "Content-Range": _header("The bytes that were sent.", "bytes 0-1023/51200"),
    "Accept-Ranges": _header("Ranges are possible.", "bytes"),
    "ETag": _header("Changes when the content does.", '"9f86d081884c7d65"'),
    "WWW-Authenticate": _header("The way to authenticate.", "Bearer"),
}

REFERENCE = Reference(
    info={
        "title": "Carryout",
        "version": version("carryout"),
        "description": DESCRIPTION,
        "license": {"name": "MIT", "identifier": "MIT"},
    },
    tags=TAGS,
    security=SECURITY,
    parameters=PARAMETERS,
    headers=HEADERS,
    fields=FIELDS,
    operations=OPERATIONS,
)

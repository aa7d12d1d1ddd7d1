"""Shared parts of the OpenAPI document: security schemes, common headers, members of problems."""

import uuid
from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service import errors
from service.api.examples import EXPIRES_AT, JOB_ID
from service.api.exports import Instant
from service.api.openapi import REQUEST_ID, Reference
from service.api.operations import Json
from service.bookkeeping.exports import ExportStatus

DESCRIPTION = """\
Users export their own data. Operators ask for exports on their behalf, and download lists.

Errors are `application/problem+json` (RFC 9457); a browser that opens an address gets a page instead. Each error has a
`request_id`, which is also the `X-Request-ID` of every response. HEAD works on every path that supports GET. If a
document can't be finished, the service cuts the connection, so that an incomplete document never looks complete.
"""


class RunningExport(msgspec.Struct, frozen=True):
    """Members that name the running export; a live stream has neither."""

    job_id: uuid.UUID | UnsetType = UNSET
    estimated_completion: Instant | UnsetType = UNSET


class FittingRange(msgspec.Struct, frozen=True):
    """A part of the data that fits. `from` and `to` as the body takes them; null is the beginning or the end."""

    start: str | None = msgspec.field(name="from")
    end: str | None = msgspec.field(name="to")
    record_count: int


class Excess(msgspec.Struct, frozen=True):
    record_count: Annotated[str, Meta(description="`more than` the limit: counting stops there.")]
    limit: int
    suggestion: str
    ranges: Annotated[
        list[FittingRange],
        Meta(description="Adjoining ranges that hold all rows and fit; empty if there are none, or it took too long."),
    ]
    too_large: Annotated[list[FittingRange] | UnsetType, Meta(description="Days that hold too many rows.")] = UNSET
    more: Annotated[
        FittingRange | UnsetType, Meta(description="The rest, if there are more ranges: ask for it to get them.")
    ] = UNSET


class UnfinishedExport(msgspec.Struct, frozen=True):
    export_status: ExportStatus


class EarlierExport(msgspec.Struct, frozen=True):
    """The export that the idempotency key created."""

    job_id: uuid.UUID


class Checks(msgspec.Struct, frozen=True):
    """Only for `/readyz`: the result of each server's check."""

    checks: dict[str, str] | UnsetType = UNSET


FIELDS: Mapping[type[errors.ServiceError], type[msgspec.Struct]] = {
    errors.ExportInProgressError: RunningExport,
    errors.ExportTooLargeError: Excess,
    errors.ExportNotReadyError: UnfinishedExport,
    errors.IdempotencyConflictError: EarlierExport,
    errors.UnavailableError: Checks,
}

TAGS = {
    "Exports": "Exports of a user's own data, with the user's token.",
    "Requests": "Exports that operators ask for on users' behalf, with an API key.",
    "Lists": "Lists for operators, with an API key. A feature flag switches each list.",
    "Operation": "Probes and metrics for Kubernetes and Prometheus.",
    "Reference": "This document.",
}
SECURITY: Mapping[str, Json] = {
    "userToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The application's token; a claim, by default `sub`, is the user's id.",
    },
    "downloadLink": {
        "type": "apiKey",
        "in": "query",
        "name": "signature",
        "description": "The signature of a download link. It authorizes the download of one file until `expires`.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key from `carryout keys create`.",
    },
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
        "description": "When the link expires, in seconds since 1970; part of the link. Unknown parameters are ignored "
        "because mail gateways add their own.",
        "schema": {"type": "string"},
        "example": f"{EXPIRES_AT.timestamp():.0f}",
    },
    "Prefer": _header_parameter(
        "Prefer", {"type": "string", "examples": ["respond-async"]}, "`respond-async` queues even a small export."
    ),
    "Prefer-no-redirect": _header_parameter(
        "Prefer", {"type": "string", "examples": ["no-redirect"]}, "`no-redirect`: the service sends the file itself."
    ),
    "Idempotency-Key": _header_parameter(
        "Idempotency-Key",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "For 24 hours, requests with the same key and body return the same export.",
    ),
    "Accept-Encoding": _header_parameter(
        "Accept-Encoding", {"type": "string", "examples": ["zstd, gzip"]}, "`zstd` and `gzip` are supported."
    ),
    "Range": _header_parameter(
        "Range",
        {"type": "string", "examples": ["bytes=0-1023"]},
        "One range of bytes. Supported if the service sends the file itself.",
    ),
    "If-Range": _header_parameter(
        "If-Range", {"type": "string"}, "Send the range only if this `ETag` or `Last-Modified` still matches."
    ),
    "If-None-Match": _header_parameter("If-None-Match", {"type": "string"}, "The `ETag` of the client's copy."),
    "If-Match": _header_parameter("If-Match", {"type": "string"}, "The `ETag` of the only version wanted."),
    "If-Modified-Since": _header_parameter(
        "If-Modified-Since", {"type": "string"}, "The `Last-Modified` of the client's copy."
    ),
    "If-Unmodified-Since": _header_parameter(
        "If-Unmodified-Since", {"type": "string"}, "The `Last-Modified` of the only version wanted."
    ),
}


def _header(description: str, example: object, *, always: bool = True, type_: str = "string") -> Json:
    return {"description": description, "required": always, "schema": {"type": type_}, "example": example}


HEADERS: Mapping[str, Json] = {
    "X-Request-ID": _header(
        "The request's `X-Request-ID` if it is 1 to 64 letters, digits, `.`, `_` and `-`, else a new id.", REQUEST_ID
    ),
    "Location": _header("The path of the export, or the URL of the file.", f"/api/export/{JOB_ID}"),
    "Retry-After": _header("Seconds to wait.", 8, type_="integer"),
    "Preference-Applied": _header("The preference that the service applied.", "respond-async", always=False),
    "Content-Disposition": _header("The file's name.", 'attachment; filename="export-2026-03-01.csv"'),
    "Content-Encoding": _header("The compression of the stream.", "gzip", always=False),
    "Link": _header(
        'The description of the list, with its key, in the OpenAPI document (`rel="describedby"`).',
        '<https://exports.example.com/openapi.json#/paths/~1api~1v1~1lists~1orders/get>; rel="describedby"',
    ),
    "Content-Range": _header("The range of bytes in the body.", "bytes 0-1023/51200"),
    "Accept-Ranges": _header("Range requests are supported.", "bytes"),
    "Repr-Digest": _header(
        "SHA-256 of the whole file (RFC 9530).", "sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:"
    ),
    "Last-Modified": _header("When the file was made.", "Sun, 01 Mar 2026 09:30:00 GMT"),
    "ETag": _header("Changes with the content.", '"9f86d081884c7d65"'),
    "WWW-Authenticate": _header("The authentication scheme.", "Bearer"),
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
)

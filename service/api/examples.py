"""The export that the API's document tells of, and the errors that several operations answer with."""

import datetime as dt
import uuid
from collections.abc import Mapping

import msgspec

from service import errors
from service.api import downloads, exports, users
from service.api.errors import UNEXPECTED
from service.api.openapi import Json
from service.auth import NOT_AUTHENTICATED
from service.exports import ExportStatus
from service.streaming import TOO_LARGE_DETAIL, TOO_LARGE_SUGGESTION

JOB_ID = uuid.UUID("5b0c3a64-7c1e-4f0a-9d3e-2f6b8a1c4d5e")
CREATED_AT = dt.datetime(2026, 3, 1, 9, 30, tzinfo=dt.UTC)
COMPLETED_AT = CREATED_AT + dt.timedelta(seconds=8)
EXPIRES_AT = COMPLETED_AT + dt.timedelta(days=7)
LINK = (
    f"https://exports.example.com/api/export/{JOB_ID}/download"
    f"?expires={EXPIRES_AT.timestamp():.0f}&signature=cGFydCBvZiBhIGxpbmssIGFuZCBvbmx5IGFuIGV4YW0"
)
CSV = (
    "user_id,email,name,created_at\r\n0190b7f2-5d3c-7c1e-8a44-3f6f0b1f2a10,ada@example.com,Ada,2026-01-01T00:00:00Z\r\n"
)
JSON = {
    "exported_at": "2026-03-01T09:30:00Z",
    "user": {"id": "0190b7f2-5d3c-7c1e-8a44-3f6f0b1f2a10", "email": "ada@example.com"},
    "activity": [{"kind": "login", "occurred_at": "2026-02-01T08:00:00Z"}],
    "content": [],
}
JSON_SCHEMA: Json = {
    "type": "object",
    "properties": {"exported_at": {"type": "string", "format": "date-time"}, "user": {"type": "object"}},
    "required": ["exported_at", "user"],
    "additionalProperties": {"type": "array", "items": {"type": "object"}, "description": "One for each dataset."},
}
DOCUMENT: Mapping[str, Json] = {
    "text/csv": {"schema": {"type": "string"}, "example": CSV},
    "application/json": {"schema": JSON_SCHEMA, "example": JSON},
}

FAILED_EXPORT = exports.ExportView(
    job_id=JOB_ID,
    status=ExportStatus.FAILED,
    format="csv",
    record_count=None,
    created_at=CREATED_AT,
    completed_at=COMPLETED_AT,
    expires_at=None,
    size_bytes=None,
    sha256=None,
    error_message="cancelled by user",
    progress=exports.Progress(0, 1_200),
    estimated_completion=None,
)
EXPORT = exports.ExportView(
    job_id=JOB_ID,
    status=ExportStatus.COMPLETED,
    format="csv",
    record_count=1_200,
    created_at=CREATED_AT,
    completed_at=COMPLETED_AT,
    expires_at=EXPIRES_AT,
    size_bytes=181_204,
    sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    error_message=None,
    progress=exports.Progress(1_200, 1_200),
    estimated_completion=None,
    download_url=LINK,
)
EVENTS = f"event: progress\ndata: {msgspec.json.encode(FAILED_EXPORT).decode()}\n\nevent: end\ndata: {{}}\n\n"
DOWNLOADS = downloads.DownloadPage(
    [downloads.Download(4_711, COMPLETED_AT + dt.timedelta(hours=1), "link", "192.0.2.7", "curl/8.5.0")],
    f"/api/export/{JOB_ID}/downloads?limit=1&after=4711",
)

UNKNOWN_PARAMETER = errors.InvalidRequestError("Unknown query parameter: page")
NO_TOKEN = errors.AuthenticationError(NOT_AUTHENTICATED)
NO_KEY = errors.AuthenticationError(users.INVALID_KEY)
NOT_ENABLED = errors.PermissionDeniedError(users.NOT_ENABLED)
NOT_FOUND = errors.ExportNotFoundError()
NO_USER = errors.SubjectNotFoundError("No such user")
GONE = errors.ExportGoneError("This export's file is gone: it expired or was deleted")
NOT_READY = errors.ExportNotReadyError("This export has no file: it is pending", export_status=ExportStatus.PENDING)
UNAVAILABLE = errors.UnavailableError("PostgreSQL is not available")
TOO_LARGE = errors.ExportTooLargeError(
    TOO_LARGE_DETAIL,
    record_count="more than 100000",
    limit=100_000,
    suggestion=TOO_LARGE_SUGGESTION,
)
SERVERS_FAIL = (UNEXPECTED, UNAVAILABLE)

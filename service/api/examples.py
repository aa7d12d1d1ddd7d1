"""The example export of the OpenAPI document, and the errors that several operations share."""

import datetime as dt
import uuid
from collections.abc import Mapping

from service import errors
from service.access.tokens import MAX_TOKEN_CHARACTERS
from service.api.http.middleware import NOT_PLAIN
from service.api.http.problems import UNEXPECTED
from service.api.operations import Json
from service.bookkeeping.exports import ExportStatus
from service.documents.streaming import RANGES_SUGGESTION, TOO_LARGE_DETAIL
from service.formats import STREAMED_FORMATS, Format

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
NDJSON = (
    '{"section":"user","row":{"id":"0190b7f2-5d3c-7c1e-8a44-3f6f0b1f2a10","email":"ada@example.com"}}\n'
    '{"section":"activity","row":{"kind":"login","occurred_at":"2026-02-01T08:00:00Z"}}\n'
    '{"section":"end","records":2}\n'
)
JSON_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "exported_at": {"type": "string", "format": "date-time"},
        "filter": {"type": "object", "description": "Only if a part of the data was selected."},
        "user": {"type": "object"},
    },
    "required": ["exported_at", "user"],
    "additionalProperties": {"type": "array", "items": {"type": "object"}, "description": "The rows of one dataset."},
}
EXAMPLES: Mapping[Format, Json] = {
    Format.CSV: {"schema": {"type": "string"}, "example": CSV},
    Format.JSON: {"schema": JSON_SCHEMA, "example": JSON},
    Format.NDJSON: {"schema": {"type": "string"}, "example": NDJSON},
    Format.XLSX: {"schema": {"type": "string", "format": "binary"}},
    Format.ZIP: {"schema": {"type": "string", "format": "binary"}},
}
DOCUMENT: Mapping[str, Json] = {format_.media_type.partition(";")[0]: EXAMPLES[format_] for format_ in Format}
STREAMED: Mapping[str, Json] = {format_.media_type.partition(";")[0]: EXAMPLES[format_] for format_ in STREAMED_FORMATS}

UNKNOWN_PARAMETER = errors.InvalidRequestError("Unknown query parameter: page")
ESCAPED_PATH = errors.InvalidRequestError(NOT_PLAIN)
TOKEN_REFUSED = (errors.AuthenticationError(errors.NOT_AUTHENTICATED), errors.TokenTooLargeError(MAX_TOKEN_CHARACTERS))
NOT_FOUND = errors.ExportNotFoundError()
NO_USER = errors.SubjectNotFoundError("No such user")
GONE = errors.ExportGoneError("This export's file is gone: it expired or was deleted")
NOT_READY = errors.ExportNotReadyError("This export has no file: it is pending", export_status=ExportStatus.PENDING)
UNAVAILABLE = errors.UnavailableError(errors.AWAY)
UNKNOWN_SECTION = errors.InvalidValueError("Unknown section orders: the sections are user, activity, content")
TOO_LARGE = errors.ExportTooLargeError(
    TOO_LARGE_DETAIL,
    record_count="more than 100000",
    limit=100_000,
    suggestion=RANGES_SUGGESTION,
    ranges=[
        {"from": None, "to": "2025-07-01", "record_count": 96_120},
        {"from": "2025-07-01", "to": None, "record_count": 71_415},
    ],
)
SERVERS_FAIL = (UNEXPECTED, UNAVAILABLE)

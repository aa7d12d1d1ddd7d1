"""The live stream: a user's document sent directly from a cursor, without a job or a file."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.api import selections
from service.api.audited_streams import AuditedStream, Opened
from service.api.callers import require_user, resources_of, user_actor
from service.api.examples import (
    NO_USER,
    SERVERS_FAIL,
    STREAMED,
    TOKEN_REFUSED,
    TOO_LARGE,
    UNKNOWN_PARAMETER,
    UNKNOWN_SECTION,
)
from service.api.http.requests import query_params
from service.api.operations import Answer, Operation
from service.api.routing import ExactRoute
from service.bookkeeping.audit import AuditAction
from service.documents.encoders import create_encoder
from service.errors import InvalidRequestError
from service.export_spec import ExportSpec
from service.exports import attempts
from service.formats import STREAMED_FORMATS, Format
from service.resources import Resources

WANTED_QUERY = f"give format={' or format='.join(STREAMED_FORMATS)}, and bom=1 with csv only"
NO_STREAM = "format=zip can't be streamed: ask for an export with POST /api/export"
SECTIONS = "The sections to export, separated by commas; the profile is always included. Default: all."


class StreamQuery(msgspec.Struct, frozen=True):
    format: Format
    bom: Annotated[Literal["0", "1"], Meta(description="`1` puts a byte order mark before a CSV.")] = "0"
    guard: selections.Guard = "formulas"
    big: selections.BigNumbers = "number"
    sections: Annotated[str | None, Meta(description=SECTIONS)] = None
    start: selections.Start = msgspec.field(name="from", default=None)
    end: selections.End = msgspec.field(name="to", default=None)
    since: selections.Since = None

    @property
    def selection(self) -> selections.Selection:
        names = None if self.sections is None else [name for name in self.sections.split(",") if name]
        return selections.Selection(names, self.start, self.end, self.since)


async def stream_export(request: Request) -> Response:
    user_id = await require_user(request)
    query = _query(request)
    resources = resources_of(request)
    actor = user_actor(request, user_id)
    spec = await selections.read_selection(resources, actor, user_id, query.format, query.selection)
    spec = msgspec.structs.replace(
        spec, bom=query.bom == "1", unguarded=query.guard == "none", big_as_text=query.big == "text"
    )
    per_hour = resources.settings.streams_per_hour
    # Checked again when its begin is recorded: the user can begin no other stream by then, in any process.
    await resources.audit.check_stream_rate(resources.autocommit, user_id, per_hour=per_hour)
    stream = AuditedStream(
        resources=resources,
        actor=actor,
        kind="user",
        format=query.format,
        started=AuditAction.STREAM_STARTED,
        ended=AuditAction.STREAMED,
        user_id=user_id,
        per_hour=per_hour,
    )
    return stream.response(
        request,
        _open(resources, spec),
        filename=f"export.{query.format}",
        media_type=query.format.media_type,
    )


def _query(request: Request) -> StreamQuery:
    given = query_params(request, set(StreamQuery.__struct_encode_fields__))
    try:
        query = msgspec.convert(given, StreamQuery)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{error}; {WANTED_QUERY}") from None
    if query.format.is_package:
        raise InvalidRequestError(NO_STREAM)
    selections.require_fitting(query)
    return query


@asynccontextmanager
async def _open(resources: Resources, spec: ExportSpec) -> AsyncIterator[Opened]:
    async with attempts.open_user_document(resources, spec, exclusive=True, suggest_ranges=True) as document:
        encoder = create_encoder(spec.format, document.options)
        yield Opened(document, document.chunks(encoder), records=document.records_total)


STREAM_EXPORT = Operation(
    tag="Exports",
    summary="Stream your data",
    description="The same document as an export's, sent directly from the database without a job or a file. A user can "
    "have one stream at a time, and a limited number per hour.",
    security=["userToken"],
    query=StreamQuery,
    headers=["Accept-Encoding"],
    answers={
        200: Answer(description="The document.", content=STREAMED, headers=["Content-Disposition", "Content-Encoding"])
    },
    refusals=(
        UNKNOWN_PARAMETER,
        errors.InvalidRequestError(NO_STREAM),
        errors.InvalidRequestError("bom=1 is for format=csv only"),
        *TOKEN_REFUSED,
        NO_USER,
        errors.ExportInProgressError("A stream of your data is already running"),
        UNKNOWN_SECTION,
        TOO_LARGE,
        errors.RateLimitedError("At most 60 streams an hour", retry_after_seconds=1_800),
        *SERVERS_FAIL,
    ),
)

ROUTES = (ExactRoute("/api/export/stream", stream_export, STREAM_EXPORT),)

"""The live stream: a user's document straight from the cursor, with no job and no file."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service import exporting
from service.api.audited import AuditedStream, Opened
from service.api.auth import require_user, resources_of, user_actor
from service.api.requests import query_params
from service.audit import AuditAction
from service.bootstrap import Resources
from service.database import UserId
from service.encoders import Encoder, Format, create_encoder
from service.errors import InvalidRequestError


class StreamQuery(msgspec.Struct, frozen=True):
    format: Format
    bom: Annotated[Literal["0", "1"], Meta(description="`1` puts a byte order mark before a CSV.")] = "0"


async def stream_export(request: Request) -> Response:
    user_id = await require_user(request)
    query = _query(request)
    resources = resources_of(request)
    encoder = create_encoder(query.format, bom=query.bom == "1")
    stream = AuditedStream(
        resources=resources,
        actor=user_actor(request, user_id),
        kind="user",
        format=query.format,
        started=AuditAction.STREAM_STARTED,
        ended=AuditAction.STREAMED,
        user_id=user_id,
    )
    return stream.response(
        request,
        _open(resources, user_id, encoder),
        filename=f"export.{query.format}",
        media_type=encoder.media_type,
    )


def _query(request: Request) -> StreamQuery:
    given = query_params(request, {"format", "bom"})
    try:
        query = msgspec.convert(given, StreamQuery)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{error}; give format=csv or format=json, and bom=1 with csv only") from None
    if query.bom == "1" and query.format != "csv":
        raise InvalidRequestError("bom=1 is for format=csv only")
    return query


@asynccontextmanager
async def _open(resources: Resources, user_id: UserId, encoder: Encoder) -> AsyncIterator[Opened]:
    async with exporting.open_user_document(resources, user_id, exclusive=True) as document:
        yield Opened(document, document.chunks(encoder), records=document.records_total)

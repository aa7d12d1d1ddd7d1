"""The live stream: a user's document straight from the cursor, with no job and no file."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service import exporting
from service.api.auth import require_user, resources_of, user_actor
from service.api.requests import query_params
from service.api.responses import StreamEnd, compressible_stream
from service.audit import Actor, AuditAction
from service.bootstrap import Resources
from service.database import UserId
from service.encoders import Format, create_encoder
from service.errors import InvalidRequestError


class StreamQuery(msgspec.Struct, frozen=True):
    format: Format
    bom: Annotated[Literal["0", "1"], Meta(description="`1` puts a byte order mark before a CSV.")] = "0"


async def stream_export(request: Request) -> Response:
    user_id = await require_user(request)
    query = _query(request)
    stream = _UserStream(resources_of(request), user_id, query, user_actor(request, user_id))
    return compressible_stream(
        request,
        stream.chunks(),
        filename=f"export.{query.format}",
        media_type=stream.encoder.media_type,
        on_end=stream.record_end,
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


class _UserStream:
    """One user's stream and its two audit events: that it began, and how it ended."""

    def __init__(self, resources: Resources, user_id: UserId, query: StreamQuery, actor: Actor) -> None:
        self.encoder = create_encoder(query.format, bom=query.bom == "1")
        self._resources = resources
        self._metrics = resources.metrics
        self._user_id = user_id
        self._format = query.format
        self._actor = actor
        self._began = False
        self._records = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        async with exporting.open_user_document(self._resources, self._user_id, exclusive=True) as document:
            await self._record(AuditAction.STREAM_STARTED, records=document.records_total)
            self._began = True
            self._metrics.streams_open.labels("user").inc()
            async with aclosing(document.chunks(self.encoder)) as chunks:
                async for chunk in chunks:
                    self._metrics.streamed_records.labels("user", self._format).inc(
                        document.records_done - self._records
                    )
                    self._records = document.records_done
                    yield chunk
                    self._metrics.streamed_bytes.labels("user", self._format).inc(len(chunk))

    async def record_end(self, end: StreamEnd) -> None:
        if self._began:
            self._metrics.streams_open.labels("user").dec()
            self._metrics.streams.labels("user", self._format, end).inc()
            await self._record(AuditAction.STREAMED, records=self._records, outcome=end)

    async def _record(self, action: AuditAction, *, records: int, outcome: str | None = None) -> None:
        async with exporting.begin(self._resources) as connection:
            await self._resources.audit.record(
                connection,
                self._actor,
                action,
                user_id=self._user_id,
                format_=self._format,
                records=records,
                outcome=outcome,
            )

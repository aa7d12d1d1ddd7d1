"""Streams of documents to clients, each between two audit events."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from service.api.http.responses import StreamEnd, compressible_stream, finish
from service.backends.database import is_busy
from service.bookkeeping.audit import Actor, AuditAction
from service.documents.lists import OperatorList
from service.documents.streaming import Document
from service.formats import Format
from service.resources import Resources
from service.user_ids import UserId


@dataclass(frozen=True)
class Opened:
    """A document in its snapshot, its chunks, and the fields of its first audit event."""

    document: Document | OperatorList
    chunks: AsyncGenerator[bytes, None]
    records: int | None = None
    outcome: str | None = None


@dataclass(kw_only=True)
class AuditedStream:
    """One stream and its audit events.

    `started` is recorded before the first byte leaves. `ended` records the outcome and the number of records. A record
    counts once it has been handed to the network or, in a compressed stream, to the compressor (which holds it for at
    most FLUSH_SECONDS). The records of a chunk that was cut off don't count. `per_hour` is how many streams the user
    may begin in an hour; one more is refused with RateLimitedError.
    """

    resources: Resources
    actor: Actor
    kind: Literal["user", "list"]
    format: Format
    started: AuditAction
    ended: AuditAction
    user_id: UserId | None = None
    per_hour: int | None = None
    subject: str | None = None
    _began: bool = field(default=False, init=False)
    _records: int = field(default=0, init=False)

    def response(
        self,
        request: Request,
        opening: AbstractAsyncContextManager[Opened],
        *,
        filename: str,
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        return compressible_stream(
            request,
            self._chunks(opening),
            filename=filename,
            media_type=media_type,
            headers=headers,
            on_end=self._end,
            max_seconds=self.resources.settings.stream_seconds,
            is_crowded=lambda: is_busy(self.resources.streams if self.kind == "user" else self.resources.lists),
            compress=not self.format.is_compressed,
        )

    async def _chunks(self, opening: AbstractAsyncContextManager[Opened]) -> AsyncGenerator[bytes, None]:
        async with opening as opened:
            await finish(self._begin(opened))  # shielded: a disconnect must not leave `started` without `ended`
            async with aclosing(opened.chunks) as chunks:
                async for chunk in chunks:
                    made = opened.document.records_done
                    yield chunk
                    self._count(made, len(chunk))  # counted after the chunk has been sent

    async def _begin(self, opened: Opened) -> None:
        if self.user_id is None or self.per_hour is None:
            await self._record(self.started, opened.records, opened.outcome)
        else:
            await self.resources.audit.record_stream_start(
                self.resources.autocommit,
                self.actor,
                self.started,
                user_id=self.user_id,
                format_=self.format,
                records=opened.records,
                per_hour=self.per_hour,
            )
        self._began = True
        self.resources.metrics.streams_open.labels(self.kind).inc()

    def _count(self, records: int, size_bytes: int) -> None:
        self.resources.metrics.streamed_records.labels(self.kind, self.format).inc(records - self._records)
        self.resources.metrics.streamed_bytes.labels(self.kind, self.format).inc(size_bytes)
        self._records = records

    async def _end(self, end: StreamEnd) -> None:
        if self._began:
            self.resources.metrics.streams_open.labels(self.kind).dec()
            self.resources.metrics.streams.labels(self.kind, self.format, end).inc()
            await self._record(self.ended, self._records, end)

    async def _record(self, action: AuditAction, records: int | None, outcome: str | None) -> None:
        await self.resources.audit.record(
            self.resources.autocommit,
            self.actor,
            action,
            user_id=self.user_id,
            subject=self.subject,
            format_=self.format,
            records=records,
            outcome=outcome,
        )

"""Responses: JSON, streams that never look complete if they were cut, and downloads with a safe filename."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from enum import StrEnum
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.api.http.compression import Compressor, Encoding, negotiate
from service.api.http.protocol import ABORT
from service.api.http.slow_clients import DEFAULT_PATIENCE, Patience, PatientSender, SlowClientError
from service.content_disposition import attachment
from service.errors import ServiceError

# An abort by StreamingProtocol disconnects at once; another server may not disconnect at all.
LOST_SECONDS = 1.0


class StreamEnd(StrEnum):
    COMPLETE = "complete"
    """Every byte was handed to the network. HTTP can't tell whether the client received the last ones."""
    CLIENT_GONE = "client_gone"
    TOO_SLOW = "too_slow"
    TOO_LONG = "too_long"
    """The stream exceeded the time limit of the settings."""
    FAILED = "failed"
    """The chunks raised, or the server is stopping."""


class OverdueError(ServiceError):
    """The download exceeded its time limit; its connection is cut."""

    def __init__(self) -> None:
        super().__init__("The download exceeded its time limit")


class ChunkedStream(Response):
    """A response streamed from an async generator of chunks.

    The first chunk is awaited before anything is sent, so that an early failure can still be answered; a later one is
    raised again and the server breaks the connection. A client that is too slow, or takes longer than `max_seconds`,
    is cut, which is not a failure. Owns
    `chunks`: iterates and closes them in one task, and lets their clean-up finish even on cancellation.
    After that `on_end` is awaited, once; if it raises, so does the response. HEAD gets the headers only: nothing is
    iterated and `on_end` isn't called.
    """

    def __init__(  # noqa: PLR0913 (the parameters of a response and of its end)
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        on_end: Callable[[StreamEnd], Awaitable[None]] | None = None,
        patience: Patience = DEFAULT_PATIENCE,
        max_seconds: float | None = None,
        is_crowded: Callable[[], bool] = lambda: False,
        encoding: Encoding | None = None,
    ) -> None:
        self.status_code = status_code
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)
        if encoding:
            self.headers["Content-Encoding"] = encoding
        self._encoding = encoding
        self._chunks = chunks
        self._on_end = on_end
        self._max_seconds = max_seconds
        self._sender = PatientSender(patience, is_crowded=is_crowded)
        self._closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await self._chunks.aclose()
            await send(self._start())
            await send({"type": "http.response.body"})
            return
        pump = asyncio.create_task(self._pump(send))
        watch = asyncio.create_task(_watch(receive))
        try:
            await asyncio.wait({pump, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            if not self._closing:
                pump.cancel()
            await finish(self._end(scope, pump, watch))
        try:
            for task in (pump, watch):
                if not task.cancelled():
                    task.result()
        except (SlowClientError, OverdueError):
            if not await _is_lost(receive):
                raise

    async def _pump(self, send: Send) -> None:
        try:
            async with asyncio.timeout(self._max_seconds) as limit:
                await self._send_all(send)
        except TimeoutError:
            if limit.expired():
                raise OverdueError from None
            raise
        finally:
            self._closing = True
            await self._chunks.aclose()

    async def _send_all(self, send: Send) -> None:
        first = await anext(self._chunks, b"")
        compressor = Compressor(self._encoding) if self._encoding else None
        await self._sender.send(send, self._start())
        await self._send_chunk(send, first, compressor)
        async for chunk in self._chunks:
            await self._send_chunk(send, chunk, compressor)
        await self._sender.send(send, _body(await compressor.finish() if compressor else b"", more=False))

    async def _send_chunk(self, send: Send, chunk: bytes, compressor: Compressor | None) -> None:
        body = await compressor.compress(chunk) if compressor else chunk
        if body:
            await self._sender.send(send, _body(body))

    async def _end(self, scope: Scope, pump: asyncio.Task[None], watch: asyncio.Task[None]) -> None:
        await asyncio.wait({pump, watch})
        end = _how_it_ended(pump, watch)
        if end in {StreamEnd.TOO_SLOW, StreamEnd.TOO_LONG}:
            _abort(scope)
        if self._on_end:
            await self._on_end(end)

    def _start(self) -> Message:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}


def json_response(body: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers=headers, media_type="application/json")


def attachment_headers(filename: str) -> dict[str, str]:
    return {"Content-Disposition": attachment(filename)}


def compressible_stream(  # noqa: PLR0913 (the parameters of a ChunkedStream)
    request: Request,
    chunks: AsyncGenerator[bytes, None],
    *,
    filename: str,
    media_type: str,
    headers: Mapping[str, str] | None = None,
    on_end: Callable[[StreamEnd], Awaitable[None]],
    max_seconds: float | None = None,
    is_crowded: Callable[[], bool] = lambda: False,
    compress: bool = True,
) -> ChunkedStream:
    """A streamed download, compressed with the encoding that the client prefers if `compress`."""
    return ChunkedStream(
        chunks,
        media_type=media_type,
        headers=attachment_headers(filename) | {"Vary": "Accept-Encoding"} | dict(headers or {}),
        on_end=on_end,
        encoding=negotiate(request) if compress else None,
        max_seconds=max_seconds,
        is_crowded=is_crowded,
    )


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end despite cancellations; then raise the cancellation."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled:
        raise cancelled


def _body(chunk: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": more}


async def _watch(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _is_lost(receive: Receive) -> bool:
    """Whether the server knows that the connection is aborted. Otherwise it logs a truncated response as an error."""
    try:
        async with asyncio.timeout(LOST_SECONDS):
            await _watch(receive)
    except TimeoutError:
        return False
    return True


def _how_it_ended(pump: asyncio.Task[None], watch: asyncio.Task[None]) -> StreamEnd:
    if pump.cancelled():
        gone = not watch.cancelled() and watch.exception() is None
        return StreamEnd.CLIENT_GONE if gone else StreamEnd.FAILED
    if (error := pump.exception()) is None:
        return StreamEnd.COMPLETE
    match error:
        case SlowClientError():
            return StreamEnd.TOO_SLOW
        case OverdueError():
            return StreamEnd.TOO_LONG
    return StreamEnd.FAILED


def _abort(scope: Scope) -> None:
    if abort := scope.get("extensions", {}).get(ABORT):
        abort()

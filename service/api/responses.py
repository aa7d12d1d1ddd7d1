"""JSON, streams that end as they really ended, and downloads under a safe name."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.api.compression import Compressor, Encoding, negotiate
from service.api.protocol import ABORT
from service.attachments import attachment
from service.errors import ServiceError

# What the kernels of both sides and the server may have taken without anybody having read it.
BUFFERED_BYTES = 1024 * 1024
# A connection that StreamingProtocol aborts is lost at once; another server's may not be.
LOST_SECONDS = 1.0


@dataclass(frozen=True)
class Patience:
    """How long a client may make us wait: `initial_seconds`, and what it takes earns it more.

    It never has more than `initial_seconds` in hand before BUFFERED_BYTES have left, so that one that reads nothing is
    cut after that time, whatever the buffers took; nor more than `max_seconds` later. The maximum is for those who
    read in bursts: curl 7.88 with `--limit-rate 20k` takes 2 MB and then nothing for 101 s. Waiting for rows doesn't
    count.
    """

    initial_seconds: float = 30.0
    max_seconds: float = 120.0
    bytes_per_second: int = 8 * 1024


class StreamEnd(StrEnum):
    COMPLETE = "complete"
    """Every byte was handed to the network; whether the client got the last ones, HTTP can't tell."""
    CLIENT_GONE = "client_gone"
    TOO_SLOW = "too_slow"
    FAILED = "failed"
    """The chunks raised, or the server is stopping."""


DEFAULT_PATIENCE = Patience()


class SlowClientError(ServiceError):
    """The client took too little for too long; its connection is cut."""

    def __init__(self) -> None:
        super().__init__("The client took too little for too long")


class ChunkedStream(Response):
    """A response made of chunks that arrive one by one.

    The first chunk is awaited before anything is sent, so that an early failure can still be answered; a later one is
    raised again and the server breaks the connection. A client that is too slow is cut, which is no failure. Owns
    `chunks`: iterates and closes them in one task, and lets their clean-up finish whatever is cancelled meanwhile.
    After that `on_end` is awaited, once; if it raises, so does the response. HEAD gets the headers only: nothing is
    iterated and `on_end` isn't called.
    """

    def __init__(  # noqa: PLR0913 (what any response takes, and how it ends)
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        on_end: Callable[[StreamEnd], Awaitable[None]] | None = None,
        patience: Patience = DEFAULT_PATIENCE,
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
        self._patience = patience
        self._patience_seconds = patience.initial_seconds
        self._sent_bytes = 0
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
        except SlowClientError:
            if not await _is_lost(receive):
                raise

    async def _pump(self, send: Send) -> None:
        try:
            first = await anext(self._chunks, b"")
            compressor = Compressor(self._encoding) if self._encoding else None
            await self._send(send, self._start())
            await self._send_chunk(send, first, compressor)
            async for chunk in self._chunks:
                await self._send_chunk(send, chunk, compressor)
            await self._send(send, _body(await compressor.finish() if compressor else b"", more=False))
        finally:
            self._closing = True
            await self._chunks.aclose()

    async def _send_chunk(self, send: Send, chunk: bytes, compressor: Compressor | None) -> None:
        body = await compressor.compress(chunk) if compressor else chunk
        if body:
            await self._send(send, _body(body))

    async def _send(self, send: Send, message: Message) -> None:
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(self._patience_seconds):
                await send(message)
        except TimeoutError:
            raise SlowClientError from None
        size = len(message.get("body", b""))
        self._sent_bytes += size
        patience = self._patience
        most = patience.max_seconds if self._sent_bytes > BUFFERED_BYTES else patience.initial_seconds
        left = self._patience_seconds - (time.monotonic() - started_at) + size / patience.bytes_per_second
        self._patience_seconds = min(left, most)

    async def _end(self, scope: Scope, pump: asyncio.Task[None], watch: asyncio.Task[None]) -> None:
        await asyncio.wait({pump, watch})
        end = _how_it_ended(pump, watch)
        if end is StreamEnd.TOO_SLOW:
            _abort(scope)
        if self._on_end:
            await self._on_end(end)

    def _start(self) -> Message:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}


def json_response(body: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers=headers, media_type="application/json")


def attachment_headers(filename: str) -> dict[str, str]:
    return {"Content-Disposition": attachment(filename)}


def compressible_stream(
    request: Request,
    chunks: AsyncGenerator[bytes, None],
    *,
    filename: str,
    media_type: str,
    on_end: Callable[[StreamEnd], Awaitable[None]],
) -> ChunkedStream:
    """A download that the client gets in the encoding it prefers."""
    headers = attachment_headers(filename) | {"Vary": "Accept-Encoding"}
    return ChunkedStream(chunks, media_type=media_type, headers=headers, on_end=on_end, encoding=negotiate(request))


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end, however often that is cancelled meanwhile; then raise the cancellation."""
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
    """Whether the server knows that the connection is aborted: else a response that ends early is an error to it."""
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
    return StreamEnd.TOO_SLOW if isinstance(error, SlowClientError) else StreamEnd.FAILED


def _abort(scope: Scope) -> None:
    if abort := scope.get("extensions", {}).get(ABORT):
        abort()

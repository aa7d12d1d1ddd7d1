"""Streams that end as they really ended, and downloads under a safe name."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.attachments import attachment

# Without it the kernel buffers megabytes and reports progress in steps of one: a client at 20 kB/s then looks stalled
# for more than a minute, with it for 7 seconds.
UNSENT_BYTES = 64 * 1024
ABORT = "carryout.abort"


@dataclass(frozen=True)
class Patience:
    """How long a client may make us wait: at first `initial_seconds`; what it takes earns it more, up to `max_seconds`.

    By the defaults a client that reads nothing is cut after 70 s (its buffers take 320 kB), one slower than 8 KiB/s
    within minutes. The maximum is for those who read in bursts: curl 7.88 with `--limit-rate 20k` takes 2 MB and then
    nothing for 101 s. Waiting for rows doesn't count.
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


class SlowClientError(Exception):
    """The client took too little for too long; its connection is cut."""


class ChunkedStream(Response):
    """A response made of chunks that arrive one by one.

    The first chunk is awaited before anything is sent, so that an early failure can still be answered; a later one is
    raised again and the server breaks the connection. Owns `chunks`: iterates and closes them in one task, and lets
    their clean-up finish whatever is cancelled meanwhile. After that `on_end` is awaited, once; if it raises, so does
    the response. HEAD gets the headers only: nothing is iterated and `on_end` isn't called.
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
    ) -> None:
        self.status_code = status_code
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)
        self._chunks = chunks
        self._on_end = on_end
        self._patience = patience
        self._patience_seconds = patience.initial_seconds
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
            await _finish(self._end(scope, pump, watch))
        for task in (pump, watch):
            if not task.cancelled():
                task.result()

    async def _pump(self, send: Send) -> None:
        try:
            first = await anext(self._chunks, b"")
            await self._send(send, self._start())
            await self._send(send, _body(first))
            async for chunk in self._chunks:
                await self._send(send, _body(chunk))
            await self._send(send, _body(b"", more=False))
        finally:
            self._closing = True
            await self._chunks.aclose()

    async def _send(self, send: Send, message: Message) -> None:
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(self._patience_seconds):
                await send(message)
        except TimeoutError:
            raise SlowClientError from None
        earned = len(message.get("body", b"")) / self._patience.bytes_per_second
        left = self._patience_seconds - (time.monotonic() - started_at) + earned
        self._patience_seconds = min(left, self._patience.max_seconds)

    async def _end(self, scope: Scope, pump: asyncio.Task[None], watch: asyncio.Task[None]) -> None:
        await asyncio.wait({pump, watch})
        end = _how_it_ended(pump, watch)
        if end is StreamEnd.TOO_SLOW:
            _abort(scope)
        if self._on_end:
            await self._on_end(end)

    def _start(self) -> Message:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}


class StreamingProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=StreamingProtocol)`: notices a slow client in time, and lets its connection be aborted.

    uvicorn itself only closes, and a closed connection stays open until the client has read what is buffered.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the parent
        super().connection_made(transport)
        with suppress(OSError):  # a Unix socket has no such options
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            # asyncio sets it only for listeners it made itself; without it the first chunk waits 40 ms for an ACK.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item] # an ASGI extension of ours


def attachment_headers(filename: str) -> dict[str, str]:
    return {"Content-Disposition": attachment(filename)}


def _body(chunk: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": more}


async def _watch(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _how_it_ended(pump: asyncio.Task[None], watch: asyncio.Task[None]) -> StreamEnd:
    if pump.cancelled():
        gone = not watch.cancelled() and watch.exception() is None
        return StreamEnd.CLIENT_GONE if gone else StreamEnd.FAILED
    if (error := pump.exception()) is None:
        return StreamEnd.COMPLETE
    return StreamEnd.TOO_SLOW if isinstance(error, SlowClientError) else StreamEnd.FAILED


async def _finish(work: Coroutine[Any, Any, None]) -> None:
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


def _abort(scope: Scope) -> None:
    if abort := scope.get("extensions", {}).get(ABORT):
        abort()

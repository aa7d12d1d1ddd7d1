"""HTTP/1.1 on the wire: what uvicorn leaves open between a socket and a request."""

import asyncio
import socket
import struct
import uuid
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import structlog
from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.api.errors import MEDIA_TYPE, plain_problem

# Without it the kernel buffers megabytes and reports progress in steps of one: a client at 20 kB/s then looks stalled
# for more than a minute, with it for 7 seconds.
UNSENT_BYTES = 64 * 1024
# Longer than any stream's patience, which tells a slow client from one that reads in bursts.
STALLED_SECONDS = 150.0
USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
MAX_HEAD_BYTES = 32 * 1024
# Headers, parameters of the query, items of lists: reading thousands of them takes a tenth of a second, for everybody.
MAX_HEAD_PARTS = 500
SEPARATORS = b",;&"
MAX_WAITING = 32  # requests of one connection: in the bytes of one read could be thousands
REQUEST_SECONDS = 30.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # socket(7)
ABORT = "carryout.abort"

logger = structlog.get_logger()


class StreamingProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=StreamingProtocol)`: bounds what a request may take, in bytes, parts and time,
    and how many may wait for the one before.

    Notices a slow client in time and lets its connection be aborted: uvicorn itself only closes, and a closed
    connection stays open until the client has read what is buffered. Refuses what is no request with a problem
    (RFC 9457), where uvicorn answers in plain text. Takes no offer of another protocol: some clients (Java's, and
    `curl --http2`) offer HTTP/2 with every request, and uvicorn would take their bodies for that.
    """

    _head_bytes = 0
    _head_parts = 0
    _head_complete = False
    _silent_bytes = 0  # of which the parser has made nothing yet
    _refusal = HTTPStatus.BAD_REQUEST
    _deadline: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the parent
        super().connection_made(transport)
        with suppress(OSError):  # a Unix socket has no such options
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            # asyncio sets it only for listeners it made itself; without it the first chunk waits 40 ms for an ACK.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A client that takes nothing would keep its connection, and what waits for it, for ever: tcp(7) of Linux.
            if USER_TIMEOUT is not None:
                connection.setsockopt(socket.IPPROTO_TCP, USER_TIMEOUT, int(STALLED_SECONDS * 1000))
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        if self._answering and self._answering is not self.cycle:  # which the parent tells: the last that came
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_request()
        self._silent_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._read(memoryview(data))
        except HttpParserError:
            self._refuse(self._refusal)
        if self._silent_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        self._head_bytes = self._head_parts = self._silent_bytes = 0
        self._head_complete = False
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self._reset}  # type: ignore[dict-item] # an ASGI extension of ours

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Those behind a body count, but are none: proxies have judged the head alone (RFC 9110, section 6.5.1)."""
        self._count(name + b": " + value + b"\r\n")
        if not self._head_complete:
            super().on_header(name, value.rstrip(b" \t"))  # which is no part of it (RFC 9112, section 5)

    def on_headers_complete(self) -> None:
        self._head_complete = True
        super().on_headers_complete()
        if len(self.pipeline) > MAX_WAITING:
            raise ValueError("The parser ends with it, and so does the connection")

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._stop_waiting()
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _should_upgrade(self) -> bool:
        """Makes the parent pass over a head that `_read` gives the parser again, without its offer."""
        return self.parser.get_method() != b"CONNECT"

    def _read(self, data: memoryview) -> None:
        """The parser stops behind a head that offers another protocol; behind the same one without, it goes on."""
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self.parser.feed_data(self._head_without_offer())
            else:
                return

    def _head_without_offer(self) -> bytes:
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = (b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
        return b"".join([line, *fields, b"\r\n"])

    def _count(self, part: bytes) -> None:
        self._silent_bytes = 0
        self._head_bytes += len(part)
        self._head_parts += 1 + sum(map(part.count, SEPARATORS))
        if self._head_bytes > MAX_HEAD_BYTES or self._head_parts > MAX_HEAD_PARTS:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("The parser ends with it, as an HttpParserError")

    def _await_request(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _reset(self) -> None:
        """Close at once. Without SO_LINGER the kernel would go on, for minutes, to offer what it has not yet sent."""
        with suppress(OSError):
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def _refuse(self, status: HTTPStatus) -> None:
        if self.cycle and not self.cycle.response_complete:
            self._reset()  # an answer now would land inside the one that is running
            return
        request_id = uuid.uuid4().hex
        body = plain_problem(status, REFUSALS[status], request_id)
        logger.warning("request_refused", status=status, request_id=request_id)
        head = (
            f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
            f"X-Content-Type-Options: nosniff\r\nX-Request-ID: {request_id}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()


REFUSALS = {
    HTTPStatus.BAD_REQUEST: "This is not a valid HTTP/1.1 request",
    HTTPStatus.REQUEST_TIMEOUT: f"The request did not arrive within {REQUEST_SECONDS:.0f} seconds",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        f"The request's line and headers exceed {MAX_HEAD_BYTES} bytes, "
        f"or {MAX_HEAD_PARTS} headers, parameters and items of lists"
    ),
}

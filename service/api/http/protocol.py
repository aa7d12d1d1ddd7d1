"""An HTTP/1.1 protocol for uvicorn, with caps and timeouts for the bytes before a request reaches the app."""

import asyncio
import re
import socket
import struct
import uuid
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import structlog
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.api.http.problems import MEDIA_TYPE, plain_problem

# The cap of unsent bytes in the kernel. Without it, the kernel buffers megabytes and reports progress in steps of one
# megabyte: a client at 20 kB/s seems to stall for more than a minute. With it, for 7 seconds.
UNSENT_BYTES = 64 * 1024
# Longer than a stream's patience, which distinguishes a slow client from one that reads in bursts.
STALLED_SECONDS = 150.0
USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
MAX_HEAD_BYTES = 32 * 1024
# Headers, parameters of the query, items of lists: thousands of them block the event loop for a tenth of a second.
MAX_HEAD_PARTS = 500
SEPARATORS = b",;&"
VERSIONS = {"1.0", "1.1"}
MAX_WAITING = 32  # requests of one connection: in the bytes of one read could be thousands
REQUEST_SECONDS = 30.0
REQUEST_LINE = re.compile(rb"\S+ \S+ HTTP/\d\.\d\r?\n")
ABSOLUTE = re.compile(rb"https?://(?P<authority>[^/?@]*)(?:[/?].*)?", re.IGNORECASE | re.DOTALL)
# RFC 3986's host and port; nothing, for a target without an authority.
HOST = re.compile(rb"(?:\[[0-9a-f:.]+\]|[\w.~!$&'()*+,;=%-]*)(?::\d*)?", re.IGNORECASE)
EMPTY_LINE = b"\n\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # socket(7)
ABORT = "carryout.abort"

logger = structlog.get_logger()


class StreamingProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=StreamingProtocol)`: caps a request's bytes, parts and time, and pipelined requests.

    Notices a slow client in time and lets its connection be aborted: uvicorn itself only closes, and a closed
    connection stays open until the client has read what is buffered. Refuses invalid requests with a problem
    (RFC 9457), where uvicorn answers in plain text. Takes no offer of another protocol: some clients (Java's, and
    `curl --http2`) offer HTTP/2 with every request, and uvicorn would take their bodies for that.
    """

    _head_bytes = 0
    _head_parts = 0
    _head_complete = False
    _silent_bytes = 0  # not yet parsed into an event
    _line = b""  # the request line, as far as it has arrived
    _line_complete = False
    _body_bytes: int | None = 0  # those to come; None in a chunked body
    _chunked_tail = b""
    _is_checked = True
    _refusal = HTTPStatus.BAD_REQUEST
    _deadline: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the parent
        super().connection_made(transport)
        with suppress(OSError):  # a Unix socket doesn't have these options
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            # asyncio sets it only for its own listeners. Without it the first chunk waits 40 ms for an ACK.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Otherwise a client that reads nothing keeps its connection and buffers for ever: tcp(7) of Linux.
            if USER_TIMEOUT is not None:
                connection.setsockopt(socket.IPPROTO_TCP, USER_TIMEOUT, int(STALLED_SECONDS * 1000))
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        if self._answering and self._answering is not self.cycle:  # the parent notifies this one, the latest
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_request()
        self._silent_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            for piece in self._pieces(data):
                self._read(piece)
        except HttpParserError:
            self._refuse(self._refusal)
        if self._silent_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _pieces(self, data: bytes) -> Iterator[memoryview]:
        """The head by lines, and the body: the parser takes any number of spaces between a request line's words."""
        begin = 0
        while begin < len(data):
            self._is_checked = self._body_bytes == 0
            if self._body_bytes is None:
                end = self._find_chunked_end(data, begin)
            elif self._body_bytes:
                end = min(begin + self._body_bytes, len(data))
                self._body_bytes -= end - begin
            else:
                end = data.find(b"\n", begin) + 1 or len(data)
                self._check_line(data[begin:end])
            yield memoryview(data)[begin:end]
            begin = end

    def _find_chunked_end(self, data: bytes, begin: int) -> int:
        """Where the body may end: at an empty line, the first bytes of which may have come before."""
        seam = (self._chunked_tail + data[begin : begin + 2]).find(EMPTY_LINE)
        found = data.find(EMPTY_LINE, begin)
        ends = [found + len(EMPTY_LINE)] if found >= 0 else [len(data)]
        ends += [begin + seam + len(EMPTY_LINE) - len(self._chunked_tail)] if seam >= 0 else []
        self._chunked_tail = (self._chunked_tail + data[max(begin, min(ends) - 2) : min(ends)])[-2:]
        return min(ends)

    def _check_line(self, part: bytes) -> None:
        if self._line_complete:
            return
        self._line = (self._line + part).lstrip(b"\r\n")  # empty lines may come first (RFC 9112, section 2.2)
        self._line_complete = self._line.endswith(b"\n")
        if self._line_complete and not REQUEST_LINE.fullmatch(self._line):
            raise HttpParserError("The request line has other spaces")

    def on_message_begin(self) -> None:
        if not self._is_checked:
            raise ValueError("The parser found the end of the body before elsewhere, and this line is unchecked")
        self._head_bytes = self._head_parts = self._silent_bytes = 0
        self._head_complete = False
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self._reset}  # type: ignore[dict-item] # an ASGI extension of ours

    def on_url(self, url: bytes) -> None:
        self._count(url)
        if b"#" in url:  # the parser would drop the fragment; a proxy may keep it (RFC 9112, section 3.2)
            raise ValueError("httptools reports this as an HttpParserError")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count but drop trailers: proxies have checked the head only (RFC 9110, section 6.5.1)."""
        self._count(name + b": " + value + b"\r\n")
        if not self._head_complete:
            super().on_header(name, value.rstrip(b" \t"))  # not part of the value (RFC 9112, section 5)

    def on_headers_complete(self) -> None:
        self._head_complete = True
        self._check_framing()
        self._check_host()
        super().on_headers_complete()
        self._body_bytes = self._count_body()
        if len(self.pipeline) > MAX_WAITING:
            raise ValueError("Too many pipelined requests")

    def _check_framing(self) -> None:
        """The parser takes other versions, and other codings, which the body would keep (RFC 9112, section 6.1).

        It also takes CONNECT with a path, as the start of another protocol.
        """
        version = self.parser.get_http_version()
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        known = version in VERSIONS and self.parser.get_method() != b"CONNECT"
        if not known or (codings and (version, codings) != ("1.1", [b"chunked"])):
            raise ValueError("The parser ends with it, and so does the connection")

    def _check_host(self) -> None:
        """A proxy may route by one of two authorities (RFC 9112, section 3.2)."""
        hosts = [value for name, value in self.headers if name == b"host"]
        target = ABSOLUTE.fullmatch(self.url)
        if not all(map(HOST.fullmatch, hosts)) or not (target or self.url[:1] in {b"/", b"*"}):
            raise ValueError("The parser ends with it, and so does the connection")
        if target and any(host.lower() != target["authority"].lower() for host in hosts):
            raise ValueError("The parser ends with it, and so does the connection")

    def _count_body(self) -> int | None:
        lengths = [value for name, value in self.headers if name == b"content-length"]
        chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        return None if chunked else int(lengths[0] if lengths else 0)

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._line, self._line_complete = b"", False
        self._body_bytes, self._chunked_tail = 0, b""
        if not self.parser.should_upgrade():
            self._stop_waiting()
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _should_upgrade(self) -> bool:
        """Makes the parent ignore a head that `_read` feeds to a parser again, without its upgrade offer."""
        return True

    def _read(self, data: memoryview) -> None:
        """Feed the parser. It stops after a head with an upgrade offer, so that head is fed again without its offer.

        To a new parser: the old one ignores what follows a head with `Connection: close`.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as offer:
                data, head = data[offer.args[0] :], self._head_without_offer()
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as the parent does
                self.parser.feed_data(head)
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
            raise ValueError("httptools reports this as an HttpParserError")

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
        """Close at once. Without SO_LINGER the kernel would retransmit unsent bytes for minutes."""
        with suppress(OSError):
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def _refuse(self, status: HTTPStatus) -> None:
        if self.cycle and not self.cycle.response_complete:
            self._reset()  # an answer now would end up inside the running response
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

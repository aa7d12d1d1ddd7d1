"""Middleware for every request, as pure ASGI: Starlette's BaseHTTPMiddleware makes a broken stream look complete.

RequestMiddleware must wrap BodyLimitMiddleware, because it renders the errors of that middleware.
"""

import asyncio
import re
import time
import uuid
from http import HTTPMethod, HTTPStatus

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.problems import error_response
from service.api.http.requests import client_ip
from service.errors import InvalidRequestError, UnavailableError
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Span, Tracer, trace_id_of

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# No route of this service needs percent-encoding. A normalized path has no dot segments (RFC 3986, section 6.2.2).
PLAIN_PATH = re.compile(rb"/|(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)+/?")
NOT_PLAIN = (
    "The path must be in its plain form: letters, digits and -._~ between single slashes, without percent-encoding "
    "and without the segments . and .."
)
DEFAULT_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Another site must not control a window that shows our page, and must not embed our responses.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "private, no-store",
}
UNMATCHED = "(unmatched)"
PROBES = frozenset({"/livez", "/readyz", "/metrics"})

logger = structlog.get_logger()


class RequestMiddleware:
    """Gives the request its id, answers unhandled errors, adds default headers, and counts, traces and logs it.

    Sets `request.state.request_id` and `request.state.traceparent` (of this request's span, else the client's, else
    None). Binds the request's id and the trace's id as structlog context variables.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer, *, log_probes: bool = True) -> None:
        self.app = app
        self._metrics = metrics
        self._tracer = tracer
        self._log_probes = log_probes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        given = _traceparent(request.headers)
        with self._tracer.entry("HTTP", "server", given) as span:
            exchange = _Exchange(send, _identify(request, span.traceparent or given))
            try:
                await self._respond(request, receive, exchange)
            finally:
                duration_seconds = time.perf_counter() - exchange.started_at
                self._metrics.requests.labels(*_labels(scope, exchange)).observe(duration_seconds)
                _describe(span, scope, exchange)
                if self._log_probes or not _is_good_probe(scope, exchange):
                    _log(request, exchange, duration_seconds)

    async def _respond(self, request: Request, receive: Receive, exchange: "_Exchange") -> None:
        try:
            _check_unambiguous(request)
            await self.app(request.scope, receive, exchange.send)
        except (Exception, asyncio.CancelledError) as error:
            if exchange.status is not None:
                raise  # uvicorn then cuts the connection: a response that has begun can't report an error otherwise
            if isinstance(error, asyncio.CancelledError):  # uvicorn is stopping, and would answer 500 itself
                error = UnavailableError("Shutting down", retry_after_seconds=1)
            if not isinstance(error, ClientDisconnect):
                response = await error_response(request, error)
                await response(request.scope, receive, exchange.send)


class _Exchange:
    """The response sent to one request."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.started_at = time.perf_counter()
        self.status: int | None = None
        self.bytes_sent = 0
        self.complete = False

    @property
    def outcome(self) -> str:
        return "complete" if self.complete else "aborted"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message.setdefault("headers", [])  # optional in ASGI
            headers = MutableHeaders(scope=message)
            for name, value in DEFAULT_HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-ID"] = self._request_id
        await self._send(message)
        if message["type"] == "http.response.body":
            self.bytes_sent += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)


def _check_unambiguous(request: Request) -> None:
    """Refuse a request that a proxy in front may have interpreted differently.

    By RFC 3986 `/%6detrics` is `/metrics`, but it would get past a proxy's rule that compares strings. A request must
    have one `Host` (RFC 9112, section 3.2).
    """
    if not PLAIN_PATH.fullmatch(request.scope["raw_path"]):
        raise InvalidRequestError(NOT_PLAIN)
    hosts = len(request.headers.getlist("Host"))
    if hosts > 1 or (not hosts and request.scope["http_version"] == "1.1"):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "A request must have exactly one Host header")
    for name in ("Authorization", "X-API-Key"):
        if len(request.headers.getlist(name)) > 1:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"A request must have at most one {name} header")


def _identify(request: Request, traceparent: str | None) -> str:
    given = request.headers.get("X-Request-ID", "")
    request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    trace_id = trace_id_of(traceparent)
    request.state.request_id = request_id
    request.state.traceparent = traceparent
    structlog.contextvars.clear_contextvars()  # a pipelined request inherits the context of the request before it
    structlog.contextvars.bind_contextvars(request_id=request_id, **({"trace_id": trace_id} if trace_id else {}))
    return request_id


def _traceparent(headers: Headers) -> str | None:
    match headers.getlist("traceparent"):
        case [single] if trace_id_of(single):
            return single
        case _:
            return None


def _labels(scope: Scope, exchange: _Exchange) -> tuple[str, str, str]:
    method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "other"
    return method, _template(scope) or "unmatched", str(exchange.status or "none")


def _describe(span: Span, scope: Scope, exchange: _Exchange) -> None:
    """Set attributes by OpenTelemetry's conventions for HTTP, without path and query: they may hold a signed link."""
    known = scope["method"] in HTTPMethod.__members__
    method = scope["method"] if known else "HTTP"
    span.rename(f"{method} {_path(scope)}" if _template(scope) else method)
    attributes = {
        "http.request.method": method if known else "_OTHER",
        "url.scheme": scope["scheme"],
        "http.response.body.size": _bytes_sent(scope, exchange),
        "carryout.outcome": exchange.outcome,
    }
    if _template(scope):
        attributes["http.route"] = _path(scope)
    if exchange.status is not None:
        attributes["http.response.status_code"] = exchange.status
        if exchange.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span.fail(str(exchange.status))
    span.set(attributes)


def _is_good_probe(scope: Scope, exchange: _Exchange) -> bool:
    return _template(scope) in PROBES and exchange.status == HTTPStatus.OK and exchange.complete


def _log(request: Request, exchange: _Exchange, duration_seconds: float) -> None:
    logger.info(
        "request",
        method=request.method,
        path=_path(request.scope),
        status=exchange.status,
        duration_ms=round(duration_seconds * 1000, 1),
        bytes_sent=_bytes_sent(request.scope, exchange),
        client_ip=client_ip(request),
        outcome=exchange.outcome,
    )


def _bytes_sent(scope: Scope, exchange: _Exchange) -> int:
    return 0 if scope["method"] == "HEAD" else exchange.bytes_sent


def _path(scope: Scope) -> str:
    """The template of the matched route. The path itself is never logged: it may contain a signed link."""
    template = _template(scope)
    return UNMATCHED if template is None else f"{scope.get('root_path', '')}{template}"


def _template(scope: Scope) -> str | None:
    template: str | None = getattr(scope.get("route"), "path_format", None)
    return template

"""Errors as RFC 9457 problems.

A problem with a specific meaning has a type `urn:carryout:problem:…`. The type is part of the contract: clients use it
to distinguish problems with the same status. Other problems have the type `about:blank` (RFC 9457, 4.2.1).
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ExceptionHandler

from service import errors
from service.api.http.problem_pages import error_page, prefers_html

TYPE_PREFIX = "urn:carryout:problem:"
MEDIA_TYPE = "application/problem+json"

logger = structlog.get_logger()


class Problem(NamedTuple):
    status: int
    type: str
    title: str


def _problem(status: int, name: str, title: str) -> Problem:
    return Problem(status, TYPE_PREFIX + name, title)


def _plain(status: int) -> Problem:
    return Problem(status, "about:blank", HTTPStatus(status).phrase)


ERROR_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Vary": "Accept"}

INTERNAL_ERROR = _plain(500)
UNEXPECTED = errors.ServiceError("The request failed; the service's log says why")

PROBLEMS: Mapping[type[errors.ServiceError], Problem] = {
    errors.InvalidRequestError: _problem(400, "invalid-request", "Invalid request"),
    errors.AuthenticationError: _problem(401, "authentication", "Authentication required"),
    errors.TokenTooLargeError: _problem(431, "token-too-large", "Token too large"),
    errors.PermissionDeniedError: _problem(403, "permission-denied", "Permission denied"),
    errors.ExportNotFoundError: _problem(404, "export-not-found", "Export not found"),
    errors.SubjectNotFoundError: _problem(404, "subject-not-found", "User not found"),
    errors.ExportInProgressError: _problem(409, "export-in-progress", "Export in progress"),
    errors.ExportNotReadyError: _problem(409, "export-not-ready", "Export not ready"),
    errors.ExportSupersededError: _problem(409, "export-superseded", "Export superseded"),
    errors.EntrySupersededError: _problem(409, "entry-superseded", "Entry superseded"),
    errors.ExportGoneError: _problem(410, "export-gone", "Export gone"),
    errors.PreconditionFailedError: _problem(412, "precondition-failed", "Precondition failed"),
    errors.UnsupportedMediaTypeError: _problem(415, "unsupported-media-type", "Unsupported media type"),
    errors.RangeNotSatisfiableError: _problem(416, "range-not-satisfiable", "Range not satisfiable"),
    errors.InvalidValueError: _problem(422, "invalid-value", "Invalid value"),
    errors.ExportTooLargeError: _problem(422, "export-too-large", "Export too large"),
    errors.IdempotencyConflictError: _problem(422, "idempotency-conflict", "Idempotency key used twice"),
    errors.RateLimitedError: _problem(429, "rate-limited", "Too many requests"),
    # not 502: there is no upstream, and proxies retry or replace a 502
    errors.DocumentError: _problem(500, "document", "Document can't be finished"),
    errors.ConfigurationError: _problem(500, "configuration", "Service misconfigured"),
    errors.ServiceError: INTERNAL_ERROR,
    errors.UnavailableError: _problem(503, "unavailable", "Service unavailable"),
}


async def error_response(request: Request, error: Exception) -> Response:
    """The response to any exception. An unexpected one is logged with types and frames, and not described."""
    known = error if isinstance(error, errors.ServiceError | HTTPException) else UNEXPECTED
    problem = find_problem(known)
    if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
        known = _method_not_allowed(request)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("request_failed", status=problem.status, exc_info=error)
    return render_error(request, known)


def render_error(request: Request, error: errors.ServiceError | HTTPException) -> Response:
    """A problem, or a page for browsers. It logs nothing."""
    problem, headers = find_problem(error), problem_headers(error)
    if prefers_html(request):
        return error_page(request, problem.status, error.detail, {**ERROR_HEADERS, **headers})
    fields = error.fields if isinstance(error, errors.ServiceError) else {}
    return problem_response(request, problem, error.detail, headers=headers, fields=fields)


exception_handlers: Mapping[type[Exception], ExceptionHandler] = {
    errors.ServiceError: error_response,
    HTTPException: error_response,
}
"""For `Starlette(exception_handlers=…)`. RequestMiddleware catches other exceptions: Starlette would answer them
outside of all middleware, without a request id."""


def problem_response(
    request: Request,
    problem: Problem,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    fields: Mapping[str, object] | None = None,
) -> Response:
    """A problem as a response. `fields` never replace the members of every problem."""
    body = problem_members(problem, detail, request.scope.get("state", {}).get("request_id"), fields)
    return Response(
        msgspec.json.encode(body),
        problem.status,
        headers={**ERROR_HEADERS, **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def plain_problem(status: HTTPStatus, detail: str, request_id: str) -> bytes:
    """The body of a response to bytes that aren't a valid request."""
    return msgspec.json.encode(problem_members(_plain(status), detail, request_id))


def problem_members(
    problem: Problem, detail: str, request_id: str | None, fields: Mapping[str, object] | None = None
) -> dict[str, object]:
    return {
        **(fields or {}),
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "status_code": problem.status,
        "request_id": request_id,
    }


def find_problem(error: errors.ServiceError | HTTPException) -> Problem:
    if isinstance(error, HTTPException):
        return _plain(error.status_code)
    return next(PROBLEMS[parent] for parent in type(error).__mro__ if parent in PROBLEMS)


def _method_not_allowed(request: Request) -> HTTPException:
    """A 405 with the methods of all routes that share the path; Starlette names only those of the first route."""
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in matching if route.path == matching[0].path for method in route.methods}
    allowed = ", ".join(sorted(methods))
    return HTTPException(405, f"Method not allowed; this address supports {allowed}", headers={"Allow": allowed})


def problem_headers(error: errors.ServiceError | HTTPException) -> Mapping[str, str]:
    match error:
        case errors.AuthenticationError():
            return {"WWW-Authenticate": "Bearer"}
        case errors.RateLimitedError() | errors.UnavailableError():
            return {"Retry-After": str(error.retry_after_seconds)}
        case errors.RangeNotSatisfiableError():
            return {"Content-Range": f"bytes */{error.size_bytes}"}
        case HTTPException():
            return error.headers or {}
        case _:
            return {}

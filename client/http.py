"""HTTP requests, and the errors for failed ones."""

import re
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated, TypeAlias, TypeVar

import aiohttp
import msgspec
from yarl import URL

from client.errors import ClientError, IncompleteError, InProgressError, NotAuthorisedError, RefusedError, TooLargeError
from client.retries import MAX_RETRY_AFTER_SECONDS
from client.words import gettext, ngettext, records

CONNECT_SECONDS = 10
SILENCE_SECONDS = 60
MAX_REDIRECTS = 5
MAX_ERROR_BYTES = 64 * 1024
URL_CHARACTERS = re.compile(r"[\x21-\x7e]*")  # RFC 3986 has fewer; others break the request's line
REDIRECTS = frozenset({301, 302, 303, 307, 308})
UNAVAILABLE = frozenset({429, 502, 503, 504})
IN_PROGRESS = "urn:carryout:problem:export-in-progress"
TOO_LARGE = "urn:carryout:problem:export-too-large"

T = TypeVar("T")
Amount: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A number that another server names: Babel writes no longer ones than 28 digits."""


class Range(msgspec.Struct, frozen=True):
    """A part of the data that fits."""

    start: str | None = msgspec.field(name="from", default=None)
    end: str | None = msgspec.field(name="to", default=None)
    record_count: Amount = 0

    def __str__(self) -> str:
        options = [f"--from {self.start}"] if self.start else []
        options += [f"--to {self.end}"] if self.end else []
        return f"{' '.join(options)} ({records(self.record_count)})"


class Problem(msgspec.Struct, frozen=True):
    """The members of an RFC 9457 problem that the client uses."""

    detail: str
    type: str = "about:blank"
    request_id: str | None = None
    job_id: str | None = None
    suggestion: str | None = None
    ranges: tuple[Range, ...] = ()


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    async with aiohttp.ClientSession(
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"carryout/{version('carryout')}"},
    ) as session:
        yield session


@asynccontextmanager
async def open_answer(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    *,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, object] | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send a request and open its answer, without following redirects. Raises a ClientError for an error status.

    A connection that breaks while the caller reads the answer raises IncompleteError, too.
    """
    with _network_errors(url):
        async with session.request(
            method, url, headers=headers, json=body, allow_redirects=False, proxy=_find_proxy(url)
        ) as response:
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise _refusal(response, await read_body(response, max_bytes=MAX_ERROR_BYTES))
            yield response


@asynccontextmanager
async def follow(
    session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str]
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer after all redirects. Each target gets `headers`, so they must not hold credentials."""
    for _ in range(MAX_REDIRECTS + 1):
        async with open_answer(session, "GET", url, headers=headers) as response:
            if response.status not in REDIRECTS:
                yield response
                return
            url = safe_target(url, response.headers.get("Location", ""))
    sentence = ngettext(
        "More than %(number)s redirect, the last to %(host)s",
        "More than %(number)s redirects, the last to %(host)s",
        MAX_REDIRECTS,
        host=url.host,
    )
    raise RefusedError(sentence)


def safe_target(base: URL, reference: str) -> URL:
    """Resolve `reference` against `base`. Raises RefusedError if the scheme changes, except from http to https."""
    invalid = RefusedError(gettext("%(host)s refers to an invalid URL", host=base.host))
    if not URL_CHARACTERS.fullmatch(reference):
        raise invalid
    try:
        target = base.join(URL(reference, encoded=True))  # the signature covers these exact bytes
        host, _port = target.host, target.port  # yarl checks both only on access
    except ValueError:
        raise invalid from None
    if target.scheme not in {base.scheme, "https"} or not host:
        origin = f"{target.scheme}://{host}"
        sentence = gettext(
            "%(host)s refers to %(target)s, which the client doesn't follow", host=base.host, target=origin
        )
        raise RefusedError(sentence)
    return target


def require_framing(response: aiohttp.ClientResponse) -> None:
    """Refuse an answer delimited by the end of the connection: a complete one and a broken one look the same."""
    if not response.headers.keys() & {"Content-Length", "Transfer-Encoding"}:
        sentence = gettext("A proxy removed the length of the answer, so the client can't verify that it is complete")
        raise RefusedError(sentence)


async def read_body(response: aiohttp.ClientResponse, *, max_bytes: int) -> bytes:
    """Read at most `max_bytes`: Carryout's bodies are shorter, and another server's may be endless."""
    body = bytearray()
    while len(body) < max_bytes and (chunk := await response.content.read(max_bytes - len(body))):
        body += chunk
    return bytes(body)


def decode(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (ValueError, RecursionError):  # not every text that isn't UTF-8 is a DecodeError
        raise RefusedError(gettext("The answer is not Carryout's: check --url")) from None


@contextmanager
def _network_errors(url: URL) -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        reason = getattr(error.certificate_error, "verify_message", error.certificate_error)
        sentence = gettext("The certificate of %(host)s isn't trusted: %(reason)s", host=url.host, reason=reason)
        raise RefusedError(sentence) from None
    except aiohttp.ClientConnectorSSLError as error:
        reason = str(getattr(error.os_error, "reason", "")).replace("_", " ").lower()
        host = f"{url.host}:{url.port}"
        sentence = gettext("%(host)s doesn't speak TLS (%(reason)s): does it need http://?", host=host, reason=reason)
        raise RefusedError(sentence) from None
    except aiohttp.ClientHttpProxyError as error:
        kind = IncompleteError if error.status in UNAVAILABLE else RefusedError
        answer = f"{error.status} {error.message}"
        sentence = gettext("The proxy on the way to %(host)s answered %(answer)s", host=url.host, answer=answer)
        raise kind(sentence) from None
    except aiohttp.ClientProxyConnectionError as error:
        reason = error.strerror or error.os_error
        sentence = gettext(
            "Can't connect to the proxy on the way to %(host)s: %(reason)s", host=url.host, reason=reason
        )
        raise IncompleteError(sentence) from None
    except aiohttp.ClientConnectorError as error:
        reason = error.strerror or error.os_error
        sentence = gettext("Can't connect to %(host)s: %(reason)s", host=url.host, reason=reason)
        raise IncompleteError(sentence) from None
    except TimeoutError:
        raise IncompleteError(gettext("%(host)s doesn't answer", host=url.host)) from None
    except aiohttp.ClientError:
        raise IncompleteError(gettext("The connection to %(host)s broke", host=url.host)) from None


def _find_proxy(url: URL) -> str | None:
    """The proxy from the usual variables. aiohttp's `trust_env` would also send credentials from ~/.netrc."""
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy is None or urllib.request.proxy_bypass(url.host or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> ClientError:
    problem = _read_problem(response, body)
    detail, request_id = problem.detail, problem.request_id
    wait_seconds = retry_after_seconds(response)
    if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return NotAuthorisedError(detail, request_id=request_id)
    if problem.type == IN_PROGRESS:
        return InProgressError(detail, job_id=problem.job_id, request_id=request_id)
    if problem.type == TOO_LARGE:
        return TooLargeError(detail, suggestion=_advice(problem), request_id=request_id)
    if response.status == HTTPStatus.TOO_MANY_REQUESTS and wait_seconds > MAX_RETRY_AFTER_SECONDS:
        seconds = f"{wait_seconds:.0f}"
        sentence = gettext("%(sentence)s; try again in %(seconds)s s", sentence=detail, seconds=seconds)
        return RefusedError(sentence, request_id=request_id)
    if response.status in UNAVAILABLE:
        return IncompleteError(detail, retry_after_seconds=wait_seconds, request_id=request_id)
    return RefusedError(detail, request_id=request_id)


def _advice(problem: Problem) -> str | None:
    if not problem.ranges:
        return problem.suggestion
    return f"{problem.suggestion}: {', '.join(map(str, problem.ranges))}"


def _read_problem(response: aiohttp.ClientResponse, body: bytes) -> Problem:
    if response.content_type == "application/problem+json":
        return decode(body, Problem)
    answer = f"{response.status} {response.reason}"
    return Problem(gettext("%(host)s answered %(answer)s", host=response.url.host, answer=answer))


def retry_after_seconds(response: aiohttp.ClientResponse) -> float:
    """The header Retry-After, 0 if it is missing or a date, which Carryout doesn't send."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0

"""Requests, and what becomes of those that go wrong."""

import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import TypeVar

import aiohttp
import msgspec
from yarl import URL

from client.errors import ClientError, IncompleteError, InProgressError, NotAuthorisedError, RefusedError, TooLargeError
from client.retries import MAX_RETRY_AFTER_SECONDS

CONNECT_SECONDS = 10
SILENCE_SECONDS = 60
MAX_REDIRECTS = 5
MAX_ERROR_BYTES = 64 * 1024
REDIRECTS = frozenset({301, 302, 303, 307, 308})
UNAVAILABLE = frozenset({429, 502, 503, 504})
IN_PROGRESS = "urn:carryout:problem:export-in-progress"
TOO_LARGE = "urn:carryout:problem:export-too-large"

T = TypeVar("T")


class Problem(msgspec.Struct, frozen=True):
    """What the client reads of an RFC 9457 problem."""

    detail: str
    type: str = "about:blank"
    request_id: str | None = None
    job_id: str | None = None
    suggestion: str | None = None


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
    body: Mapping[str, str] | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer that is no error; redirects aren't followed. Raises what the server's refusal means.

    What breaks while the answer is read inside is an IncompleteError, too.
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
    """The answer at the end of the redirects, each of which gets `headers`: no credentials may be among them."""
    for _ in range(MAX_REDIRECTS + 1):
        async with open_answer(session, "GET", url, headers=headers) as response:
            if response.status not in REDIRECTS:
                yield response
                return
            url = safe_target(url, response.headers.get("Location", ""))
    raise RefusedError(f"More than {MAX_REDIRECTS} redirects, the last to {url.host}")


def safe_target(base: URL, reference: str) -> URL:
    """Where `reference` leads from `base`. Raises RefusedError if that is another scheme, but for http to https."""
    try:
        target = base.join(URL(reference, encoded=True))  # its signature holds for these very bytes
    except ValueError:
        raise RefusedError(f"{base.host} refers to what is no URL") from None
    if target.scheme not in {base.scheme, "https"} or not target.host:
        raise RefusedError(f"{base.host} refers to {target.scheme}://{target.host}, which is not followed")
    return target


def require_framing(response: aiohttp.ClientResponse) -> None:
    """Refuse an answer that ends with its connection: its end would look like a break, and the other way round."""
    if not response.headers.keys() & {"Content-Length", "Transfer-Encoding"}:
        raise RefusedError("A proxy took the length off the answer: nobody could tell whether it is complete")


async def read_body(response: aiohttp.ClientResponse, *, max_bytes: int) -> bytes:
    """The first `max_bytes` of it at most: Carryout's are shorter, and another server's may have no end."""
    body = bytearray()
    while len(body) < max_bytes and (chunk := await response.content.read(max_bytes - len(body))):
        body += chunk
    return bytes(body)


def decode(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.DecodeError:
        raise RefusedError("The answer is not Carryout's: is --url right?") from None


@contextmanager
def _network_errors(url: URL) -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        reason = getattr(error.certificate_error, "verify_message", error.certificate_error)
        raise RefusedError(f"The certificate of {url.host} is not to be trusted: {reason}") from None
    except aiohttp.ClientConnectorSSLError as error:
        reason = str(getattr(error.os_error, "reason", "")).replace("_", " ").lower()
        raise RefusedError(f"{url.host}:{url.port} speaks no TLS ({reason}): is it http:// there?") from None
    except aiohttp.ClientHttpProxyError as error:
        kind = IncompleteError if error.status in UNAVAILABLE else RefusedError
        raise kind(f"The proxy on the way to {url.host} answered {error.status} {error.message}") from None
    except aiohttp.ClientProxyConnectionError as error:
        reason = error.strerror or error.os_error
        raise IncompleteError(f"Can't connect to the proxy on the way to {url.host}: {reason}") from None
    except aiohttp.ClientConnectorError as error:
        raise IncompleteError(f"Can't connect to {url.host}: {error.strerror or error.os_error}") from None
    except TimeoutError:
        raise IncompleteError(f"{url.host} doesn't answer") from None
    except aiohttp.ClientError:
        raise IncompleteError(f"The connection to {url.host} broke") from None


def _find_proxy(url: URL) -> str | None:
    """By the usual variables. Not aiohttp's `trust_env`, which would send credentials out of ~/.netrc as well."""
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
        return TooLargeError(detail, suggestion=problem.suggestion, request_id=request_id)
    if response.status == HTTPStatus.TOO_MANY_REQUESTS and wait_seconds > MAX_RETRY_AFTER_SECONDS:
        return RefusedError(f"{detail}; try again in {wait_seconds:.0f} s", request_id=request_id)
    if response.status in UNAVAILABLE:
        return IncompleteError(detail, retry_after_seconds=wait_seconds, request_id=request_id)
    return RefusedError(detail, request_id=request_id)


def _read_problem(response: aiohttp.ClientResponse, body: bytes) -> Problem:
    if response.content_type == "application/problem+json":
        return decode(body, Problem)
    return Problem(f"{response.url.host} answered {response.status} {response.reason}")


def retry_after_seconds(response: aiohttp.ClientResponse) -> float:
    """0 where there is none; dates, which Carryout doesn't send, count as none."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0

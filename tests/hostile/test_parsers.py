"""Each parser of untrusted bytes returns a value or raises an error that we know."""

import ipaddress
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message

from service.access.api_keys import KeyRepository
from service.access.links import LinkSigner
from service.access.tokens import open_jwt_verifier
from service.api import downloads, exports
from service.api.http import middleware, problem_pages
from service.api.http.compression import negotiate
from service.api.http.proxies import ProxyMiddleware
from service.api.http.requests import idempotency_key, job_id_of, prefers, query_params, read_json
from service.bookkeeping.exports import Export
from service.errors import (
    AuthenticationError,
    ExportNotFoundError,
    InvalidRequestError,
    InvalidValueError,
    RangeNotSatisfiableError,
)
from service.formats import Format
from service.resources import Resources
from service.telemetry.tracing import trace_id_of
from tests.hostile.conftest import report
from tests.support.factories import Connection
from tests.support.tokens import SECRET, make_settings

SIZE = 1_000
SIGNER = LinkSigner([SECRET])
JOB = uuid.UUID(int=1)
LINK = SIGNER.sign(JOB, datetime(2026, 1, 1, tzinfo=UTC)).partition("&signature=")
KEY = "co_abcdefgh_" + "A" * 43
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# The fixtures hold no state that one example could spoil for the next.
FUZZ = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
tried: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _count(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    report(request, f"{tried.total()} hostile inputs, and no exception that isn't ours ({dict(tried)})")


def like(*examples: str) -> st.SearchStrategy[str]:
    """Latin-1 text, as a header can hold, and much of it made of valid pieces."""
    pieces = [piece for text in examples for piece in (text, text[: len(text) // 2], text[len(text) // 2 :])]
    noise = st.text(st.characters(codec="latin-1", exclude_characters="\0\r\n"), max_size=10)
    return st.lists(st.sampled_from([*pieces, ",", ";", "=", "-", " "]) | noise, max_size=8).map("".join)


def ask(name: str, *values: str, query: bytes = b"") -> Request:
    raw = [(name.lower().encode(), value.encode("latin-1")) for value in values]
    return Request({"type": "http", "method": "GET", "headers": raw, "query_string": query})


@FUZZ
@given(token=like("eyJhbGciOiJIUzI1NiJ9", ".", "e30", "eyJzdWIiOiIxIn0", "bnVsbA"))
@pytest.mark.slow
async def test_tokens(token: str) -> None:
    tried["token"] += 1
    async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET)) as verifier:
        with pytest.raises(AuthenticationError):
            await verifier.verify(token)


@FUZZ
@given(text=like(KEY, "co_", "_") | st.from_regex(r"co_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", fullmatch=True))
async def test_api_keys(database: Connection, text: str) -> None:
    tried["API key"] += 1
    assert await KeyRepository().find(database, text) is None


@FUZZ
@given(
    expires=like(LINK[0].removeprefix("expires="), "9", "0") | st.text(),
    signature=like(LINK[2], "A", "_") | st.text(),
)
def test_links(expires: str, signature: str) -> None:
    tried["link"] += 1
    if (f"expires={expires}", signature) != (LINK[0], LINK[2]):
        with pytest.raises(ExportNotFoundError):
            SIGNER.verify(JOB, expires, signature)


@FUZZ
@given(query=like("format=csv", "email=a%40b", "&", "%", "%00", "%ff", "+").map(str.encode) | st.binary(max_size=50))
def test_queries(query: bytes) -> None:
    tried["query"] += 1
    try:
        given_ = query_params(ask("x", query=query), {"format", "email"})
    except InvalidRequestError:
        return
    assert given_.keys() <= {"format", "email"}
    assert "\0" not in "".join(given_.values())


@FUZZ
@given(
    body=st.binary(max_size=60)
    | like('{"format":"csv"}', '{"format":', '"csv"', "[", "{", "}", "\\u0000", "\\ud800", "1e999").map(str.encode)
)
async def test_bodies(body: bytes) -> None:
    tried["body"] += 1

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    try:
        read = await read_json(Request(scope, receive), exports.CreateExport, wanted=exports.WANTED_BODY)
    except (InvalidRequestError, InvalidValueError):
        return
    assert read.format in Format


@FUZZ
@given(
    wanted=like("bytes=0-99", "bytes=", "-", "999", "99999999999999999999", "\xb2"),
    condition=st.none() | like('"' + "ab" * 32 + '"', 'W/"a"', "*", "Wed, 21 Oct 2026 07:28:00 GMT"),
)
def test_ranges(file: Export, wanted: str, condition: str | None) -> None:
    tried["Range"] += 1
    headers = [(b"range", wanted.encode("latin-1"))]
    if condition is not None:
        headers.append((b"if-range", condition.encode("latin-1")))
    try:
        slice_ = downloads._slice(Request({"type": "http", "headers": headers}), file)
    except RangeNotSatisfiableError:
        return
    assert 0 <= slice_.first <= slice_.last < SIZE
    assert slice_.partial or (slice_.first, slice_.last) == (0, SIZE - 1)


@pytest.fixture(scope="module")
def file() -> Export:
    facts = {field.name: None for field in msgspec.structs.fields(Export)}
    return Export(**facts | {"size_bytes": SIZE, "sha256": b"\xab" * 32})  # type: ignore[arg-type]


@FUZZ
@given(values=st.lists(like("gzip", "zstd;q=0.5", "identity;q=0", "*;q=", "1e9", "nan", "inf"), max_size=3))
def test_encodings(values: list[str]) -> None:
    tried["Accept-Encoding"] += 1
    encoding = negotiate(ask("Accept-Encoding", *values))
    assert encoding is None or any(name in ",".join(values).lower() for name in (encoding, "*"))
    assert negotiate(ask("Accept-Encoding", *values, "gzip;q=0", "zstd;q=0")) is None


@FUZZ
@given(values=st.lists(like("text/html;q=0.9", "*/*", "application/json", "q=1.000", "q=2"), max_size=3))
def test_media_types(values: list[str]) -> None:
    """No page without its name, nor to whom JSON is as dear; one to whom nothing else is. The last word counts."""
    tried["Accept"] += 1
    others = ("*/*;q=0", "application/json;q=0", "application/problem+json;q=0")
    assert "text/html" in ",".join(values).lower() or not problem_pages.prefers_html(ask("Accept", *values))
    assert not problem_pages.prefers_html(ask("Accept", *values, "application/json"))
    assert problem_pages.prefers_html(ask("Accept", *values, *others, "text/html;q=0.001"))


@FUZZ
@given(
    accept=like("application/openmetrics-text", "version=1.0.0", "escaping=allow-utf-8", "text/plain", "0.0.4", "\xb2")
)
async def test_metrics_formats(resources: Resources, accept: str) -> None:
    tried["Accept of a scrape"] += 1
    _, content_type = await resources.metrics.render(resources.database, accept)
    assert content_type.startswith(("text/plain", "application/openmetrics-text"))


@FUZZ
@given(values=st.lists(like(TRACEPARENT, "00-", "ff-", "0" * 32, "-01"), max_size=3))
def test_traceparents(values: list[str]) -> None:
    tried["traceparent"] += 1
    raw = [(b"traceparent", value.encode("latin-1")) for value in values]
    taken = middleware._traceparent(Headers(raw=raw))
    assert taken is None or ([taken] == values and trace_id_of(taken))


@FUZZ
@given(
    values=st.lists(like("203.0.113.7", "[2001:db8::1]:443", "10.0.0.9", "::ffff:", "1.2.3.4:5", "%eth0"), max_size=3)
)
def test_forwarded_addresses(values: list[str]) -> None:
    tried["X-Forwarded-For"] += 1
    scope = {**ask("X-Forwarded-For", *values).scope, "client": ("10.0.0.1", 1)}
    found = ProxyMiddleware(_nowhere, ["10.0.0.0/8"])._find_client(scope)
    assert ipaddress.ip_address(found)


async def _nowhere(*_asgi: object) -> None:
    raise AssertionError("it is never called")


@FUZZ
@given(
    prefer=like("respond-async", "wait=10", "return=minimal", '"', "\\"),
    key=like("a-key", "\x7f", "x" * 200),
)
def test_preferences_and_idempotency_keys(prefer: str, key: str) -> None:
    tried["Prefer"] += 1
    tried["Idempotency-Key"] += 1
    assert "respond-async" in prefer.lower() or not prefers(ask("Prefer", prefer), "respond-async")
    assert prefers(ask("Prefer", prefer, "respond-async"), "respond-async")
    try:
        accepted = idempotency_key(ask("Idempotency-Key", key))
    except InvalidRequestError:
        return
    assert accepted == key
    assert key.isascii()


@FUZZ
@given(text=like(str(JOB), str(JOB).upper(), "urn:uuid:", "{", "}") | st.text())
def test_job_ids(text: str) -> None:
    tried["job id"] += 1
    try:
        found = job_id_of(Request({"type": "http", "path_params": {"job_id": text}}))
    except ExportNotFoundError:
        return
    assert str(found) == text.lower()

"""Conditional requests (RFC 9110, 13): whether a client's copy is current, and whether its range is of this version."""

import datetime as dt
import re
from email.utils import format_datetime, parsedate_to_datetime
from typing import NamedTuple

from starlette.requests import Request

from service.errors import PreconditionFailedError

ENTITY_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class Version(NamedTuple):
    """The validators of the representation that a request would get: a strong entity tag, and perhaps a time."""

    etag: str
    modified_at: dt.datetime | None = None

    @property
    def headers(self) -> dict[str, str]:
        if self.modified_at is None:
            return {"ETag": self.etag}
        return {"ETag": self.etag, "Last-Modified": format_datetime(self.modified_at, usegmt=True)}


def version_of(etag: str, modified_at: dt.datetime | None) -> Version:
    """HTTP's times have no fractions of a second."""
    return Version(etag, modified_at and modified_at.astimezone(dt.UTC).replace(microsecond=0))


def is_current(request: Request, version: Version) -> bool:
    """Whether the client's copy is current, so that the answer is 304. Raises PreconditionFailedError.

    Call this when the answer would be a success otherwise; in the order of RFC 9110, 13.2.2.
    """
    if expected := request.headers.getlist("if-match"):
        if not _names(expected, version, weakly=False):
            raise PreconditionFailedError
    elif version.modified_at and (since := _time(request, "if-unmodified-since")) and version.modified_at > since:
        raise PreconditionFailedError
    if known := request.headers.getlist("if-none-match"):
        return _names(known, version, weakly=True)
    since = _time(request, "if-modified-since")
    return bool(version.modified_at and since and version.modified_at <= since)


def allows_range(request: Request, version: Version) -> bool:
    """Whether a range of this version is wanted: If-Range is absent, or names it exactly (RFC 9110, 13.1.5)."""
    given = request.headers.get("if-range")
    return given is None or given in version.headers.values()


def _names(lines: list[str], version: Version, *, weakly: bool) -> bool:
    """Whether the field names the version. A compressing proxy weakens our tags: a weak comparison ignores that."""
    text = ",".join(lines).strip()
    tags = ENTITY_TAG.findall(text)
    return text == "*" or any(tag == version.etag and (weakly or not weak) for weak, tag in tags)


def _time(request: Request, header: str) -> dt.datetime | None:
    """None for what isn't an HTTP date: the RFC demands to ignore it."""
    try:
        time = parsedate_to_datetime(request.headers.get(header, ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)

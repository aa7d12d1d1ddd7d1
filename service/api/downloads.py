"""Downloads of an export's file, by its signed link or with the owner's token."""

import base64
import datetime as dt
import hashlib
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service import errors
from service.api.callers import get_owned, link_actor, require_user, resources_of, user_actor
from service.api.examples import (
    COMPLETED_AT,
    DOCUMENT,
    ESCAPED_PATH,
    GONE,
    JOB_ID,
    NOT_FOUND,
    NOT_READY,
    SERVERS_FAIL,
    TOKEN_REFUSED,
    UNKNOWN_PARAMETER,
)
from service.api.exports import MAX_PAGE_SIZE, PAGE_SIZE, Instant, NextPage
from service.api.http.permitted import while_permitted
from service.api.http.preconditions import Version, allows_range, is_current, version_of
from service.api.http.requests import job_id_of, prefers, read_query
from service.api.http.responses import ChunkedStream, StreamEnd, attachment_headers, json_response
from service.api.operations import Answer, Operation
from service.api.routing import ExactRoute
from service.bookkeeping.audit import Actor, AuditEvent
from service.bookkeeping.exports import Export
from service.errors import (
    ExportGoneError,
    ExportNotFoundError,
    RangeNotSatisfiableError,
    ServiceError,
    UnavailableError,
)
from service.exports import files, owner_checks
from service.resources import Resources
from service.user_ids import BIGINT

MAX_PRESIGNED_SECONDS = 300
# The presigned URL may outlive the link: after a click in the last second, the client still follows the redirect.
MIN_PRESIGNED_SECONDS = 10
REDIRECTED = "redirected"
NO_REDIRECT = "no-redirect"
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)

DownloadedBy: TypeAlias = Literal["owner", "link", "support"]
DOWNLOADERS: Mapping[str, DownloadedBy] = {"user": "owner", "link": "link", "key": "support"}
DownloadId = Annotated[int, Meta(ge=1, le=BIGINT.stop - 1)]


class Slice(NamedTuple):
    """The requested bytes, from `first` to `last` inclusive; `partial` if a Range header requested them."""

    first: int
    last: int
    partial: bool


class Download(msgspec.Struct, frozen=True):
    """A response with the file or a part of it, or a redirect to the file storage, which doesn't report fetches."""

    id: Annotated[DownloadId, Meta(description="The id of the download's event in the operators' audit trail.")]
    downloaded_at: Instant
    by: Annotated[
        DownloadedBy,
        Meta(description="`owner`: signed in. `link`: a holder of the link. `support`: an operator, by an API key."),
    ]
    ip: str | None
    user_agent: str | None
    sent_by: Annotated[
        Literal["service", "storage"],
        Meta(description="`storage`: by a link that works for five minutes, any number of times."),
    ]


class DownloadPage(msgspec.Struct, frozen=True):
    """Downloads, newest first."""

    downloads: list[Download]
    next: NextPage


class DownloadPageQuery(msgspec.Struct, frozen=True):
    after: Annotated[
        DownloadId | UnsetType, Meta(description="The `id` of the last download of the previous page.")
    ] = UNSET
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_SIZE, description="Downloads per page.")] = PAGE_SIZE


async def list_downloads(request: Request) -> Response:
    """Shows the owner whether other people have used the link."""
    resources = resources_of(request)
    user_id = await require_user(request)
    page = read_query(request, DownloadPageQuery)
    export = await get_owned(request, user_id, job_id_of(request))
    async with resources.connection() as connection:
        found = await resources.audit.list_downloads(
            connection, export.id, after=page.after or None, limit=page.limit + 1
        )
    shown = [_download(event) for event in found[: page.limit]]
    more = len(found) > page.limit
    path = f"{resources.settings.public_path}/api/export/{export.id}/downloads"
    return json_response(DownloadPage(shown, f"{path}?limit={page.limit}&after={shown[-1].id}" if more else None))


async def download_export(request: Request) -> Response:
    """Serves the signed link and the owner's token."""
    resources = resources_of(request)
    job_id = job_id_of(request)
    return await serve_file(request, job_id, await _authorize(request, resources, job_id))


async def serve_file(
    request: Request, job_id: uuid.UUID, actor: Actor, *, require: Callable[[], Awaitable[None]] | None = None
) -> Response:
    """The export's file, or a redirect to it. HEAD isn't audited and mints no presigned URL.

    The storage is asked for the file first, as it answers the presigned URL of a missing object with a page of XML.
    While the service sends the file, `require` raises a ServiceError once `actor` may not have it any more.
    """
    resources = resources_of(request)
    async with resources.connection() as connection:
        export = await files.get_file(resources, connection, job_id)
    if not await resources.storage.has(files.key_of(export)):
        await files.note_missing(resources, export)
        raise ExportGoneError(files.LOST)
    stays = prefers(request, NO_REDIRECT)
    # The storage judges a presigned URL by its own clock: one signed by a wrong clock has ended, or not begun.
    redirects = resources.settings.download_mode == "redirect" and not stays and not resources.clock.differs
    if request.method == "GET" and redirects:  # the storage has validators of its own
        return await _redirect(resources, export, actor)
    version = _version(export)
    if is_current(request, version):
        response = Response(status_code=304, headers=version.headers)
    elif request.method == "HEAD":
        response = Response(headers=_file_headers(export) | {"Content-Length": str(export.size_bytes)})
    else:
        response = _proxy(request, _ProxiedDownload(resources, export, actor, require))
    if stays:
        response.headers["Preference-Applied"] = NO_REDIRECT
    return response


def _download(event: AuditEvent) -> Download:
    sent_by: Literal["service", "storage"] = "storage" if event.outcome == REDIRECTED else "service"
    by = DOWNLOADERS[event.actor_type]
    return Download(event.id, event.occurred_at, by, event.ip, event.user_agent, sent_by)


async def _authorize(request: Request, resources: Resources, job_id: uuid.UUID) -> Actor:
    """Authorize by the link's signature if there is one, else by the owner's token.

    Unknown query parameters are ignored: mail gateways add their own.
    """
    if "signature" not in request.query_params:
        user_id = await require_user(request)
        await get_owned(request, user_id, job_id)
        return user_actor(request, user_id)
    try:
        resources.links.verify(job_id, _only_value(request, "expires"), _only_value(request, "signature"))
    except ExportNotFoundError:
        await owner_checks.record_denial(resources, job_id, link_actor(request))
        raise
    return link_actor(request)


def _only_value(request: Request, name: str) -> str:
    """The parameter's value; empty, which is never valid, unless it is given exactly once.

    If it is repeated, a proxy may evaluate another value than the service.
    """
    values = request.query_params.getlist(name)
    return values[0] if len(values) == 1 else ""


async def _redirect(resources: Resources, export: Export, actor: Actor) -> Response:
    url = await resources.storage.presign(
        files.key_of(export),
        filename=_filename(export),
        content_type=export.format.media_type,
        expires_in_seconds=max(MIN_PRESIGNED_SECONDS, min(MAX_PRESIGNED_SECONDS, int(export.seconds_left or 0))),
    )
    await files.record_download(resources, export, actor, outcome=REDIRECTED)
    return RedirectResponse(url, 302)


def _proxy(request: Request, download: "_ProxiedDownload") -> Response:
    export = download.export
    wanted = _slice(request, export)
    headers = _file_headers(export) | {"Content-Length": str(wanted.last - wanted.first + 1)}
    if wanted.partial:
        headers["Content-Range"] = f"bytes {wanted.first}-{wanted.last}/{export.size_bytes}"
    return ChunkedStream(
        while_permitted(download.chunks(wanted), download.require_permission),
        status_code=206 if wanted.partial else 200,
        media_type=export.format.media_type,
        headers=headers,
        on_end=download.end,
        max_seconds=min(download.resources.settings.stream_seconds, export.seconds_left or 0),
    )


@dataclass
class _ProxiedDownload:
    """A proxied download. It is cut when its link expires, and soon after its file is deleted or `require` raises."""

    resources: Resources
    export: Export
    actor: Actor
    require: Callable[[], Awaitable[None]] | None
    _gone: bool = field(default=False, init=False)
    _forbidden: bool = field(default=False, init=False)

    async def chunks(self, wanted: Slice) -> AsyncGenerator[bytes, None]:
        key, byte_range = files.key_of(self.export), (wanted.first, wanted.last) if wanted.partial else None
        outcome = f"bytes {wanted.first}-{wanted.last}" if wanted.partial else "proxied"
        async with self.resources.storage.open_download(key, byte_range, owner=self.export.user_id) as chunks:
            # An unavailable file is not a download, so it is not audited.
            await files.record_download(self.resources, self.export, self.actor, outcome=outcome)
            async for chunk in chunks if wanted.partial else _verified(chunks, self.export):
                yield chunk

    async def require_permission(self) -> None:
        await self._require_file()
        if self.require:
            try:
                await self.require()
            except ServiceError:
                self._forbidden = True
                raise

    async def _require_file(self) -> None:
        """Raise ExportGoneError once the link has ended. During an outage of PostgreSQL, its last answer holds."""
        try:
            with suppress(UnavailableError):
                async with self.resources.connection() as connection:
                    await files.get_file(self.resources, connection, self.export.id)
        except ExportGoneError:
            self._gone = True
            raise

    async def end(self, end: StreamEnd) -> None:
        """Audit that the download was cut, and why, so that the trail shows the effect of a deletion."""
        if end is StreamEnd.TOO_LONG or self._gone or self._forbidden:
            async with self.resources.transaction() as connection:
                now = await self.resources.exports.find(connection, self.export.id)
                await self.resources.exports.record_cut(connection, self.export, self.actor, outcome=self._reason(now))

    def _reason(self, now: Export | None) -> str:
        if self._forbidden:
            return "not permitted any more"
        if now is None or now.expires_at != self.export.expires_at:
            return "deleted"
        return "expired" if now.expired else StreamEnd.TOO_LONG


async def _verified(chunks: AsyncIterator[bytes], export: Export) -> AsyncIterator[bytes]:
    """Yield `chunks`, the last one only if all are the export's file. So another file never looks complete."""
    digest, left, held = hashlib.sha256(), export.size_bytes or 0, b""
    async for chunk in chunks:
        digest.update(chunk)
        left -= len(chunk)
        if left < 0:
            break
        if held:
            yield held
        held = chunk
    if digest.digest() != export.sha256:
        raise UnavailableError("The file in the storage is not the file that was made")
    yield held


def _slice(request: Request, export: Export) -> Slice:
    """The single requested range (RFC 9110, 14.2). For ranges that the RFC lets a server ignore, the whole file."""
    size = export.size_bytes or 0
    whole = Slice(0, size - 1, partial=False)
    match = RANGE.fullmatch(request.headers.get("range", ""))
    if not match or not allows_range(request, _version(export)):
        return whole
    first, last = match.groups()
    if not first and not last:
        return whole
    if not first:
        start, end = max(0, size - int(last or 0)), size - 1
    else:
        start, end = int(first), min(int(last or size), size - 1)
    if first and last and int(last) < int(first):
        return whole
    if start > end:
        raise RangeNotSatisfiableError(size)
    return Slice(start, end, partial=True)


def _version(export: Export) -> Version:
    return version_of(f'"{(export.sha256 or b"").hex()}"', export.completed_at)


def _filename(export: Export) -> str:
    return f"export-{export.created_at:%Y-%m-%d}.{export.format}"


def _file_headers(export: Export) -> dict[str, str]:
    return {
        **attachment_headers(_filename(export)),
        "Content-Type": export.format.media_type,
        "Accept-Ranges": "bytes",
        **_version(export).headers,
        "Repr-Digest": f"sha-256=:{base64.b64encode(export.sha256 or b'').decode()}:",  # RFC 9530
    }


DOWNLOADS = DownloadPage(
    [Download(4_711, COMPLETED_AT + dt.timedelta(hours=1), "link", "192.0.2.7", "curl/8.5.0", "storage")],
    f"/api/export/{JOB_ID}/downloads?limit=1&after=4711",
)
LIST_DOWNLOADS = Operation(
    tag="Exports",
    summary="List an export's downloads, newest first",
    description="Shows whether other people have used the link. If the service redirects to the file storage, an entry "
    "is a "
    "presigned link (`sent_by` is `storage`): its holder may have fetched the file several times in the five "
    "minutes that it works, or not at all. In proxy mode each entry is one response (`sent_by` is `service`).",
    security=["userToken"],
    query=DownloadPageQuery,
    answers={200: Answer(description="A page of downloads.", example=DOWNLOADS)},
    refusals=(UNKNOWN_PARAMETER, *TOKEN_REFUSED, NOT_FOUND, *SERVERS_FAIL),
)
FILE_HEADERS = ("Content-Disposition", "Accept-Ranges", "ETag", "Last-Modified", "Repr-Digest", "Preference-Applied")
CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
CURRENT = Answer(description="The client's copy is current.", headers=["ETag", "Last-Modified", "Preference-Applied"])
FILE_ANSWERS = {
    200: Answer(description="The file.", content=DOCUMENT, headers=FILE_HEADERS),
    206: Answer(
        description="The requested part of the file.",
        content={media_type: {} for media_type in DOCUMENT},
        headers=[*FILE_HEADERS, "Content-Range"],
    ),
    304: CURRENT,
    302: Answer(description="The file is at `Location`, for at most five minutes.", headers=["Location"]),
}
FILE_HEAD_ANSWERS = {200: Answer(description="The file's headers.", headers=FILE_HEADERS), 304: CURRENT}
LINK_REFUSALS = (
    ESCAPED_PATH,
    *TOKEN_REFUSED,
    NOT_FOUND,
    NOT_READY,
    GONE,
    errors.PreconditionFailedError(),
    *SERVERS_FAIL,
)
DOWNLOAD_EXPORT = Operation(
    tag="Exports",
    summary="Download an export's file",
    description="With the signed link or the owner's token. The service redirects to the file storage or, with "
    "`Prefer: no-redirect` or `CARRYOUT_DOWNLOAD_MODE=proxy`, sends the file itself, and supports ranges and "
    "conditions. Otherwise don't send an `Authorization` header on to the storage, which may refuse it: the link needs "
    "none.",
    security=["userToken", "downloadLink"],
    headers=["expires", "Prefer-no-redirect", "Range", "If-Range", *CONDITIONS],
    answers=FILE_ANSWERS,
    refusals=(*LINK_REFUSALS, errors.RangeNotSatisfiableError(51_200)),
    head=Operation(
        tag="Exports",
        summary="Get the headers of an export's file",
        description="A HEAD request isn't recorded as a download.",
        security=["userToken", "downloadLink"],
        headers=["expires", "Prefer-no-redirect", *CONDITIONS],
        answers=FILE_HEAD_ANSWERS,
        refusals=LINK_REFUSALS,
    ),
)


ROUTES = (
    ExactRoute("/api/export/{job_id}/download", download_export, DOWNLOAD_EXPORT),
    ExactRoute("/api/export/{job_id}/downloads", list_downloads, LIST_DOWNLOADS),
)

"""The link: who may follow it, until when, and what they get."""

import re
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service import exporting
from service.api.auth import link_actor, require_user, resources_of, user_actor
from service.api.exports import MAX_PAGE_SIZE, PAGE_SIZE, Instant, NextPage
from service.api.requests import job_id_of, read_query
from service.api.responses import ChunkedStream, attachment_headers, json_response
from service.audit import Actor, AuditEvent
from service.auth import BIGINT
from service.bootstrap import Resources
from service.encoders import MEDIA_TYPES
from service.errors import ExportNotFoundError, RangeNotSatisfiableError
from service.exports import Export

MAX_PRESIGNED_SECONDS = 300
# A click in the link's last second is in time; to follow the redirect takes a moment.
MIN_PRESIGNED_SECONDS = 10
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

DownloadId = Annotated[int, Meta(ge=1, le=BIGINT.stop - 1)]


class Slice(NamedTuple):
    """The asked bytes, from `first` to `last` inclusive; `partial` if they were asked for by a Range header."""

    first: int
    last: int
    partial: bool


class Download(msgspec.Struct, frozen=True):
    """That somebody fetched the file, or a part of it."""

    id: Annotated[DownloadId, Meta(description="Of its event in the operators' audit trail.")]
    downloaded_at: Instant
    by: Annotated[Literal["owner", "link"], Meta(description="Signed in, or whoever holds the link.")]
    ip: str | None
    user_agent: str | None


class DownloadPage(msgspec.Struct, frozen=True):
    """Downloads, newest first."""

    downloads: list[Download]
    next: NextPage


class DownloadPageQuery(msgspec.Struct, frozen=True):
    after: Annotated[DownloadId | UnsetType, Meta(description="The `id` of the last download of the page before.")] = (
        UNSET
    )
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_SIZE, description="Downloads per page.")] = PAGE_SIZE


async def list_downloads(request: Request) -> Response:
    """For the owner, who learns from it whether the link has got around."""
    resources = resources_of(request)
    user_id = await require_user(request)
    page = read_query(request, DownloadPageQuery)
    export = await exporting.get_owned(resources, job_id_of(request), user_id, user_actor(request, user_id))
    async with exporting.open_connection(resources) as connection:
        found = await resources.audit.list_downloads(
            connection, export.id, after=page.after or None, limit=page.limit + 1
        )
    shown = [_download(event) for event in found[: page.limit]]
    more = len(found) > page.limit
    path = f"{resources.settings.public_path}/api/export/{export.id}/downloads"
    return json_response(DownloadPage(shown, f"{path}?limit={page.limit}&after={shown[-1].id}" if more else None))


async def download_export(request: Request) -> Response:
    """Answers the signed link and the owner's token. HEAD looks only: it isn't audited, and nothing is minted."""
    resources = resources_of(request)
    job_id = job_id_of(request)
    actor = await _authorize(request, resources, job_id)
    async with exporting.open_connection(resources) as connection:
        export = await exporting.get_file(resources, connection, job_id)
    if request.method == "HEAD":
        return Response(headers=_file_headers(export) | {"Content-Length": str(export.size_bytes)})
    if resources.settings.download_mode == "redirect":
        return await _redirect(resources, export, actor)
    return await _proxy(request, resources, export, actor)


def _download(event: AuditEvent) -> Download:
    by: Literal["owner", "link"] = "owner" if event.actor_type == "user" else "link"
    return Download(event.id, event.occurred_at, by, event.ip, event.user_agent)


async def _authorize(request: Request, resources: Resources, job_id: uuid.UUID) -> Actor:
    """By the link's signature if there is one, else by the owner's token. Other query parameters are let through:
    mail gateways add their own.
    """
    if "signature" not in request.query_params:
        user_id = await require_user(request)
        actor = user_actor(request, user_id)
        await exporting.get_owned(resources, job_id, user_id, actor)
        return actor
    try:
        resources.links.verify(job_id, _only_value(request, "expires"), _only_value(request, "signature"))
    except ExportNotFoundError:
        await exporting.record_denied(resources, job_id, link_actor(request))
        raise
    return link_actor(request)


def _only_value(request: Request, name: str) -> str:
    """Empty, which no link holds, unless it is given exactly once: others on the way may heed the other one."""
    values = request.query_params.getlist(name)
    return values[0] if len(values) == 1 else ""


async def _redirect(resources: Resources, export: Export, actor: Actor) -> Response:
    url = await resources.storage.presign(
        exporting.key_of(export),
        filename=_filename(export),
        content_type=MEDIA_TYPES[export.format],
        expires_in_seconds=max(MIN_PRESIGNED_SECONDS, min(MAX_PRESIGNED_SECONDS, int(export.seconds_left or 0))),
    )
    await exporting.record_download(resources, export, actor, outcome="redirected")
    return RedirectResponse(url, 302)


async def _proxy(request: Request, resources: Resources, export: Export, actor: Actor) -> Response:
    wanted = _slice(request, export)
    headers = _file_headers(export) | {"Content-Length": str(wanted.last - wanted.first + 1)}
    if wanted.partial:
        headers["Content-Range"] = f"bytes {wanted.first}-{wanted.last}/{export.size_bytes}"
    return ChunkedStream(
        _chunks(resources, export, actor, wanted),
        status_code=206 if wanted.partial else 200,
        media_type=MEDIA_TYPES[export.format],
        headers=headers,
    )


async def _chunks(resources: Resources, export: Export, actor: Actor, wanted: Slice) -> AsyncGenerator[bytes, None]:
    byte_range = (wanted.first, wanted.last) if wanted.partial else None
    outcome = f"bytes {wanted.first}-{wanted.last}" if wanted.partial else "proxied"
    async with resources.storage.open_download(exporting.key_of(export), byte_range, owner=export.user_id) as chunks:
        await exporting.record_download(resources, export, actor, outcome=outcome)  # what can't be had is no download
        async for chunk in chunks:
            yield chunk


def _slice(request: Request, export: Export) -> Slice:
    """One range, as RFC 9110 (14.2) says; what it lets a server ignore is answered with the whole file."""
    size = export.size_bytes or 0
    whole = Slice(0, size - 1, partial=False)
    match = RANGE.fullmatch(request.headers.get("range", ""))
    if not match or request.headers.get("if-range", _etag(export)) != _etag(export):
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


def _etag(export: Export) -> str:
    return f'"{(export.sha256 or b"").hex()}"'


def _filename(export: Export) -> str:
    return f"export-{export.created_at:%Y-%m-%d}.{export.format}"


def _file_headers(export: Export) -> dict[str, str]:
    return {
        **attachment_headers(_filename(export)),
        "Content-Type": MEDIA_TYPES[export.format],
        "Accept-Ranges": "bytes",
        "ETag": _etag(export),
    }

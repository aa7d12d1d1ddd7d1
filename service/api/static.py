"""What stays the same while the process lives: documents, pages and what they load."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Fixed(NamedTuple):
    """A body that stays the same while the process lives."""

    body: bytes
    media_type: str
    etag: str


def fix(body: bytes, media_type: str) -> Fixed:
    return Fixed(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def load_assets(folder: Path) -> dict[str, Fixed]:
    """The files of `folder` that a browser may ask for, by name."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in MEDIA_TYPES]
    return {path.name: fix(path.read_bytes(), MEDIA_TYPES[path.suffix]) for path in files}


def respond(request: Request, fixed: Fixed | None, *, policy: str) -> Response:
    """`fixed`, or that the copy at hand is current. Raises HTTPException (404) if there is nothing."""
    if fixed is None:
        raise HTTPException(404)
    headers = {"ETag": fixed.etag, "Cache-Control": "no-cache", "Content-Security-Policy": policy}
    if fixed.etag in _entity_tags(request):
        return Response(status_code=304, headers=headers)
    return Response(fixed.body, headers=headers, media_type=fixed.media_type)


def _entity_tags(request: Request) -> set[str]:
    """Those of If-None-Match, compared weakly (RFC 9110, 13.1.2): a proxy that compresses weakens ours."""
    tags = request.headers.get("if-none-match", "").split(",")
    return {tag.strip().removeprefix("W/") for tag in tags}

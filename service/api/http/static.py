"""Responses that are constant for the process: documents, pages and their assets."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.http.compression import PREFERRED, Encoding, compress, negotiate
from service.api.http.preconditions import Version, is_current

MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MIN_COMPRESSED_BYTES = 1024  # below, it fits into one packet anyway


class Fixed(NamedTuple):
    """A body that doesn't change during the life of the process, also in each encoding that makes it smaller."""

    body: bytes
    media_type: str
    etag: str
    compressed: Mapping[Encoding, bytes]

    def etag_of(self, encoding: Encoding | None) -> str:
        """Other bytes need another strong tag (RFC 9110, 8.8.3.3)."""
        return f'{self.etag[:-1]}-{encoding}"' if encoding else self.etag


def fix(body: bytes, media_type: str) -> Fixed:
    compressed = {encoding: compress(body, encoding) for encoding in PREFERRED if len(body) >= MIN_COMPRESSED_BYTES}
    return Fixed(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"', compressed)


@functools.cache
def load_assets(folder: Path) -> Mapping[str, Fixed]:
    """The files of `folder` that browsers may request, by name."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in MEDIA_TYPES]
    return {path.name: fix(path.read_bytes(), MEDIA_TYPES[path.suffix]) for path in files}


def respond(request: Request, fixed: Fixed | None, *, policy: str) -> Response:
    """`fixed` in the encoding that the client prefers, or 304 if its copy is current.

    Raises HTTPException (404) if `fixed` is None, and PreconditionFailedError.
    """
    if fixed is None:
        raise HTTPException(404)
    encoding = negotiate(request) if fixed.compressed else None
    version = Version(fixed.etag_of(encoding))
    headers = {
        **version.headers,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": policy,
        "Vary": "Accept-Encoding",
    }
    if is_current(request, version):
        return Response(status_code=304, headers=headers)
    if encoding:
        headers["Content-Encoding"] = encoding
    return Response(
        fixed.compressed[encoding] if encoding else fixed.body, headers=headers, media_type=fixed.media_type
    )

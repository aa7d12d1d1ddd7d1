"""`/openapi.json`, and `/docs`, which shows it with assets of this package: no browser is sent elsewhere."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

ASSETS_DIR = Path(__file__).resolve().parent / "assets"
PAGE = "docs.html"
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# Swagger UI draws its icons from data: URLs. Its style attributes are set by script, which needs no permission.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Fixed(NamedTuple):
    """A body that stays the same while the process lives."""

    body: bytes
    media_type: str
    etag: str


def fix(body: bytes, media_type: str) -> Fixed:
    return Fixed(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def fix_document(document: Mapping[str, object]) -> Fixed:
    return fix(msgspec.json.encode(document), "application/json")


def load_assets() -> dict[str, Fixed]:
    """The page and what it loads, by name."""
    files = [path for path in sorted(ASSETS_DIR.iterdir()) if path.suffix in MEDIA_TYPES]
    return {path.name: fix(path.read_bytes(), MEDIA_TYPES[path.suffix]) for path in files}


async def show_document(request: Request) -> Response:
    return _respond(request, request.app.state.document)


async def show_page(request: Request) -> Response:
    return _respond(request, request.app.state.assets[PAGE])


async def show_asset(request: Request) -> Response:
    asset: Fixed | None = request.app.state.assets.get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    return _respond(request, asset)


def _respond(request: Request, fixed: Fixed) -> Response:
    headers = {
        "ETag": fixed.etag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    }
    if fixed.etag in _entity_tags(request):
        return Response(status_code=304, headers=headers)
    return Response(fixed.body, headers=headers, media_type=fixed.media_type)


def _entity_tags(request: Request) -> set[str]:
    """Those of If-None-Match, compared weakly (RFC 9110, 13.1.2): a proxy that compresses weakens ours."""
    tags = request.headers.get("if-none-match", "").split(",")
    return {tag.strip().removeprefix("W/") for tag in tags}

"""`/openapi.json`, and `/docs`, which shows it with assets of this package: no browser is sent elsewhere."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api.static import Fixed, fix, load_assets, respond

ASSETS_DIR = Path(__file__).resolve().parent / "assets"
PAGE = "docs.html"
# Swagger UI draws its icons from data: URLs. Its style attributes are set by script, which needs no permission.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def fix_document(document: Mapping[str, object]) -> Fixed:
    return fix(msgspec.json.encode(document), "application/json")


def load_docs() -> dict[str, Fixed]:
    """The page and what it loads, by name."""
    return load_assets(ASSETS_DIR)


async def show_document(request: Request) -> Response:
    return respond(request, request.app.state.document, policy=CONTENT_SECURITY_POLICY)


async def show_page(request: Request) -> Response:
    return respond(request, request.app.state.docs[PAGE], policy=CONTENT_SECURITY_POLICY)


async def show_asset(request: Request) -> Response:
    asset = request.app.state.docs.get(request.path_params["name"])
    return respond(request, asset, policy=CONTENT_SECURITY_POLICY)

"""`/openapi.json`, and `/docs`, which renders it with assets of this package, without third-party hosts."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.api.http.static import Fixed, fix, load_assets, respond
from service.api.operations import Answer, Operation
from service.api.routing import ExactRoute

ASSETS_DIR = Path(__file__).resolve().parent / "assets"
PAGE = "docs.html"
# Swagger UI loads icons from data: URLs. Its scripts set style attributes, which style-src doesn't restrict.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def fix_document(document: Mapping[str, object]) -> Fixed:
    return fix(msgspec.json.encode(document), "application/json")


def load_docs() -> Mapping[str, Fixed]:
    """The page and its assets, by name."""
    return load_assets(ASSETS_DIR)


async def show_document(request: Request) -> Response:
    return respond(request, request.app.state.document, policy=CONTENT_SECURITY_POLICY)


async def show_page(request: Request) -> Response:
    return respond(request, request.app.state.docs[PAGE], policy=CONTENT_SECURITY_POLICY)


async def show_asset(request: Request) -> Response:
    asset = request.app.state.docs.get(request.path_params["name"])
    return respond(request, asset, policy=CONTENT_SECURITY_POLICY)


FIXED_HEADERS = ("ETag", "Content-Encoding")
SHOW_DOCUMENT = Operation(
    tag="Reference",
    summary="This document",
    headers=["If-None-Match", "If-Match", "Accept-Encoding"],
    answers={
        200: Answer(
            description="OpenAPI 3.1.",
            content={"application/json": {"schema": {"type": "object"}}},
            headers=FIXED_HEADERS,
        ),
        304: Answer(description="The client's copy is current.", headers=["ETag"]),
    },
    refusals=(errors.PreconditionFailedError(),),
)
SHOW_PAGE = Operation(
    tag="Reference",
    summary="This document for people",
    headers=["If-None-Match", "If-Match", "Accept-Encoding"],
    answers={
        200: Answer(
            description="A page.",
            content={"text/html": {"schema": {"type": "string"}}},
            headers=FIXED_HEADERS,
        ),
        304: Answer(description="The client's copy is current.", headers=["ETag"]),
    },
    refusals=(errors.PreconditionFailedError(),),
)

ROUTES = (
    ExactRoute("/openapi.json", show_document, SHOW_DOCUMENT),
    ExactRoute("/docs", show_page, SHOW_PAGE),
    ExactRoute("/docs/{name}", show_asset),
)

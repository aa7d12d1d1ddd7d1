"""`/openapi.json`, and `/docs`, which renders it with assets of this package, without third-party hosts."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.api.http.static import Fixed, fix, load_assets, respond
from service.api.operations import Answer, Json, Operation
from service.api.routing import ExactRoute

ASSETS_DIR = Path(__file__).resolve().parent / "assets"
PAGE = "docs.html"
# Swagger UI loads icons from data: URLs. Its scripts set style attributes, which style-src doesn't restrict.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def fix_document(document: Json) -> Fixed:
    return fix(msgspec.json.encode(document), "application/json")


def defer_document(create: Callable[[], Json]) -> Callable[[], Fixed]:
    """Made once, when first asked for: most processes never are, and it takes tens of milliseconds of a start."""
    return functools.cache(lambda: fix_document(create()))


async def show_document(request: Request) -> Response:
    document = await asyncio.to_thread(request.app.state.document)
    return respond(request, document, policy=CONTENT_SECURITY_POLICY)


async def show_page(request: Request) -> Response:
    return await _show(request, PAGE)


async def show_asset(request: Request) -> Response:
    return await _show(request, request.path_params["name"])


async def _show(request: Request, name: str) -> Response:
    assets = await asyncio.to_thread(load_assets, ASSETS_DIR)
    return respond(request, assets.get(name), policy=CONTENT_SECURITY_POLICY)


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

"""`/`: the page on which users ask for their data, watch it being made, and fetch or delete it."""

from pathlib import Path
from typing import Final

import jinja2
from starlette.requests import Request
from starlette.responses import Response

from service.api.static import Fixed, fix, load_assets, respond

PAGE_DIR: Final = Path(__file__).resolve().parent / "assets" / "page"
TEMPLATES_DIR: Final = PAGE_DIR / "templates"
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES_DIR), autoescape=True, undefined=jinja2.StrictUndefined
)


def load_page(public_url: str) -> Fixed:
    """`public_url` is for the lines of curl it shows; the page itself asks whoever sent it."""
    return fix(templates.get_template("page.html").render(public_url=public_url).encode(), "text/html")


def load_page_assets() -> dict[str, Fixed]:
    return load_assets(PAGE_DIR)


async def show_page(request: Request) -> Response:
    return respond(request, request.app.state.page, policy=CONTENT_SECURITY_POLICY)


async def show_asset(request: Request) -> Response:
    asset = request.app.state.page_assets.get(request.path_params["name"])
    return respond(request, asset, policy=CONTENT_SECURITY_POLICY)

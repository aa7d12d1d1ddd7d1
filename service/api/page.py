"""`/`: the page on which users request, watch, download and delete their exports."""

from collections.abc import Mapping
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from service.api.http.pages import CONTENT_SECURITY_POLICY, PAGE_DIR, content_security_policy, templates
from service.api.http.static import Fixed, fix, load_assets, respond
from service.api.routing import ExactRoute
from service.formats import Format
from service.settings import Settings


class Page(NamedTuple):
    fixed: Fixed
    policy: str


def load_page(settings: Settings) -> Page:
    """`PUBLIC_URL` is for the curl examples. The page's own requests use addresses relative to it."""
    body = templates.get_template("page.html").render(
        public_url=settings.public_url, formats=Format, sign_in=_sign_in(settings)
    )
    origins = settings.oidc_origins if settings.oidc_issuer else ()
    return Page(fix(body.encode(), "text/html"), content_security_policy(*origins))


def _sign_in(settings: Settings) -> dict[str, object]:
    """The way in, for the page's scripts. Without any, people paste a token."""
    provider = {
        "issuer": settings.oidc_issuer,
        "clientId": settings.oidc_client_id,
        "scopes": settings.oidc_scopes,
        "parameters": dict(parameter.split("=", 1) for parameter in settings.oidc_parameters),
        "origins": settings.oidc_origins,
    }
    return {
        "userClaim": settings.jwt_user_claim,
        "oidc": provider if settings.oidc_issuer else None,
        "url": settings.sign_in_url,
    }


def load_page_assets() -> Mapping[str, Fixed]:
    return load_assets(PAGE_DIR)


async def show_page(request: Request) -> Response:
    page: Page = request.app.state.page
    return respond(request, page.fixed, policy=page.policy)


async def show_asset(request: Request) -> Response:
    asset = request.app.state.page_assets.get(request.path_params["name"])
    return respond(request, asset, policy=CONTENT_SECURITY_POLICY)


ROUTES = (
    ExactRoute("/", show_page),
    ExactRoute("/assets/{name}", show_asset),
)

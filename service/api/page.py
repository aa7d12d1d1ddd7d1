"""`/`: the page on which users request, watch, download and delete their exports. `/embedded`: the same in a frame."""

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
    """The page on its own. No other page can frame it, because people sign in there."""
    origins = settings.oidc_origins if settings.oidc_issuer else ()
    return Page(_render(settings, _sign_in(settings)), content_security_policy(*origins))


def load_embedded_page(settings: Settings) -> Page | None:
    """The page for a frame, whose parent page hands the token over; None if no parent is allowed."""
    ancestors = settings.frame_ancestors
    if not ancestors:
        return None
    session = {"userClaim": settings.jwt_user_claim, "oidc": None, "url": "", "parents": ancestors}
    return Page(_render(settings, session), content_security_policy(ancestors=ancestors))


def _render(settings: Settings, sign_in: Mapping[str, object]) -> Fixed:
    """`PUBLIC_URL` is for the curl examples. The page's own requests use addresses relative to it."""
    template = templates.get_template("page.html")
    body = template.render(public_url=settings.public_url, formats=Format, sign_in=sign_in)
    return fix(body.encode(), "text/html")


def _sign_in(settings: Settings) -> Mapping[str, object]:
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
        "parents": (),
    }


def load_page_assets() -> Mapping[str, Fixed]:
    return load_assets(PAGE_DIR)


async def show_page(request: Request) -> Response:
    return _show(request, request.app.state.page)


async def show_embedded_page(request: Request) -> Response:
    return _show(request, request.app.state.embedded_page)


def _show(request: Request, page: Page | None) -> Response:
    return respond(request, page.fixed if page else None, policy=page.policy if page else CONTENT_SECURITY_POLICY)


async def show_asset(request: Request) -> Response:
    asset = request.app.state.page_assets.get(request.path_params["name"])
    return respond(request, asset, policy=CONTENT_SECURITY_POLICY)


ROUTES = (
    ExactRoute("/", show_page),
    ExactRoute("/embedded", show_embedded_page),
    ExactRoute("/assets/{name}", show_asset),
)

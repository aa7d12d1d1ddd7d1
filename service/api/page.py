"""`/`: the page on which users request, watch, download and delete their exports. `/embedded`: the same in a frame."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from languages.choice import LANGUAGES, find_language
from languages.words import find_words
from service.api.http.pages import (
    CONTENT_SECURITY_POLICY,
    PAGE_DIR,
    VARY_ON_LANGUAGE,
    content_security_policy,
    find_templates,
    language_of,
)
from service.api.http.static import Fixed, fix, load_assets, respond
from service.api.routing import ExactRoute
from service.branding.brand import PICTURE_POLICY, Brand
from service.branding.colors import LIGHT_DEFAULT
from service.documents.streaming import TOO_LARGE_DETAIL
from service.errors import NO_SUCH_USER
from service.exports.attempts import FAILED_MESSAGE
from service.exports.files import LOST
from service.formats import Format
from service.settings import Settings

# Reasons of exports' ends.
SHOWN = (FAILED_MESSAGE, LOST, NO_SUCH_USER, TOO_LARGE_DETAIL)


class Page(NamedTuple):
    fixed: Fixed
    policy: str


class Pages:
    """The page in each language, on its own and in a frame, made when it is first asked for."""

    def __init__(self, settings: Settings, brand: Brand) -> None:
        self._settings = settings
        self._brand = brand
        self.find = cache(self._find)
        self.find_embedded = cache(self._find_embedded)

    def _find(self, language: str) -> Page:
        """No other page can frame it, because people sign in there."""
        origins = self._settings.oidc_origins if self._settings.oidc_issuer else ()
        return Page(self._render(language, _sign_in(self._settings)), content_security_policy(*origins))

    def _find_embedded(self, language: str) -> Page | None:
        """The page for a frame, whose parent page hands the token over; None if no parent is allowed."""
        ancestors = self._settings.frame_ancestors
        if not ancestors:
            return None
        handed_over = {"userClaim": self._settings.jwt_user_claim, "oidc": None, "url": "", "parents": ancestors}
        return Page(self._render(language, handed_over), content_security_policy(ancestors=ancestors))

    def _render(self, language: str, sign_in: Mapping[str, object]) -> Fixed:
        """`PUBLIC_URL` is for the curl examples. The page's own requests use addresses relative to it."""
        body = (
            find_templates(language)
            .get_template("page.html")
            .render(
                public_url=self._settings.public_url,
                formats=Format,
                brand=self._brand,
                sign_in=sign_in,
                languages=LANGUAGES.values(),
                words=_script_words(language),
            )
        )
        return fix(body.encode(), "text/html")


def _script_words(language: str) -> dict[str, object]:
    """The words of the page's scripts, with the service's messages that they show."""
    words = find_words(language)
    shown = {text: words.gettext(text) for text in SHOWN}
    return {"messages": words.script.messages | shown, "plurals": words.script.plurals}


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


def load_page_assets(brand: Brand) -> Mapping[str, Fixed]:
    """The page's files, in the operator's colours and with the logo."""
    assets = dict(load_assets(PAGE_DIR))
    if brand.style:
        assets["page.css"] = fix(assets["page.css"].body + brand.style.encode(), "text/css")
        icon = assets["icon.svg"].body.replace(LIGHT_DEFAULT.accent.encode(), brand.light.accent.encode())
        assets["icon.svg"] = fix(icon, "image/svg+xml")
    if brand.logo:
        assets[brand.logo.file_name] = fix(brand.logo.content, brand.logo.media_type)
    return assets


async def show_page(request: Request) -> Response:
    pages: Pages = request.app.state.pages
    return _show(request, pages.find)


async def show_embedded_page(request: Request) -> Response:
    pages: Pages = request.app.state.pages
    return _show(request, pages.find_embedded)


def _show(request: Request, find: Callable[[str], Page | None]) -> Response:
    """`?language=` is for links of the application, and for frames that browsers keep no cookies for."""
    language = find_language(request.query_params.get("language")) or language_of(request)
    page = find(language)
    if page is None:
        raise HTTPException(404)
    response = respond(request, page.fixed, policy=page.policy)
    response.headers["Content-Language"] = language
    response.headers.add_vary_header(VARY_ON_LANGUAGE)
    return response


async def show_asset(request: Request) -> Response:
    name, logo = request.path_params["name"], request.app.state.brand.logo
    is_logo = logo is not None and name == logo.file_name
    policy = PICTURE_POLICY if is_logo else CONTENT_SECURITY_POLICY
    return respond(request, request.app.state.page_assets.get(name), policy=policy)


ROUTES = (
    ExactRoute("/", show_page),
    ExactRoute("/embedded", show_embedded_page),
    ExactRoute("/assets/{name}", show_asset),
)

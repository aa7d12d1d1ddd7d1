"""Error pages, for a person whose browser opens a link that doesn't lead to a file; in their language."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from languages.words import to_translate
from service.api.http.pages import CONTENT_SECURITY_POLICY, VARY_ON_LANGUAGE, find_templates, language_of
from service.api.http.requests import weights

# Twice the depth of our deepest route. Without a cap, a path of slashes only would make the page nine times as large.
MAX_DEPTH: Final = 16
WILDCARD: Final = "*/*"
MACHINE_TYPES: Final = ("application/problem+json", "application/json")


class Advice(NamedTuple):
    heading: str
    advice: str


WORDS: Final[Mapping[int, Advice]] = {
    400: Advice(
        to_translate("This address isn't valid"),
        to_translate(
            "Check that the address is unchanged: mail programs sometimes break long links in two, or change them."
        ),
    ),
    401: Advice(
        to_translate("Please sign in"), to_translate("Open the complete download link, or sign in on your data page.")
    ),
    403: Advice(
        to_translate("You don't have access to this"),
        to_translate("If you think you should have access, ask the people who sent you here."),
    ),
    404: Advice(
        to_translate("This link doesn't lead to a file"),
        to_translate("Check that the address is complete: mail programs sometimes break long links in two."),
    ),
    409: Advice(
        to_translate("Your file isn't ready"),
        to_translate("Your data page shows its progress, and the link once the file is ready."),
    ),
    410: Advice(
        to_translate("This link has ended"),
        to_translate("Its file expired or was deleted. You can ask for a new one on your data page."),
    ),
    429: Advice(to_translate("You sent too many requests"), to_translate("Please wait a moment, then try again.")),
    503: Advice(
        to_translate("Please try again in a moment"),
        to_translate("The service is busy or under maintenance. Your files are safe."),
    ),
}
OTHERWISE: Final = Advice(
    to_translate("The request failed"), to_translate("Your data page shows everything you have asked for.")
)


def prefers_html(request: Request) -> bool:
    """Whether a browser is opening this address: it ranks HTML above JSON. `*/*` alone doesn't ask for a page."""
    if request.method not in {"GET", "HEAD"}:
        return False
    accepted = weights(request, "Accept")
    html = accepted.get("text/html", 0.0)
    return html >= accepted.get(WILDCARD, 0.0) and html > max(accepted.get(type_, 0.0) for type_ in MACHINE_TYPES)


def error_page(request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
    language = language_of(request)
    words = WORDS.get(status, OTHERWISE)
    body = (
        find_templates(language)
        .get_template("error.html")
        .render(
            brand=request.app.state.brand,
            heading=words.heading,
            advice=words.advice,
            status=status,
            detail=detail,
            request_id=request.scope.get("state", {}).get("request_id"),
            root=_root(request),
        )
    )
    own = {
        "Content-Language": language,
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Vary": f"{headers['Vary']}, {VARY_ON_LANGUAGE}",
    }
    return Response(body, status, headers={**headers, **own}, media_type="text/html")


def _root(request: Request) -> str:
    """The relative path from here to `/`, which works under every host name and path prefix."""
    return "../" * min(request.scope["raw_path"].count(b"/") - 1, MAX_DEPTH) or "./"

"""Errors for people: what a browser shows that opened a link which leads to no file."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from service.api.page import CONTENT_SECURITY_POLICY, templates
from service.api.requests import weights

WILDCARD: Final = "*/*"
MACHINE_TYPES: Final = ("application/problem+json", "application/json")


class Words(NamedTuple):
    heading: str
    advice: str


WORDS: Final[Mapping[int, Words]] = {
    401: Words("Please sign in", "This address opens with a complete download link, or on your data page."),
    403: Words("This isn't open to you", "If you think it should be, ask the people who sent you here."),
    404: Words(
        "This link leads nowhere",
        "Check that the address is complete: mail programs sometimes break long links in two.",
    ),
    409: Words("Your file isn't ready", "Your data page shows how far it is, and the link once it works."),
    410: Words("This link has ended", "Its file expired or was deleted. You can ask for a new one on your data page."),
    429: Words("That was a lot at once", "Please wait a moment, then try again."),
    503: Words("Please try again in a moment", "The service is busy or being looked after. Your files are safe."),
}
OTHERWISE: Final = Words("That didn't work", "Your data page shows everything you have asked for.")


def prefers_html(request: Request) -> bool:
    """Whether this is a browser that opens an address: it ranks HTML above JSON. `*/*` alone asks for no page."""
    if request.method not in {"GET", "HEAD"}:
        return False
    accepted = weights(request, "Accept")
    html = accepted.get("text/html", 0.0)
    return html >= accepted.get(WILDCARD, 0.0) and html > max(accepted.get(type_, 0.0) for type_ in MACHINE_TYPES)


def error_page(request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
    words = WORDS.get(status, OTHERWISE)
    body = templates.get_template("error.html").render(
        heading=words.heading,
        advice=words.advice,
        status=status,
        detail=detail,
        request_id=request.scope.get("state", {}).get("request_id"),
        root=_root(request),
    )
    policy = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return Response(body, status, headers={**headers, **policy}, media_type="text/html")


def _root(request: Request) -> str:
    """The way from here to `/`, relative: whatever name and prefix the browser knows the service by stay."""
    return "../" * (request.scope["raw_path"].count(b"/") - 1) or "./"

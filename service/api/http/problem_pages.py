"""Error pages, for a person whose browser opens a link that doesn't lead to a file."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from service.api.http.pages import CONTENT_SECURITY_POLICY, templates
from service.api.http.requests import weights

# Twice the depth of our deepest route. Without a cap, a path of slashes only would make the page nine times as large.
MAX_DEPTH: Final = 16
WILDCARD: Final = "*/*"
MACHINE_TYPES: Final = ("application/problem+json", "application/json")


class Words(NamedTuple):
    heading: str
    advice: str


WORDS: Final[Mapping[int, Words]] = {
    400: Words(
        "This address isn't valid",
        "Check that the address is unchanged: mail programs sometimes break long links in two, or change them.",
    ),
    401: Words("Please sign in", "Open the complete download link, or sign in on your data page."),
    403: Words(
        "You don't have access to this", "If you think you should have access, ask the people who sent you here."
    ),
    404: Words(
        "This link doesn't lead to a file",
        "Check that the address is complete: mail programs sometimes break long links in two.",
    ),
    409: Words("Your file isn't ready", "Your data page shows its progress, and the link once the file is ready."),
    410: Words("This link has ended", "Its file expired or was deleted. You can ask for a new one on your data page."),
    429: Words("You sent too many requests", "Please wait a moment, then try again."),
    503: Words("Please try again in a moment", "The service is busy or under maintenance. Your files are safe."),
}
OTHERWISE: Final = Words("The request failed", "Your data page shows everything you have asked for.")


def prefers_html(request: Request) -> bool:
    """Whether a browser is opening this address: it ranks HTML above JSON. `*/*` alone doesn't ask for a page."""
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
    """The relative path from here to `/`, which works under every host name and path prefix."""
    return "../" * min(request.scope["raw_path"].count(b"/") - 1, MAX_DEPTH) or "./"

"""Cross-origin requests from other sites' pages: https://fetch.spec.whatwg.org/#http-cors-protocol."""

from collections.abc import Collection

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

METHODS = ("GET", "HEAD", "POST", "DELETE")
# Headers with the answers' facts. A page can't read them unless they are listed.
EXPOSED = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Link",
    "Location",
    "Preference-Applied",
    "Repr-Digest",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-ID",
)


def share_with(origins: Collection[str]) -> list[Middleware]:
    """Middleware that lets pages of `origins` call the API; none without origins.

    It wraps RequestMiddleware, so that those pages can read every error; preflights aren't logged. Any request header
    is allowed: tracers of browsers add their own. Cookies aren't: the page that has a token sends it, not the browser.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=METHODS, allow_headers=["*"], expose_headers=EXPOSED
        )
    ]

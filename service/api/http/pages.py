"""HTML pages: their language, their templates and their Content-Security-Policy."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

import jinja2
from starlette.requests import Request

from languages.choice import find_language
from languages.templates import localize
from languages.words import find_words
from service.api.http.requests import accepted_language

PAGE_DIR: Final = Path(__file__).resolve().parents[1] / "assets" / "page"
TEMPLATES_DIR: Final = PAGE_DIR / "templates"
NONE: Final = "'none'"
# The choice on the page, which its script keeps: words.js.
LANGUAGE_COOKIE: Final = "carryout-language"
VARY_ON_LANGUAGE: Final = "Accept-Language, Cookie"


def content_security_policy(*origins: str, ancestors: Iterable[str] = ()) -> str:
    """The policy of a page whose scripts call this service and `origins`, in a frame of `ancestors` alone."""
    called = " ".join(["'self'", *origins])
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src {called}; "
        f"img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors {' '.join(ancestors) or NONE}"
    )


CONTENT_SECURITY_POLICY: Final = content_security_policy()


@cache
def find_templates(language: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES_DIR), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return localize(environment, find_words(language))


def language_of(request: Request) -> str:
    """The language of a page: the user's choice on the page, else the browser's, else that of the settings."""
    default: str = request.app.state.language
    return find_language(request.cookies.get(LANGUAGE_COOKIE)) or accepted_language(request) or default

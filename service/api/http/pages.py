"""HTML pages: their templates and their Content-Security-Policy."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import jinja2

PAGE_DIR: Final = Path(__file__).resolve().parents[1] / "assets" / "page"
TEMPLATES_DIR: Final = PAGE_DIR / "templates"
NONE: Final = "'none'"


def content_security_policy(*origins: str, ancestors: Iterable[str] = ()) -> str:
    """The policy of a page whose scripts call this service and `origins`, in a frame of `ancestors` alone."""
    called = " ".join(["'self'", *origins])
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src {called}; "
        f"img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors {' '.join(ancestors) or NONE}"
    )


CONTENT_SECURITY_POLICY: Final = content_security_policy()

templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES_DIR), autoescape=True, undefined=jinja2.StrictUndefined
)

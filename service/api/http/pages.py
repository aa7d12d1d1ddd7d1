"""HTML pages: their templates and their Content-Security-Policy."""

from pathlib import Path
from typing import Final

import jinja2

PAGE_DIR: Final = Path(__file__).resolve().parents[1] / "assets" / "page"
TEMPLATES_DIR: Final = PAGE_DIR / "templates"


def content_security_policy(*origins: str) -> str:
    """The policy of a page whose scripts call this service, and `origins`."""
    called = " ".join(["'self'", *origins])
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src {called}; "
        "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


CONTENT_SECURITY_POLICY: Final = content_security_policy()

templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES_DIR), autoescape=True, undefined=jinja2.StrictUndefined
)

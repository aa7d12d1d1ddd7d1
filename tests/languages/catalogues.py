"""The messages in the source, and what the catalogues have of them."""

from functools import cache
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po

from languages.choice import DEFAULT, LANGUAGES
from languages.words import CLIENT, LOCALES, SCRIPTS, SERVICE

ROOT = Path(__file__).parents[2]
DOMAINS = {SERVICE: ("languages", "service"), SCRIPTS: ("languages", "service"), CLIENT: ("client",)}
"""Each with the folders of its source."""
TRANSLATED = sorted(LANGUAGES.keys() - {DEFAULT})
KEYWORDS = {**DEFAULT_KEYWORDS, "to_translate": None}


@cache
def extract(domain: str) -> Catalog:
    """The messages in the source, as `make messages` finds them."""
    with (ROOT / "languages" / f"{domain}.ini").open() as file:
        methods, options = parse_mapping_cfg(file)  # type: ignore[no-untyped-call]
    catalogue = Catalog()
    for folder in DOMAINS[domain]:
        for _, _, message, _, context in extract_from_dir(ROOT / folder, methods, options, KEYWORDS):
            catalogue.add(message, context=context)
    return catalogue


def path_of(domain: str, tag: str, suffix: str) -> Path:
    return LOCALES / tag / "LC_MESSAGES" / f"{domain}{suffix}"


@cache
def read(domain: str, tag: str) -> Catalog:
    with path_of(domain, tag, ".po").open("rb") as file:
        return read_po(file)


def forms(texts: object) -> tuple[str, ...]:
    """The text of a message, or its texts if it has plural forms."""
    return (texts,) if isinstance(texts, str) else tuple(texts)  # type: ignore[arg-type] # gettext's two kinds

"""Pseudo-languages: English with accents, in brackets and longer. A text that isn't translated shows, and so does a box
that is too small. Their tags are for private use (ISO 639).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

from languages import words
from languages.choice import LANGUAGES, Language
from tests.languages.catalogues import DOMAINS, extract, forms

LONG = Language("qps", "Pseudo", "en_GB")
MIRRORED = Language("qtz", "Mirrored", "ar", "rtl")
GROWTH = 0.4
ACCENTS = str.maketrans("aceinosuyACEINOSUY", "åçéîñöšüÿÅÇÉÎÑÖŠÜŸ")
PLACEHOLDER = re.compile(r"(%\(\w+\)s)")
BRACKETED = re.compile(r"⟦[^⟦⟧]*⟧")
ENGLISH = re.compile(r"[A-Za-z]{2,}")


def translate(text: str) -> str:
    """Accented, in brackets, and longer by GROWTH."""
    parts = PLACEHOLDER.split(text)
    accented = "".join(part if index % 2 else part.translate(ACCENTS) for index, part in enumerate(parts))
    return f"⟦{accented}{' ~~~~' * max(1, round(GROWTH * len(text) / 5))}⟧"


def find_english(text: str) -> list[str]:
    """The words that stand in no translated text."""
    before = ""
    while text != before:
        before, text = text, BRACKETED.sub(" ", text)
    return ENGLISH.findall(text)


@contextmanager
def speaking(folder: Path, monkeypatch: pytest.MonkeyPatch, *languages: Language) -> Iterator[None]:
    """Add `languages` to those of the catalogues; theirs are written to `folder`."""
    for language in languages:
        target = folder / language.tag / "LC_MESSAGES"
        target.mkdir(parents=True)
        for domain in DOMAINS:
            with (target / f"{domain}.mo").open("wb") as file:
                write_mo(file, _catalogue(domain))
        monkeypatch.setitem(LANGUAGES, language.tag, language)
    monkeypatch.setattr(words, "LOCALES", folder)
    yield
    words.find_words.cache_clear()


def _catalogue(domain: str) -> Catalog:
    catalogue = Catalog("en", fuzzy=False)
    for message in extract(domain):
        if message.id:
            translated = tuple(map(translate, forms(message.id)))
            catalogue.add(message.id, translated[0] if isinstance(message.id, str) else translated)
    return catalogue

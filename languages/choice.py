"""The languages of the catalogues, and the choice of one for a user."""

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

DEFAULT: Final = "en"
SEPARATOR: Final = re.compile("[-_.@]")
Tag: TypeAlias = Literal["de", "en", "es", "fr", "it", "nl", "pl", "pt"]


class Language(NamedTuple):
    """`name` is its own for itself; `locale` is CLDR's, for numbers and dates."""

    tag: str
    name: str
    locale: str
    direction: Literal["ltr", "rtl"] = "ltr"


LANGUAGES: Final = {
    language.tag: language
    for language in (
        Language("de", "Deutsch", "de"),
        Language("en", "English", "en_GB"),
        Language("es", "Español", "es"),
        Language("fr", "Français", "fr"),
        Language("it", "Italiano", "it"),
        Language("nl", "Nederlands", "nl"),
        Language("pl", "Polski", "pl"),
        Language("pt", "Português", "pt_PT"),
    )
}


class Wishes(NamedTuple):
    """The languages that a request names: its token's claim `locale`, and its Accept-Language."""

    claimed: str | None = None
    accepted: str | None = None

    def choose(self, locale: str | None, default: str) -> str:
        """The user's `locale` in the application stands between the two."""
        return self.claimed or find_language(locale) or self.accepted or default


NO_WISHES: Final = Wishes()


def find_language(named: object) -> str | None:
    """The tag of the language that a claim, a column or a header names, as `de`, `de-AT` or `de_AT.UTF-8`."""
    if not isinstance(named, str):
        return None
    primary = SEPARATOR.split(named.strip(), maxsplit=1)[0].lower()
    return primary if primary in LANGUAGES else None


def find_accepted(weights: Mapping[str, float]) -> str | None:
    """The same of the items of an Accept-Language header, by their weights. `*` names none."""
    ranked = sorted(weights.items(), key=lambda item: -item[1])
    return next((tag for name, weight in ranked if weight > 0 and (tag := find_language(name))), None)

"""The words of one language. Messages are written in English in the source; their catalogues are in `locales/`.

English has no catalogue: a message that a catalogue lacks is shown as it was written.
"""

import datetime as dt
import gettext
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from languages.choice import DEFAULT, LANGUAGES, Language

if TYPE_CHECKING:
    from languages.formats import Formats

LOCALES: Final = Path(__file__).parent / "locales"
# Three catalogues: that of the service, that of the page's scripts, which is sent to browsers, and that of the client.
SERVICE: Final = "service"
SCRIPTS: Final = "scripts"
CLIENT: Final = "client"
# Plural forms depend on a number's last two digits, and some languages have their own for small ones.
PLURALS: Final = 200


def to_translate(text: str) -> str:
    """Mark `text` for the catalogues; the code that shows it translates it."""
    return text


class ScriptWords(NamedTuple):
    """Messages by the English ones, those with plural forms by the English singular; and the form of each number."""

    messages: dict[str, str | list[str]]
    plurals: str


class Words:
    def __init__(self, language: Language, domain: str) -> None:
        self.language: Final = language
        self.catalogue: Final = _load(domain, language)

    def gettext(self, message: str, **values: object) -> str:
        """The translation of `message`, in which `%(name)s` stands for a value."""
        return self.catalogue.gettext(message) % values

    def number(self, value: float) -> str:
        return self._formats.number(value)

    def size(self, size_bytes: int) -> str:
        return self._formats.size(size_bytes)

    def date(self, moment: dt.datetime) -> str:
        return self._formats.date(moment)

    def moment(self, moment: dt.datetime) -> str:
        """A date with its time of day, in UTC."""
        utc = moment.astimezone(dt.UTC)
        return self.gettext("%(date)s at %(time)s UTC", date=self.date(utc), time=self._formats.time(utc))

    @cached_property
    def script(self) -> "ScriptWords":
        catalogue = _load(SCRIPTS, self.language)
        if not isinstance(catalogue, _Catalogue):
            return ScriptWords({}, "")
        plurals = "".join(str(catalogue.plural(number)) for number in range(PLURALS))
        return ScriptWords(catalogue.messages(), plurals)

    @cached_property
    def _formats(self) -> "Formats":
        from languages.formats import Formats  # noqa: PLC0415 (Babel takes 5 MB, and the page's server needs none of it)

        return Formats(self.language.locale)


class _Catalogue(gettext.GNUTranslations):
    _catalog: dict[str | tuple[str, int], str]
    plural: Callable[[int], int]

    def messages(self) -> dict[str, str | list[str]]:
        plain: dict[str, str | list[str]] = {key: text for key, text in self._catalog.items() if isinstance(key, str)}
        with_forms: dict[str, list[str]] = {}
        for key, text in self._catalog.items():
            if isinstance(key, tuple):
                with_forms.setdefault(key[0], []).append(text)
        del plain[""]  # the catalogue's own facts
        return plain | with_forms


@cache
def find_words(tag: str, domain: str = SERVICE) -> Words:
    """The words of a language, by its tag in LANGUAGES. They are loaded when the language is first spoken."""
    return Words(LANGUAGES[tag], domain)


def _load(domain: str, language: Language) -> gettext.NullTranslations:
    is_source = language.tag == DEFAULT
    return gettext.translation(domain, LOCALES, [language.tag], class_=_Catalogue, fallback=is_source)

"""The sentences that the client says, in the language of the terminal."""

import os
from collections.abc import Mapping

from languages.choice import DEFAULT, find_language
from languages.words import CLIENT, Words, find_words

# A console escapes invisible characters, which could come from a server: so these sentences have none.
PLAIN_SPACES = str.maketrans("\u00a0\u202f", "  ")


def find_spoken(environ: Mapping[str, str]) -> str:
    """The tag of the language that gettext's variables name: LANGUAGE is a list, and doesn't count in the locale C."""
    locale = next(filter(None, map(environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "C")
    if locale.partition(".")[0] in {"C", "POSIX"}:
        return DEFAULT
    wanted = environ.get("LANGUAGE") or locale
    return next(filter(None, map(find_language, wanted.split(":"))), DEFAULT)


def gettext(message: str, **values: object) -> str:
    return _words().gettext(message, **values)


def ngettext(one: str, many: str, count: int, **values: object) -> str:
    """The form of the message for `count`, which is `%(number)s` in it."""
    return _words().catalogue.ngettext(one, many, count) % {"number": number(count), **values}


def number(value: int) -> str:
    return _words().number(value).translate(PLAIN_SPACES)


def size(count: int) -> str:
    """To the byte, for comparing."""
    return ngettext("%(number)s byte", "%(number)s bytes", count)


def records(count: int) -> str:
    return ngettext("%(number)s record", "%(number)s records", count)


def rows(count: int) -> str:
    return ngettext("%(number)s row", "%(number)s rows", count)


def users(count: int) -> str:
    return ngettext("%(number)s user", "%(number)s users", count)


def files(count: int) -> str:
    return ngettext("%(number)s file", "%(number)s files", count)


def _words() -> Words:
    return find_words(find_spoken(os.environ), CLIENT)

"""Templates that speak one language: by `_()`, `ngettext()`, and filters for numbers and dates."""

from collections.abc import Callable
from typing import TypeVar

from jinja2 import Environment

from languages.words import Words

E = TypeVar("E", bound=Environment)


def localize(environment: E, words: Words) -> E:
    """`environment`, which no other language uses, after teaching it that of `words`.

    The filter `tr` translates the value of a variable, if the catalogue has it.
    """
    environment.add_extension("jinja2.ext.i18n")
    environment.install_gettext_translations(words.catalogue, newstyle=True)  # type: ignore[attr-defined] # the extension's
    filters: dict[str, Callable[..., str]] = {
        "number": words.number,
        "size": words.size,
        "date": words.date,
        "moment": words.moment,
        "tr": words.catalogue.gettext,
    }
    environment.filters.update(filters)
    environment.globals |= {"lang": words.language.tag, "dir": words.language.direction}
    return environment

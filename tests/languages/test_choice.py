"""Which language a user is spoken to in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from languages.choice import LANGUAGES, NO_WISHES, Wishes, find_accepted, find_language


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("de", "de"),
        ("DE", "de"),
        ("de-CH", "de"),
        ("de_AT.UTF-8", "de"),
        (" pt-BR ", "pt"),
        ("en-XA", "en"),
        ("zh-Hant", None),
        ("deutsch", None),
        ("", None),
        ("-de", None),
        (None, None),
        (7, None),
        (["de"], None),
    ],
)
def test_a_named_language(named: object, found: str | None) -> None:
    assert find_language(named) == found


@given(st.text() | st.none() | st.integers() | st.lists(st.text()))
def test_any_name_is_of_a_catalogue_or_none(named: object) -> None:
    assert find_language(named) in {None, *LANGUAGES}


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ({}, None),
        ({"": 1.0}, None),
        ({"*": 1.0}, None),
        ({"fr-ca": 1.0, "en": 0.8}, "fr"),
        ({"en": 0.5, "pl": 0.9}, "pl"),
        ({"zh": 1.0, "nl": 0.1}, "nl"),
        ({"de": 0.0}, None),
        ({"it": 1.0, "es": 1.0}, "it"),
    ],
)
def test_an_accepted_language(weights: dict[str, float], found: str | None) -> None:
    assert find_accepted(weights) == found


@pytest.mark.parametrize(
    ("wishes", "locale", "chosen"),
    [
        (Wishes("fr", "it"), "pl", "fr"),
        (Wishes(None, "it"), "pl_PL", "pl"),
        (Wishes(None, "it"), "tlh", "it"),
        (Wishes(None, "it"), None, "it"),
        (NO_WISHES, None, "de"),
    ],
)
def test_the_order_of_wishes(wishes: Wishes, locale: str | None, chosen: str) -> None:
    assert wishes.choose(locale, "de") == chosen

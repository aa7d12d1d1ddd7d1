"""The operator's colours, and whether people can read them."""

import re

import pytest

from service.api.http.pages import PAGE_DIR
from service.branding.brand import PLAIN, load_brand
from service.branding.colors import (
    DARK,
    DARK_DEFAULT,
    LIGHT,
    LIGHT_DEFAULT,
    MIN_CONTRAST,
    contrast,
    lighten,
    make_palette,
    mix,
)
from service.errors import ConfigurationError
from service.settings import Settings, from_env
from tests.test_settings import REQUIRED

CSS = (PAGE_DIR / "page.css").read_text(encoding="utf-8")


def with_colors(light: str = "", dark: str = "") -> Settings:
    given = {"CARRYOUT_ACCENT_COLOR": light, "CARRYOUT_ACCENT_COLOR_DARK": dark}
    return from_env(REQUIRED | given)


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [
        ("#000000", "#ffffff", 21.0),
        ("#777777", "#ffffff", 4.48),
        ("#ff0000", "#ffffff", 4.0),
        ("#123456", "#123456", 1),
    ],
)
def test_contrast_is_wcags(one: str, other: str, ratio: float) -> None:
    assert contrast(one, other) == contrast(other, one) == pytest.approx(ratio, abs=0.01)


def test_mixing() -> None:
    assert (mix("#000000", "#ffffff", 0), mix("#000000", "#ff8000", 0.5), mix("#102030", "#ffffff", 1)) == (
        "#000000",
        "#804000",
        "#ffffff",
    )


@pytest.mark.parametrize("accent", ["#0b6b5d", "#000000", "#1a4fa0", "#b00020", "#5b2a86", "#6b6b6b"])
def test_all_that_is_derived_can_be_read(accent: str) -> None:
    for palette, theme in ((make_palette(accent, LIGHT, ""), LIGHT), (lighten(accent), DARK)):
        for ground in (*theme.grounds, palette.faint):
            assert contrast(palette.accent, ground) >= MIN_CONTRAST
        for text, ground in (
            (palette.on_accent, palette.accent),
            (palette.on_accent, palette.strong),
            (palette.strong, palette.faint),
        ):
            assert contrast(text, ground) >= MIN_CONTRAST


@pytest.mark.parametrize(
    ("light", "dark", "sentence"),
    [
        (
            "#ffcc00",
            "",
            "CARRYOUT_ACCENT_COLOR: #ffcc00 has a contrast of 1.4 in the light theme, and readable text needs",
        ),
        ("#1a4fa0", "#1a4fa0", "CARRYOUT_ACCENT_COLOR_DARK: #1a4fa0 has a contrast of 1.9 in the dark theme, and"),
        ("teal", "", "CARRYOUT_ACCENT_COLOR must be a colour such as #0b6b5d, with six hexadecimal digits"),
        ("#0b6", "", "CARRYOUT_ACCENT_COLOR must be a colour such as"),
        ("#0b6b5d; }", "", "CARRYOUT_ACCENT_COLOR must be a colour such as"),
        ("#1a4fa0", "url(x)", "CARRYOUT_ACCENT_COLOR_DARK must be a colour such as"),
        ("", "#62cdb8", "CARRYOUT_ACCENT_COLOR is needed with CARRYOUT_ACCENT_COLOR_DARK"),
    ],
)
def test_wrong_ones_are_named(light: str, dark: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_brand(with_colors(light, dark))
    assert str(raised.value).startswith(sentence)


def test_the_style_sheet_replaces_accents_alone() -> None:
    style = load_brand(with_colors("#1A4FA0", "#8ab4f8")).style
    assert re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", style) == [
        ("accent", "#1a4fa0"),
        ("accent-strong", "#143b78"),
        ("accent-faint", "#e8edf6"),
        ("on-accent", "#ffffff"),
        ("accent", "#8ab4f8"),
        ("accent-strong", "#a7c7fa"),
        ("accent-faint", "#2b353d"),
        ("on-accent", "#0d1110"),
    ]
    assert PLAIN.style == ""


def test_the_themes_are_those_of_the_page() -> None:
    """`colors.py` has the grounds and the defaults of page.css."""
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", part)) for part in CSS.split("prefers-color-scheme: dark")[:2]
    )
    for found, theme, palette in ((light, LIGHT, LIGHT_DEFAULT), (dark, DARK, DARK_DEFAULT)):
        assert (found["ground"], found["card"]) == theme.grounds
        assert (found["accent"], found["accent-strong"], found["accent-faint"], found["on-accent"]) == palette

"""The accent colour in the light and the dark theme, and the contrast that makes it readable (WCAG 2.2, 1.4.3)."""

import re
from typing import Final, NamedTuple

from service.errors import ConfigurationError

MIN_CONTRAST: Final = 4.5
COLOR: Final = re.compile(r"#[0-9a-f]{6}")
WHITE: Final = "#ffffff"
BLACK: Final = "#000000"
STEPS: Final = 20


class Theme(NamedTuple):
    """The grounds that accents stand on, and how the other colours are made of one; page.css has the rest."""

    name: str
    grounds: tuple[str, ...]
    card: str
    on_accent: str
    stronger: str
    faint_share: float


LIGHT: Final = Theme("light", ("#f6f6f3", WHITE), WHITE, WHITE, BLACK, 0.1)
DARK: Final = Theme("dark", ("#131615", "#1c201f"), "#1c201f", "#0d1110", WHITE, 0.14)


class Palette(NamedTuple):
    """The accent, the same for a pointer above it, a ground in its hue, and the text on the accent."""

    accent: str
    strong: str
    faint: str
    on_accent: str


# As page.css has them.
LIGHT_DEFAULT: Final = Palette("#0b6b5d", "#084f45", "#e4f1ee", WHITE)
DARK_DEFAULT: Final = Palette("#62cdb8", "#86dccb", "#1b322d", "#06231e")


def parse_color(text: str, name: str) -> str:
    """Raises ConfigurationError, which names the setting `name`."""
    color = text.lower()
    if not COLOR.fullmatch(color):
        raise ConfigurationError(f"{name} must be a colour such as #0b6b5d, with six hexadecimal digits")
    return color


def make_palette(accent: str, theme: Theme, name: str) -> Palette:
    """Raises ConfigurationError if the accent can't be read in the theme."""
    palette = _derive(accent, theme)
    ratio = _readability(palette, theme)
    if ratio < MIN_CONTRAST:
        wanted = "darker" if theme is LIGHT else "lighter"
        raise ConfigurationError(
            f"{name}: {accent} has a contrast of {ratio:.1f} in the {theme.name} theme, and readable text needs "
            f"{MIN_CONTRAST}: choose a {wanted} colour"
        )
    return palette


def lighten(accent: str) -> Palette:
    """The palette of the dark theme for an accent of the light one: as much lighter as it takes."""
    made = (_derive(mix(accent, WHITE, step / STEPS), DARK) for step in range(STEPS + 1))
    return next(palette for palette in made if _readability(palette, DARK) >= MIN_CONTRAST)


def contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mix(color: str, other: str, share: float) -> str:
    """`color` with that share of `other`."""
    pairs = zip(_channels(color), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _derive(accent: str, theme: Theme) -> Palette:
    faint = mix(theme.card, accent, theme.faint_share)
    return Palette(accent, mix(accent, theme.stronger, 0.25), faint, theme.on_accent)


def _readability(palette: Palette, theme: Theme) -> float:
    """The least contrast of a text in the accent or on it."""
    on_grounds = [contrast(palette.accent, ground) for ground in (*theme.grounds, palette.faint)]
    on_accents = [contrast(palette.on_accent, accent) for accent in (palette.accent, palette.strong)]
    return min(*on_grounds, *on_accents, contrast(palette.strong, palette.faint))


def _luminance(color: str) -> float:
    red, green, blue = (_linear(channel / 255) for channel in _channels(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    """By WCAG's definition of relative luminance."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4  # noqa: PLR2004


def _channels(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue

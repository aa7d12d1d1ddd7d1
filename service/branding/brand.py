"""The operator's brand: what templates of pages, mails and packages need of it."""

from base64 import b64encode
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from service.backends.mail_addresses import normalize_address
from service.branding.colors import (
    DARK,
    DARK_DEFAULT,
    LIGHT,
    LIGHT_DEFAULT,
    Palette,
    lighten,
    make_palette,
    parse_color,
)
from service.branding.logo import Logo, load_logo
from service.errors import ConfigurationError
from service.settings import Settings

LIGHT_NAME: Final = "CARRYOUT_ACCENT_COLOR"
DARK_NAME: Final = "CARRYOUT_ACCENT_COLOR_DARK"
SUPPORT_NAME: Final = "CARRYOUT_SUPPORT_ADDRESS"
LOGO_ID: Final = "logo@carryout"
# The policy of a picture that is opened by itself.
PICTURE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"


class Support(NamedTuple):
    """Where users get help, as a text and as a link."""

    text: str
    link: str


class Brand(NamedTuple):
    """`name` is that of the application, empty without one."""

    name: str = ""
    support: Support | None = None
    light: Palette = LIGHT_DEFAULT
    dark: Palette = DARK_DEFAULT
    logo: Logo | None = None

    @property
    def style(self) -> str:
        """The style sheet that replaces the page's accents; empty if they are Carryout's own."""
        if (self.light, self.dark) == (LIGHT_DEFAULT, DARK_DEFAULT):
            return ""
        dark = f"@media (prefers-color-scheme: dark) {{ {_variables(self.dark)} }}"
        return f"\n{_variables(self.light)}\n{dark}\n"

    @property
    def embedded_logo(self) -> str:
        """The logo as an address that holds it."""
        return f"data:{self.logo.media_type};base64,{b64encode(self.logo.content).decode()}" if self.logo else ""

    @property
    def mail_logo(self) -> str:
        """The logo as an address in a mail that carries it; empty for an SVG, which few mail programs show."""
        return f"cid:{LOGO_ID}" if self.logo and self.logo.media_type == "image/png" else ""


PLAIN: Final = Brand()


def load_brand(settings: Settings) -> Brand:
    """Raises ConfigurationError if a colour can't be read, an address isn't one, or the logo isn't a safe picture."""
    if settings.logo_file and not settings.product_name:
        raise ConfigurationError("CARRYOUT_PRODUCT_NAME is needed with CARRYOUT_LOGO_FILE, for those who can't see it")
    light, dark = _palettes(settings)
    return Brand(
        name=settings.product_name,
        support=_parse_support(settings.support_address) if settings.support_address else None,
        light=light,
        dark=dark,
        logo=load_logo(Path(settings.logo_file)) if settings.logo_file else None,
    )


def _palettes(settings: Settings) -> tuple[Palette, Palette]:
    if not settings.accent_color:
        if settings.accent_color_dark:
            raise ConfigurationError(f"{LIGHT_NAME} is needed with {DARK_NAME}")
        return LIGHT_DEFAULT, DARK_DEFAULT
    accent = parse_color(settings.accent_color, LIGHT_NAME)
    light = make_palette(accent, LIGHT, LIGHT_NAME)
    if not settings.accent_color_dark:
        return light, lighten(accent)
    return light, make_palette(parse_color(settings.accent_color_dark, DARK_NAME), DARK, DARK_NAME)


def _parse_support(text: str) -> Support:
    if text.startswith("https://") and " " not in text:
        return Support(text, text)
    address = normalize_address(text)
    if address is None:
        raise ConfigurationError(f"{SUPPORT_NAME} must be one mail address, or a URL that begins with https://")
    return Support(address, f"mailto:{quote(address, safe='@')}")


def _variables(palette: Palette) -> str:
    values = {
        "accent": palette.accent,
        "accent-strong": palette.strong,
        "accent-faint": palette.faint,
        "on-accent": palette.on_accent,
    }
    return f":root {{ {' '.join(f'--{name}: {value};' for name, value in values.items())} }}"

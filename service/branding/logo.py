"""The operator's logo: a PNG, or an SVG that draws and does nothing else."""

import re
import struct
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree.ElementTree import Element, ParseError, fromstring

from guard.files import read_trusted
from service.errors import ConfigurationError

NAME: Final = "CARRYOUT_LOGO_FILE"
# A mail carries it, and so does the first page of a package.
MAX_BYTES: Final = 65_536
MAX_PIXELS: Final = 4_096
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# Length, type, width and height of the first chunk.
PNG_HEADER: Final = struct.Struct(">I4sII")
PNG_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
SVG: Final = "{http://www.w3.org/2000/svg}"
XLINK_HREF: Final = "{http://www.w3.org/1999/xlink}href"
# Without script, style sheets, animation, links, text in foreign markup, and pictures within the picture.
SVG_ELEMENTS: Final = frozenset(
    {
        *("svg", "g", "defs", "symbol", "use"),
        *("path", "rect", "circle", "ellipse", "line", "polyline", "polygon"),
        *("text", "tspan", "title", "desc", "metadata"),
        *("linearGradient", "radialGradient", "stop", "clipPath", "mask", "pattern"),
    }
)
DECLARATION: Final = re.compile(r"<!(?!--)|<\?xml-stylesheet", re.IGNORECASE)
REFERENCE: Final = re.compile(r"url\((?!\s*['\"]?#)|expression|@import|javascript:", re.IGNORECASE)


class Logo(NamedTuple):
    """`file_name` is that under which the service shows it."""

    file_name: str
    media_type: str
    content: bytes


def load_logo(path: Path) -> Logo:
    """Raises ConfigurationError if it isn't a picture of these kinds, or too large."""
    try:
        content = read_trusted(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"{NAME} names a file that can't be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise ConfigurationError(f"{NAME} names a file of {len(content)} bytes, and may have {MAX_BYTES}")
    if content.startswith(PNG_SIGNATURE):
        _require_png(content)
        return Logo("logo.png", "image/png", content)
    _require_svg(content)
    return Logo("logo.svg", "image/svg+xml", content)


def _require_png(content: bytes) -> None:
    try:
        _, kind, width, height = PNG_HEADER.unpack_from(content, len(PNG_SIGNATURE))
    except struct.error:
        kind, width, height = b"", 0, 0
    if kind != b"IHDR" or not content.endswith(PNG_END):
        raise ConfigurationError(f"{NAME} names a PNG that is cut off")
    if not (0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS):
        raise ConfigurationError(f"{NAME} names a PNG of {width} by {height} pixels, and may have {MAX_PIXELS} each")


def _require_svg(content: bytes) -> None:
    """Browsers run no script of a picture in a page, but would if a person opened its address."""
    try:
        text = content.decode()
        if DECLARATION.search(text):  # of entities, which could make another document of it
            raise ConfigurationError(f"{NAME} names an SVG with a document type: save it as plain SVG, or as PNG")
        root = fromstring(text)  # noqa: S314 (without a document type, no entities)
    except (ParseError, UnicodeDecodeError):
        raise ConfigurationError(f"{NAME} names a file that is neither a PNG nor an SVG in UTF-8") from None
    if root.tag != f"{SVG}svg":
        raise ConfigurationError(f"{NAME} names a file that is neither a PNG nor an SVG in UTF-8")
    for element in root.iter():
        if fault := _find_fault(element):
            raise ConfigurationError(f"{NAME} names an SVG with {fault}: save it as plain SVG, or as PNG")


def _find_fault(element: Element) -> str:
    name = str(element.tag).removeprefix(SVG)
    if name not in SVG_ELEMENTS:
        return f"the element {name.rpartition('}')[2]}"
    for attribute, value in element.attrib.items():
        plain = attribute.rpartition("}")[2]
        if plain.lower().startswith("on"):
            return f"the attribute {plain}"
        if plain == "href" and not value.startswith("#"):
            return "a link"
        if REFERENCE.search(value):
            return "an address in a style"
    return ""

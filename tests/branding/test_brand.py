"""The operator's name, address and logo."""

import struct
import zlib
from pathlib import Path

import pytest

from service.branding.brand import Brand, load_brand
from service.branding.logo import MAX_BYTES
from service.errors import ConfigurationError
from service.settings import from_env
from tests.test_settings import REQUIRED

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">{}</svg>'
PLAIN_SVG = SVG.format('<!-- ours --><defs><path id="a" d="M0 0h8"/></defs><use href="#a" fill="url(#b)"/>')


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int = 2, height: int = 1) -> bytes:
    pixels = zlib.compress(b"".join(b"\0" + b"\x0b\x6b\x5d" * min(width, 2) for _ in range(min(height, 2))))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def brand_with(**given: str) -> Brand:
    return load_brand(from_env(REQUIRED | {f"CARRYOUT_{name.upper()}": text for name, text in given.items()}))


def with_logo(folder: Path, content: bytes) -> Brand:
    path = folder / "logo"
    path.write_bytes(content)
    return brand_with(product_name="Acme", logo_file=str(path))


@pytest.mark.parametrize(
    ("address", "text", "link"),
    [
        ("help@acme.example", "help@acme.example", "mailto:help@acme.example"),
        ("hälp+a&b@acme.example", "hälp+a&b@acme.example", "mailto:h%C3%A4lp%2Ba%26b@acme.example"),
        ("https://acme.example/help?a=1", "https://acme.example/help?a=1", "https://acme.example/help?a=1"),
    ],
)
def test_support(address: str, text: str, link: str) -> None:
    assert brand_with(support_address=address).support == (text, link)


@pytest.mark.parametrize(
    "address",
    ["http://acme.example", "javascript:alert(1)", "Acme <help@acme.example>", "a@b, c@d", "https://a b", "x"],
)
def test_wrong_support(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_SUPPORT_ADDRESS must be one mail address, or a URL"):
        brand_with(support_address=address)


def test_a_logo_needs_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_PRODUCT_NAME is needed with CARRYOUT_LOGO_FILE"):
        brand_with(logo_file=str(tmp_path / "logo.png"))


@pytest.mark.parametrize(
    ("content", "name", "media_type"),
    [(png(), "logo.png", "image/png"), (PLAIN_SVG.encode(), "logo.svg", "image/svg+xml")],
)
def test_a_logo_is_what_it_contains(tmp_path: Path, content: bytes, name: str, media_type: str) -> None:
    assert with_logo(tmp_path, content).logo == (name, media_type, content)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "neither a PNG nor an SVG"),
        (b"GIF89a", "neither a PNG nor an SVG"),
        (b"<html xmlns='http://www.w3.org/1999/xhtml'/>", "neither a PNG nor an SVG"),
        ("<svg/>".encode("utf-16"), "neither a PNG nor an SVG"),
        (png()[:20], "cut off"),
        (png()[:-1], "cut off"),
        (png(width=5_000), "5000 by 1 pixels"),
        (png(height=0), "2 by 0 pixels"),
        (b"x" * (MAX_BYTES + 1), f"{MAX_BYTES + 1} bytes"),
        *(
            (SVG.format(inner).encode(), fault)
            for inner, fault in [
                ("<script>alert(1)</script>", "the element script"),
                ("<foreignObject/>", "the element foreignObject"),
                ("<style>*{}</style>", "the element style"),
                ("<animate/>", "the element animate"),
                ("<image/>", "the element image"),
                ("<a/>", "the element a"),
                ('<html xmlns="http://www.w3.org/1999/xhtml"/>', "the element html"),
                ('<g onload="alert(1)"/>', "the attribute onload"),
                ('<g ONCLICK="alert(1)"/>', "the attribute ONCLICK"),
                ('<use href="https://evil.example/#a"/>', "a link"),
                ('<use xmlns:l="http://www.w3.org/1999/xlink" l:href="data:,x"/>', "a link"),
                ('<g fill="url(https://evil.example)"/>', "an address in a style"),
                ("<g style=\"fill: URL( 'https://evil.example')\"/>", "an address in a style"),
            ]
        ),
        (b'<!DOCTYPE svg [<!ENTITY a "b">]>' + PLAIN_SVG.encode(), "a document type"),
        (b'<?xml-stylesheet href="x"?>' + PLAIN_SVG.encode(), "a document type"),
        (SVG.format("<![CDATA[x]]>").encode(), "a document type"),
        (SVG.format("<g>").encode(), "neither a PNG nor an SVG"),
    ],
)
def test_other_logos_are_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^CARRYOUT_LOGO_FILE names .*{fault}"):
        with_logo(tmp_path, content)


def test_a_missing_logo(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_LOGO_FILE names a file that can't be read: No such file"):
        brand_with(product_name="Acme", logo_file=str(tmp_path / "none.png"))

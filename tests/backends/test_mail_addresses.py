"""The addresses of users, as applications store them, and the sender's."""

import pytest

from service.backends.mail_addresses import normalize_address, parse_mail_from
from service.errors import ConfigurationError


@pytest.mark.parametrize(
    "address",
    [
        "a@b",
        "o'brien+exports@example.org",
        "x" * 64 + "@" + ".".join(["y" * 61] * 3) + ".abc",
        "UPPER.lower_1@sub-domain.example.org",
        "jürgen@müller.example",
        '"ada..x"@example.org',
    ],
)
def test_addresses_that_stay_as_they_are(address: str) -> None:
    assert normalize_address(address) == address


@pytest.mark.parametrize(
    ("stored", "address"),
    [
        (" ada@example.org", "ada@example.org"),
        ("ada@example.org\r\n", "ada@example.org"),
        ("\u00a0ada@example.org\u200b\t", "ada@example.org"),
        ("\ufeffada@example.org", "ada@example.org"),
        ("ada@example.org.", "ada@example.org"),
        ("ada..x@example.org", '"ada..x"@example.org'),
        (".ada@example.org", '".ada"@example.org'),
        ("ada.@example.org", '"ada."@example.org'),
        (" a...b.@docomo.example ", '"a...b."@docomo.example'),
        ("jü..x@example.org", '"jü..x"@example.org'),
        ('"ada.x"@example.org', "ada.x@example.org"),
    ],
)
def test_addresses_in_use_are_trimmed_and_quoted(stored: str, address: str) -> None:
    assert normalize_address(stored) == address
    assert normalize_address(address) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@example.org",
        "..@example.org",
        '""@example.org',
        "ada@",
        "a@x.org, b@y.org",
        "a@x.org,b@y.org",
        "a@x.org;b@y.org",
        "a@x.org b@y.org",
        "Ada <ada@example.org>",
        "<ada@example.org>",
        "ada@example.org (Ada)",
        '"a b"@example.org',
        '"a@x.org, b"@example.org',
        '"ada"x"@example.org',
        '"ada\\"@example.org',
        '"ada@example.org',
        "ada@example.org\r\nBcc: eve@example.org",
        "ada\r\nRCPT TO:<eve@example.org>@example.org",
        "ada@exam\0ple.org",
        "ada@example.org\u2028",
        "ada\u202e@example.org",
        "a\u200bb@example.org",
        "a\u00a0b@example.org",
        "ada@eve@example.org",
        "ada@example..org",
        "ada@example.org..",
        "ada@-example.org",
        "ada@[192.0.2.1]",
        "ada@" + "x" * 64 + ".org",
        "x" * 65 + "@example.org",
        "x" * 61 + "..x@example.org",  # 64, and its quotes
        "ü" * 33 + "@example.org",
        "a@" + ".".join(["y" * 50] * 5),
        "ada%eve@example.org>",
        "undisclosed: ada@example.org;",
    ],
)
def test_a_text_that_is_not_exactly_one_address_is_refused(text: str) -> None:
    assert normalize_address(text) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [("a@example.org", ""), ("Carryout <a@example.org>", "Carryout"), ('"Foo, Inc" <a@example.org>', "Foo, Inc")],
)
def test_senders(text: str, name: str) -> None:
    sender = parse_mail_from(text)

    assert (sender.display_name, sender.addr_spec) == (name, "a@example.org")


@pytest.mark.parametrize(
    "text",
    [
        "Carryout",
        "a@x, b@y",
        "Foo, Inc <a@x>",
        "A <a@x> <b@y>",
        "A <a@x>\r\nBcc: b@y",
        "a..b@x",
        "jürgen@example.org",
        "G: a@x, b@y;",
    ],
)
def test_wrong_senders_are_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="CARRYOUT_MAIL_FROM"):
        parse_mail_from(text)

"""File names as other programs read them from the header (RFC 6266, RFC 8187), by their kinds in greenbytes' cases."""

import email
import email.policy
import warnings

import pytest
from aiohttp.multipart import content_disposition_filename, parse_content_disposition

from service.content_disposition import attachment

UNCHANGED = {
    "plain": "foo.html",
    "spaces": "foo bar.html",
    "capitals": "FOO-bar_1.CSV",
    "two dots": "foo.tar.gz",
    "dot first": ".profile",
    "long": "x" * 200 + ".csv",
    "quotes": 'foo-"bar".html',
    "single quotes": "foo's.html",
    "semicolon": "foo;bar.html",
    "comma": "foo,bar.html",
    "another parameter": 'foo"; filename="bar.exe',
    "another extended parameter": "foo; filename*=UTF-8''bar.exe",
    "equals": "foo=bar.html",
    "percent": "foo-%41.html",
    "percent and UTF-8": "foo-%c3%a4.html",
    "percent alone": "100%.html",
    "encoded word": "=?ISO-8859-1?Q?foo=2D=E4.html?=",
    "umlaut": "foo-\u00e4.html",
    "umlaut in two characters": "foo-a\u0308.html",
    "euro": "\u20ac.html",
    "Arabic": "\u0645\u0644\u0641.csv",
    "Chinese": "\u6587\u4ef6.csv",
    "emoji": "\U0001f680.csv",
    "brackets": "foo(1)[2]{3}<4>.csv",
    "asterisk and tilde": "foo*~!$&+^`|#.csv",
    "colon and at": "user@example.com:1.csv",
}
CHANGED = {
    "path": ("../../etc/passwd", ".._.._etc_passwd"),
    "absolute path": ("/etc/passwd", "_etc_passwd"),
    "backslashes": ("..\\windows\\win.ini", ".._windows_win.ini"),
    "line break": ("a\r\nSet-Cookie: b", "a__Set-Cookie: b"),
    "NUL": ("a\0.csv", "a_.csv"),
    "tab and DEL": ("a\t\x7f.csv", "a__.csv"),
    "lone surrogate": ("a\ud800.csv", "a?.csv"),
}


@pytest.mark.parametrize(
    ("given", "name"),
    [*((name, name) for name in UNCHANGED.values()), *CHANGED.values()],
    ids=[*UNCHANGED, *CHANGED],
)
def test_other_programs_read_the_name(given: str, name: str) -> None:
    header = attachment(given)
    assert header.isascii()
    assert header.isprintable()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of what aiohttp finds wrong with a header
        kind, parameters = parse_content_disposition(header)
    assert kind == "attachment"
    assert parameters.keys() <= {"filename", "filename*"}
    assert content_disposition_filename(parameters) == name
    _, _, extended = header.rpartition("; ")  # email takes the first of two names
    message = email.message_from_string(f"Content-Disposition: attachment; {extended}\n\n", policy=email.policy.HTTP)
    assert message.get_filename() == name


@pytest.mark.parametrize("given", [*UNCHANGED.values(), *(given for given, _ in CHANGED.values())])
def test_programs_without_the_extended_name_read_a_plain_one(given: str) -> None:
    """One in quotes that needs no escapes, because programs differ in undoing them; and that no program decodes."""
    plain = attachment(given).partition('"')[2].partition('"')[0]
    assert len(plain) == len(given)
    assert not set(plain) & set('"\\%/;')

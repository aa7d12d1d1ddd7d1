"""JSON of the kinds that the JSONTestSuite collects, re-made: valid, invalid, and left to the reader by RFC 8259.

Each goes to every reader of JSON from outside: the bodies of requests, the parts of tokens, and providers' key sets.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx
import pytest

from guard.text import printable
from service.access.jwks import parse_key_set
from service.access.tokens import open_jwt_verifier
from service.api.selections import EMPTY
from tests.api.problems import bearer, read_problem
from tests.conftest import Token
from tests.support.tokens import HEADER, SECRET, USER, claims, make_settings, refused, sign

VALID = {
    "array, empty": b"[]",
    "array, with spaces": b" [ ] ",
    "array, with line breaks": b"[1\n,\r\n2\t]",
    "array, of everything": b'[null,1,"1",{},[],true,false]',
    "array, of an empty text": b'[""]',
    "array, ends in spaces": b"[2]  ",
    "number": b"123",
    "number, zero": b"0",
    "number, minus zero": b"-0",
    "number, negative": b"-123",
    "number, fraction": b"123.456789",
    "number, fraction of zeros": b"0.000",
    "number, long fraction": b"0." + b"0" * 80 + b"1",
    "number, exponent": b"1e22",
    "number, capital exponent": b"1E22",
    "number, exponent with plus": b"1E+2",
    "number, exponent with minus": b"1e-2",
    "number, exponent with zeros": b"1e0002",
    "number, fraction and exponent": b"-123.456e78",
    "text, empty": b'""',
    "text, of spaces": b'" "',
    "text, all escapes": rb'"\"\\\/\b\f\n\r\t"',
    "text, escaped letters": rb'"\u0061\u30af\u30EA\u30b9"',
    "text, escaped pair": rb'"\uD801\udc37"',
    "text, two escaped pairs": rb'"\ud83d\ude39\ud83d\udc8d"',
    "text, escaped backslash before u": rb'"\\u0000"',
    "text, escaped backslash before n": rb'"\\n"',
    "text, looks like a comment": b'"a/*b*/c/*d//e"',
    "text, DEL": b'"\x7f"',
    "text, UTF-8 of two bytes": '"\u00e9"'.encode(),
    "text, UTF-8 of three bytes": '"\u2028\u2029\u20ac"'.encode(),
    "text, UTF-8 of four bytes": '"\U0001f680"'.encode(),
    "text, last character": '"\U0010ffff"'.encode(),
    "text, noncharacters": '"\ufffe\uffff\U0001fffe"'.encode(),
    "text, escaped noncharacter": rb'"\uFFFE\uDBFF\uDFFE"',
    "text, byte order mark inside": '"\ufeff"'.encode(),
    "text, escaped control characters": rb'"\u0001\u001f\u007F"',
    "literal, true": b"true",
    "literal, false": b"false",
    "literal, null": b"null",
    "object, empty": b"{}",
    "object, empty name": b'{"":0}',
    "object, with spaces": b' { "a" : "b" , "c" : [ ] } ',
    "object, with line breaks": b'{\n"a": "b"\r\n}',
    "object, names that differ in case": b'{"a":1,"A":2}',
    "object, long text": b'{"x":[{"id":"' + b"x" * 400 + b'"}]}',
    "object, escaped name": rb'{"\u0061\"\\":1}',
    "white space": b"\t\r\n [\t\r\n ]\t\r\n ",
    "nested, a hundred": b"[" * 100 + b"]" * 100,
}
INVALID = {
    "nothing but space": b" ",
    "array, no end": b'["x"',
    "array, no begin": b"1]",
    "array, no end after a comma": b"[1,",
    "array, closed as an object": b"[1}",
    "array, closed twice": b'["x"]]',
    "array, comma at the end": b"[1,]",
    "array, comma at the begin": b"[,1]",
    "array, comma alone": b"[,]",
    "array, two commas": b"[1,,2]",
    "array, commas at the end": b'["",,]',
    "array, no comma": b'["a" "b"]',
    "array, no comma before an array": b"[3[4]]",
    "array, colon for comma": b'["":1]',
    "array, star": b"[*]",
    "array, line break unended": b'["a",\n4\n,1,',
    "array, line break in text": b'["\na"]',
    "array, form feed": b"[\x0c]",
    "array, vertical tab": b'["\x0b"]',
    "array, no-break space": b"[\xc2\xa0]",
    "array, ellipsis": b"[1...2]",
    "number, plus": b"+1",
    "number, two signs": b"--1",
    "number, plus and minus": b"+-1",
    "number, sign alone": b"-",
    "number, sign and space": b"- 1",
    "number, leading zero": b"012",
    "number, negative leading zero": b"-012",
    "number, negative with a point first": b"-.123",
    "number, point first": b".5",
    "number, point alone": b".",
    "number, point last": b"2.",
    "number, point before exponent": b"2.e3",
    "number, two points": b"1.2.3",
    "number, exponent alone": b"1e",
    "number, exponent plus alone": b"1e+",
    "number, exponent twice": b"1eE2",
    "number, exponent minus plus": b"0e-+1",
    "number, exponent with a point": b"1e2.5",
    "number, no digits before exponent": b"e1",
    "number, hexadecimal": b"0x42",
    "number, octal": b"0o17",
    "number, underscore": b"1_000",
    "number, space inside": b"1 000.0",
    "number, letters behind": b"1a",
    "number, NaN": b"NaN",
    "number, minus NaN": b"-NaN",
    "number, Infinity": b"Infinity",
    "number, minus Infinity": b"-Infinity",
    "number, inf": b"inf",
    "number, expression": b"1+2",
    "number, fullwidth digit": "\uff11".encode(),
    "number, Arabic digit": "\u0661".encode(),
    "number, in latin-1": b"123\xe5",
    "text, no end": b'"a',
    "text, no begin": b'a"',
    "text, quote alone": b'"',
    "text, single quotes": b"'a'",
    "text, no quotes": b"abc",
    "text, curly quotes": "\u201ca\u201d".encode(),
    "text, escape of x": rb'"\x00"',
    "text, escape of a": rb'"\a"',
    "text, escape of U": rb'"\U0001f680"',
    "text, escape of a byte": b'"\\\xe5"',
    "text, escape of an emoji": '"\\\U0001f300"'.encode(),
    "text, escaped tab": b'"\\\t"',
    "text, escape cut": rb'"\u00A"',
    "text, escape without digits": rb'"\u"',
    "text, escape of no digits": rb'"\uqqqq"',
    "text, second escape cut": rb'"\uD834\uDd"',
    "text, escape with fullwidth digits": '"\\u00\uff14\uff11"'.encode(),
    "text, escape with a sign": rb'"\u+041"',
    "text, escape with an underscore": rb'"\u0_41"',
    "text, escapes its end": rb'"\"',
    "text, odd backslashes": rb'"\\\"',
    "text, raw NUL": b'"\0"',
    "text, raw tab": b'"\t"',
    "text, raw unit separator": b'"\x1f"',
    "text, raw line break": b'"\n"',
    "text, garbage behind": b'""x',
    "text, comment behind": b'"x"/**/',
    "text, escape outside": rb"\u000A",
    "literal, cut": b"t",
    "literal, cut null": b"nul",
    "literal, capitals": b"True",
    "literal, Python's": b"None",
    "literal, JavaScript's": b"undefined",
    "literal, two": b"true false",
    "object, no end": b'{"a":1',
    "object, no begin": b'"a":1}',
    "object, brace alone": b"}",
    "object, comma alone": b"{,}",
    "object, comma at the end": b'{"a":0,}',
    "object, two commas": b'{"a":0,,"b":1}',
    "object, no colon": b'{"a" "b"}',
    "object, two colons": b'{"a"::"b"}',
    "object, equals": b'{"a"=1}',
    "object, no value": b'{"a":}',
    "object, no name": b'{:"b"}',
    "object, name alone": b'{"a"}',
    "object, name without quotes": b"{a:1}",
    "object, name in single quotes": b"{'a':1}",
    "object, name is a number": b"{1:1}",
    "object, name is null": b"{null:1}",
    "object, name is an array": b"{[1]:1}",
    "object, comment inside": b'{"a":/**/"b"}',
    "object, comment behind": b'{"a":"b"}/**/',
    "object, line comment behind": b'{"a":"b"}// x',
    "object, hash comment behind": b'{"a":"b"}#',
    "object, bracket for brace": b'{"a":1]',
    "object, closed twice": b'{"a":"b"}}',
    "object, closed as an array": b'["a":1}',
    "object, two": b"{}{}",
    "object, name twice": b'{"a":1,"a":2}',
    "object, name and value twice": b'{"a":1,"a":1}',
    "object, name twice by an escape": rb'{"a":1,"\u0061":1}',
    "object, name twice inside": b'[{"x":{"a":1,"a":1}}]',
    "structure, lone comma": b",",
    "structure, lone colon": b":",
    "structure, angle brackets": b"<null>",
    "structure, parentheses": b"(1)",
    "structure, semicolon": b"1;",
    "structure, backtick": b"`1`",
    "structure, NUL behind": b"1\0",
    "structure, NUL before": b"\x001",
    "structure, ends in garbage": b"[1]x",
    "structure, byte order mark alone": b"\xef\xbb\xbf",
    "structure, half a byte order mark": b"\xef\xbb{}",
    "structure, word joiner": b"[\xe2\x81\xa0]",
    "structure, ideographic space": "[\u3000]".encode(),
    "structure, line separator": "[\u2028]".encode(),
    "structure, lone continuation byte": b"\x80",
    "structure, lone bytes": b"\xff\xfe\xfd",
    "structure, brackets without end": b"[" * 10_000,
    "structure, braces without end": b'{"":' * 2_500,
    "structure, brackets and braces without end": b'[{"":' * 2_000,
    "text, bytes of latin-1": b'"\xe9"',
    "text, cut UTF-8": b'"\xe0\xff"',
    "text, overlong UTF-8 of two bytes": b'"\xc0\xaf"',
    "text, overlong UTF-8 of six bytes": b'"\xfc\x83\xbf\xbf\xbf\xbf"',
    "text, UTF-8 of a surrogate": b'"\xed\xa0\x80"',
    "text, UTF-8 beyond Unicode": b'"\xf4\xbf\xbf\xbf"',
    "text, UTF-8 cut by its end": b'"\xe2\x82"',
    "UTF-8 with a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16, little-endian": '["\u00e9"]'.encode("utf-16"),
    "UTF-16, big-endian": '["\u00e9"]'.encode("utf-16-be"),
    "UTF-32": "{}".encode("utf-32"),
}
"""Also what RFC 8259 leaves to the reader, where two readers could see two things: names twice, no UTF-8."""

UNDEFINED = {
    "number, overflows": b"1e999",
    "number, overflows negatively": b"-1e999",
    "number, underflows": b"123e-10000000",
    "number, huge exponent": b"0.4e00669999999999999999999999999999999999999999999969999999006",
    "number, huge negative exponent": b"-1e-9999999999999999999999999",
    "number, beyond 64 bits": b"100000000000000000000",
    "number, below 64 bits": b"-237462374673276894279832749832423479823246327846",
    "number, of 4,301 digits": b"9" * 4_301,
    "number, of 10,000 digits": b"9" * 10_000,
    "text, lone high surrogate": rb'"\uD800"',
    "text, lone low surrogate": rb'"\uDFAA"',
    "text, inverted surrogates": rb'"\uDd1e\uD834"',
    "text, two high surrogates": rb'"\uD888\uD888"',
    "text, high surrogate before a letter": rb'"\uD800a"',
    "text, high surrogate before a line break": rb'"\uD800\n"',
    "text, high surrogate before an escape": rb'"\uDADA\u0061"',
    "text, escaped NUL": rb'"\u0000"',
    "object, lone surrogate as a name": rb'{"\uDFAA":0}',
    "nested, five hundred": b"[" * 500 + b"]" * 500,
    "nested, five thousand": b"[" * 5_000 + b"]" * 5_000,
}
"""Read or refused, as long as nothing breaks."""


async def answers(api: httpx.AsyncClient, token: str, bodies: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The problem that each body gets: none of them may start an export, or break anything."""
    headers = bearer(token) | {"Content-Type": "application/json"}
    problems = {}
    for name, body in bodies.items():
        answer = await api.post("/api/export", content=body, headers=headers)
        problems[name] = read_problem(answer, 422 if answer.status_code == 422 else 400)
    return problems


class TestBodies:
    """A valid text that isn't a request is a 422; an invalid one is a 400 that says that it isn't JSON."""

    @pytest.mark.parametrize("place", [b"%b", b'{"format":"csv","since":%b,"sections":[]}', b'{"unknown":%b}'])
    async def test_valid(self, idle_api: httpx.AsyncClient, token: Token, place: bytes) -> None:
        problems = await answers(idle_api, token(USER), put(VALID, place))
        assert {name: problem["status"] for name, problem in problems.items()} == dict.fromkeys(VALID, 422)

    async def test_a_valid_text_is_read_as_it_is(self, idle_api: httpx.AsyncClient, token: Token) -> None:
        texts = {name: text for name, text in VALID.items() if name.startswith("text")}
        place = b'{"\\u0066ormat" :\n"\\u0063sv","sections":[%b]}'
        problems = await answers(idle_api, token(USER), put(texts, place))
        for name, problem in problems.items():
            assert problem["detail"].startswith(f"Unknown section {printable(json.loads(texts[name])) or EMPTY}: ")

    @pytest.mark.parametrize("place", [b"%b", b'{"format":"csv","sections":%b}'])
    async def test_invalid(self, idle_api: httpx.AsyncClient, token: Token, place: bytes) -> None:
        problems = await answers(idle_api, token(USER), put(INVALID, place))
        assert {name: problem["status"] for name, problem in problems.items()} == dict.fromkeys(INVALID, 400)
        details = {problem["detail"] for problem in problems.values()}
        assert details == {"The body is not valid JSON", "The body has a duplicate key: a"}

    @pytest.mark.parametrize("place", [b"%b", b'{"format":"csv","sections":[%b]}', b'{"format":%b}'])
    async def test_undefined(self, idle_api: httpx.AsyncClient, token: Token, place: bytes) -> None:
        assert await answers(idle_api, token(USER), put(UNDEFINED, place))


class TestTokens:
    """The header and the claims of a token that the right key signed."""

    async def test_valid(self) -> None:
        async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET)) as verifier:
            for text in VALID.values():
                token = sign(with_member(HEADER, text), with_member(claims(), text))
                assert (await verifier.verify(token)).user_id == USER

    async def test_invalid(self) -> None:
        async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET)) as verifier:
            for text in INVALID.values():
                for header in (text, with_member(HEADER, text)):
                    assert await refused(verifier, sign(header, claims()))
                for payload in (text, with_member(claims(), text)):
                    assert await refused(verifier, sign(HEADER, payload))

    @pytest.mark.parametrize("name", ["sub", "exp"])
    async def test_undefined(self, name: str) -> None:
        payload = {key: value for key, value in claims().items() if key != name}
        async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET)) as verifier:
            for text in UNDEFINED.values():
                assert await refused(verifier, sign(HEADER, with_member(payload, text, name)))


class TestKeySets:
    """A provider's answer."""

    def test_valid(self) -> None:
        for text in VALID.values():
            assert parse_key_set(b'{"keys":[{"kty":"RSA","n":%b}],"x":%b}' % (text, text), ("RS256",)) == ()

    @pytest.mark.parametrize("place", [b"%b", b'{"keys":[{"kty":"RSA","n":%b}]}'])
    def test_others_are_none_or_have_no_key(self, place: bytes) -> None:
        for body in put(INVALID | UNDEFINED, place).values():
            with suppress(ValueError, RecursionError):
                assert parse_key_set(body, ("RS256",)) == ()


def put(texts: Mapping[str, bytes], place: bytes) -> dict[str, bytes]:
    return {name: place % text for name, text in texts.items()}


def with_member(value: dict[str, Any], text: bytes, name: str = "x") -> bytes:
    return json.dumps(value).encode()[:-1] + b',"%b":%b}' % (name.encode(), text)

"""No token, however it is made, ends in anything but a user or one and the same refusal."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from service.auth import JwtVerifier, open_jwt_verifier
from service.errors import AuthenticationError
from tests.tokens import HEADER, SECRET, USER, claims, encode, make_settings, refused, sign

RSA_KEY = rsa.generate_private_key(65537, 2048)


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest_asyncio.fixture(scope="module")
async def verifier() -> AsyncIterator[JwtVerifier]:
    async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET)) as opened:
        yield opened


class TestClaims:
    async def test_the_user_is_the_subject(self, verifier: JwtVerifier) -> None:
        assert await verifier.verify(sign(HEADER, claims())) == USER

    async def test_clocks_may_differ_by_thirty_seconds(self, verifier: JwtVerifier) -> None:
        now = int(time.time())
        assert await verifier.verify(sign(HEADER, claims(exp=now - 15))) == USER
        assert await verifier.verify(sign(HEADER, claims(nbf=now + 15, iat=now + 15))) == USER
        assert await refused(verifier, sign(HEADER, claims(exp=now - 31)))
        assert await refused(verifier, sign(HEADER, claims(nbf=now + 60)))
        assert await refused(verifier, sign(HEADER, claims(iat=now + 60)))

    async def test_times_may_have_fractions(self, verifier: JwtVerifier) -> None:
        now = time.time()
        assert await verifier.verify(sign(HEADER, claims(exp=now + 60.5, nbf=now - 0.5, iat=now - 0.5))) == USER
        assert await refused(verifier, sign(HEADER, claims(exp=now - 31.5)))

    @pytest.mark.parametrize(
        "changes",
        [
            {"exp": None},
            {"exp": float(2**40)},
            {"exp": "4102444800"},
            {"exp": "\uff14\uff11\uff10\uff12\uff14\uff14\uff14\uff18\uff10\uff10"},
            {"exp": True},
            {"exp": [4102444800]},
            {"exp": {"n": 1}},
            {"exp": -1},
            {"exp": 0},
            {"exp": 4102444800000},
            {"exp": 10**400},
            {"exp": float("nan")},
            {"exp": float("inf")},
            {"nbf": "soon"},
            {"nbf": float("inf")},
            {"iat": [1]},
            {"sub": None},
            {"sub": ""},
            {"sub": 5},
            {"sub": True},
            {"sub": [str(USER)]},
            {"sub": {"id": str(USER)}},
            {"sub": f"{USER}\0"},
            {"sub": f"{USER}\n"},
            {"sub": f"{USER}' OR 1=1"},
            {"sub": "\ud800"},
            {"sub": "*"},
            {"jti": 5},
            {"aud": "another-service"},
            {"aud": ["another-service"]},
            {"aud": {"a": 1}},
        ],
        ids=str,
    )
    async def test_odd_ones_are_refused(self, verifier: JwtVerifier, changes: dict[str, object]) -> None:
        assert await refused(verifier, sign(HEADER, claims(**changes)))

    @pytest.mark.parametrize("name", ["exp", "sub"])
    async def test_null_counts_as_missing(self, verifier: JwtVerifier, name: str) -> None:
        assert await refused(verifier, sign(HEADER, {**claims(), name: None}))

    @pytest.mark.parametrize(
        ("given", "accepted"),
        [
            ({"iss": "https://id.example", "aud": "carryout"}, True),
            ({"iss": "https://id.example", "aud": ["other", "carryout"]}, True),
            ({"aud": "carryout"}, False),
            ({"iss": "https://id.example"}, False),
            ({"iss": "https://id.example/", "aud": "carryout"}, False),
            ({"iss": ["https://id.example"], "aud": "carryout"}, False),
            ({"iss": "https://id.example", "aud": "carryou"}, False),
            ({"iss": "https://id.example", "aud": []}, False),
            ({"iss": "https://id.example", "aud": [5, "carryout"]}, False),
        ],
        ids=str,
    )
    async def test_issuer_and_audience_are_required_when_configured(
        self, given: dict[str, object], *, accepted: bool
    ) -> None:
        settings = make_settings(JWT_SECRET=SECRET, JWT_ISSUER="https://id.example", JWT_AUDIENCE="carryout")
        token = sign(HEADER, claims(**given))
        async with open_jwt_verifier(settings) as verifier:
            assert (await verifier.verify(token) == USER) if accepted else await refused(verifier, token)

    @pytest.mark.parametrize(
        ("kind", "subject", "user"),
        [("bigint", "42", 42), ("text", "auth0|42", "auth0|42"), ("bigint", "042", None), ("text", "a\0b", None)],
    )
    async def test_the_subject_has_the_configured_type(self, kind: str, subject: str, user: object) -> None:
        token = sign(HEADER, claims(sub=subject))
        async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET, USER_ID_TYPE=kind)) as verifier:
            assert (await refused(verifier, token)) if user is None else (await verifier.verify(token) == user)


class TestHeaders:
    @pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT"])
    async def test_usual_types_are_accepted(self, verifier: JwtVerifier, typ: str) -> None:
        assert await verifier.verify(sign({**HEADER, "typ": typ}, claims())) == USER

    async def test_the_type_may_be_missing(self, verifier: JwtVerifier) -> None:
        assert await verifier.verify(sign({"alg": "HS256"}, claims())) == USER

    @pytest.mark.parametrize(
        "changes",
        [
            *({"typ": typ} for typ in ("", "JWE", "dpop+jwt", "logout+jwt", "JWT\n", "xJWT", None, 5, ["JWT"])),
            *({"crit": crit} for crit in (["exp"], ["b64"], [], None, "b64", {"b64": 1})),
            {"crit": ["b64"], "b64": False},
            {"crit": ["b64"], "b64": True},
            {"b64": False},
            *(
                {"alg": alg}
                for alg in ("none", "None", "NONE", "", "hs256", "HS512", "RS256", None, 5, ["HS256"], True)
            ),
            *({"kid": kid} for kid in (None, 5, {}, {"a": 1}, ["a"], True, "k" * 10_240)),
        ],
        ids=lambda changes: str(changes)[:60],
    )
    async def test_odd_ones_are_refused(self, verifier: JwtVerifier, changes: dict[str, object]) -> None:
        assert await refused(verifier, sign({**HEADER, **changes}, claims()))

    async def test_no_algorithm_is_refused(self, verifier: JwtVerifier) -> None:
        assert await refused(verifier, sign({"typ": "JWT"}, claims()))

    @pytest.mark.parametrize("kid", ["../../../../dev/null", "' UNION SELECT 'a", "http://127.0.0.1:9/key", "\0", ""])
    async def test_a_key_id_names_no_file_and_no_address(self, verifier: JwtVerifier, kid: str) -> None:
        assert await verifier.verify(sign({**HEADER, "kid": kid}, claims())) == USER
        forged = jwt.encode(claims(), "\0" * 32, headers={"kid": kid})
        assert await refused(verifier, forged)

    async def test_a_key_inside_the_token_is_not_used(self, verifier: JwtVerifier) -> None:
        jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key()))
        assert await refused(verifier, jwt.encode(claims(), RSA_KEY, "RS256", headers={"jwk": jwk, "x5c": ["MIIB"]}))
        assert await verifier.verify(sign({**HEADER, "jwk": jwk}, claims())) == USER


class TestForm:
    @pytest.mark.parametrize(
        "token",
        [
            "",
            ".",
            "..",
            "...",
            "a.b",
            "a.b.c.d",
            "Bearer x.y.z",
            "\0",
            "\ud800",
            "é.é.é",
            "A" * 100_000,
            f"{encode(nested(2000))}.e30.AA",
            f"{encode(b'[]')}.e30.AA",
            f"{encode(b'null')}.e30.AA",
            f"{encode(b'{')}.e30.AA",
            f"{encode(bytes([0xFF]))}.e30.AA",
            "A.e30.AA",
        ],
        ids=lambda token: ascii(token)[:30],
    )
    async def test_what_is_no_token_is_refused(self, verifier: JwtVerifier, token: str) -> None:
        assert await refused(verifier, token)

    @pytest.mark.parametrize("extra", ["=", "==", " ", "\n", "\t", "\0", ".", "é", "\uff21", "%3D", "/", "+"])
    async def test_nothing_may_surround_a_token(self, verifier: JwtVerifier, extra: str) -> None:
        token = sign(HEADER, claims())
        assert await refused(verifier, token + extra)
        assert await refused(verifier, extra + token)
        assert await refused(verifier, token.replace(".", extra + ".", 1))

    async def test_the_signature_must_be_there_and_right(self, verifier: JwtVerifier) -> None:
        signed, _, signature = sign(HEADER, claims()).rpartition(".")
        assert await refused(verifier, f"{signed}.")
        assert await refused(verifier, signed)
        assert await refused(verifier, f"{signed}.{signature[:-4]}")
        assert await refused(verifier, f"{signed}.{encode(bytes(32))}")
        assert await refused(verifier, jwt.encode(claims(), SECRET[::-1]))
        assert await refused(verifier, jwt.encode(claims(), "", "none"))

    async def test_eight_kibibytes_are_the_limit(self, verifier: JwtVerifier) -> None:
        assert await verifier.verify(sign(HEADER, claims(roles="r" * 5_900))) == USER
        assert await refused(verifier, sign(HEADER, claims(roles="r" * 6_200)))

    async def test_names_are_unique_at_every_level(self, verifier: JwtVerifier) -> None:
        header, payload = json.dumps(HEADER), json.dumps(claims())
        assert await refused(verifier, sign(header.replace("{", '{"alg":"none",', 1).encode(), claims()))
        assert await refused(verifier, sign(header.replace("{", '{"\\u0061lg":"HS256",', 1).encode(), claims()))
        assert await refused(verifier, sign(HEADER, payload.replace("{", '{"sub":"someone",', 1).encode()))
        assert await refused(verifier, sign(HEADER, payload.replace("{", '{"x":{"a":1,"a":2},', 1).encode()))

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
    async def test_json_is_utf8(self, verifier: JwtVerifier, encoding: str) -> None:
        assert await refused(verifier, sign(HEADER, json.dumps(claims(x="é"), ensure_ascii=False).encode(encoding)))
        header = json.dumps({**HEADER, "x": "é"}, ensure_ascii=False)
        assert await refused(verifier, sign(header.encode(encoding), claims()))

    @pytest.mark.parametrize("payload", [nested(2_900), b"[]", b"null", b"", b"{", b'{"exp":' + b"9" * 5_000 + b"}"])
    async def test_a_signed_payload_is_no_more_trusted(self, verifier: JwtVerifier, payload: bytes) -> None:
        assert await refused(verifier, sign(HEADER, payload))
        assert await refused(verifier, sign(payload, claims()))

    async def test_deep_nesting_inside_an_object(self, verifier: JwtVerifier) -> None:
        deep = b'{"a":' * 900 + b"1" + b"}" * 900
        assert await refused(verifier, sign(HEADER, deep))
        assert await refused(verifier, sign(deep, claims()))


class TestFuzz:
    @settings(deadline=None)
    @given(token=st.text(max_size=200) | st.text("eyJ0hbGciOU.-_=AQ", max_size=200))
    async def test_texts(self, verifier: JwtVerifier, token: str) -> None:
        assert await refused(verifier, token)

    @settings(deadline=None)
    @given(where=st.floats(0, 1, exclude_max=True), change=st.characters(codec="utf-8") | st.just(""))
    async def test_one_changed_character(self, verifier: JwtVerifier, where: float, change: str) -> None:
        token = sign(HEADER, claims())
        at = int(where * len(token))
        changed = token[:at] + change + token[at + 1 :]
        if changed == token:
            assert await verifier.verify(changed) == USER
        else:
            assert await refused(verifier, changed)

    @settings(deadline=None)
    @given(data=st.data())
    async def test_signed_json_of_any_shape(self, verifier: JwtVerifier, data: st.DataObject) -> None:
        json_values = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=5,
        )
        header = data.draw(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64"]), json_values))
        payload = data.draw(st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "aud", "jti"]), json_values))
        with suppress(AuthenticationError):
            assert await verifier.verify(sign(HEADER | header, claims() | payload)) == USER

    @settings(deadline=None)
    @given(header=st.binary(max_size=100), payload=st.binary(max_size=100))
    async def test_signed_bytes(self, verifier: JwtVerifier, header: bytes, payload: bytes) -> None:
        assert await refused(verifier, sign(header, claims()))
        assert await refused(verifier, sign(HEADER, payload))

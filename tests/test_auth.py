import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from service.auth import JwtVerifier, create_token, open_jwt_verifier, parse_user_id
from service.errors import AuthenticationError, ConfigurationError, InvalidValueError
from service.settings import Settings, from_env

SECRET = "0123456789abcdef0123456789abcdef"
USER = uuid.UUID("0190b7f2-5d3c-7c1e-8a44-3f6f0b1f2a10")
HEADER = {"alg": "HS256", "typ": "JWT"}
RSA_KEY = rsa.generate_private_key(65537, 2048)


def make_settings(**names: str) -> Settings:
    environ = {
        "DATABASE_URL": "postgresql://localhost/app",
        "REDIS_URL": "redis://localhost",
        "S3_BUCKET": "exports",
        "SMTP_URL": "smtp://localhost",
        "MAIL_FROM": "exports@example.org",
        "PUBLIC_URL": "https://exports.example.org",
        "LINK_SECRETS": "fedcba9876543210fedcba9876543210",
        **names,
    }
    return from_env({f"CARRYOUT_{name}": text for name, text in environ.items()})


def claims(**changes: object) -> dict[str, Any]:
    """A good token's claims; a change to None takes one away."""
    merged = {"sub": str(USER), "exp": int(time.time()) + 600, **changes}
    return {name: claim for name, claim in merged.items() if claim is not None}


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def sign(header: object, payload: object) -> str:
    """Sign with the right secret whatever is given: bytes as they are, anything else as JSON."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = ".".join(map(encode, parts))
    return f"{signed}.{encode(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}"


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def public_pem(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest_asyncio.fixture(scope="module")
async def verifier() -> AsyncIterator[JwtVerifier]:
    async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET)) as opened:
        yield opened


async def refused(verifier: JwtVerifier, token: str) -> bool:
    with pytest.raises(AuthenticationError, match=r"\AMissing or invalid token\Z"):
        await verifier.verify(token)
    return True


class TestParseUserId:
    @pytest.mark.parametrize(
        ("text", "kind", "value"),
        [
            (str(USER), "uuid", USER),
            (str(USER).upper(), "uuid", USER),
            ("0", "bigint", 0),
            ("-1", "bigint", -1),
            ("9223372036854775807", "bigint", 2**63 - 1),
            ("-9223372036854775808", "bigint", -(2**63)),
            ("auth0|5f7c", "text", "auth0|5f7c"),
            ("Zoë", "text", "Zoë"),
            ("x" * 255, "text", "x" * 255),
        ],
    )
    def test_takes_the_canonical_form(self, text: str, kind: Any, value: object) -> None:
        assert parse_user_id(text, kind) == value

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("", "uuid"),
            (USER.hex, "uuid"),
            (f"{{{USER}}}", "uuid"),
            (USER.urn, "uuid"),
            (f"{USER}\n", "uuid"),
            (f" {USER}", "uuid"),
            (str(USER).replace("0", "\uff10"), "uuid"),
            (str(USER).replace("-", "", 1) + "0", "uuid"),
            ("", "bigint"),
            ("-", "bigint"),
            ("-0", "bigint"),
            ("+1", "bigint"),
            ("01", "bigint"),
            (" 1", "bigint"),
            ("1\n", "bigint"),
            ("1_000", "bigint"),
            ("1.0", "bigint"),
            ("\uff11", "bigint"),
            ("\u0663", "bigint"),
            ("9223372036854775808", "bigint"),
            ("-9223372036854775809", "bigint"),
            ("1" * 5000, "bigint"),
            ("", "text"),
            ("x" * 256, "text"),
            ("a\0b", "text"),
            ("a\nb", "text"),
            ("a\x7fb", "text"),
            ("a\x85b", "text"),
            ("\ud800", "text"),
            ("a\u202eb", "text"),
        ],
    )
    def test_refuses_any_other_spelling(self, text: str, kind: Any) -> None:
        with pytest.raises(InvalidValueError):
            parse_user_id(text, kind)


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

    @pytest.mark.parametrize(
        "changes",
        [
            {"exp": None},
            {"exp": float(2**40)},
            {"exp": 4102444800.0},
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
    @given(token=st.text(max_size=200) | st.text("eyJ0hbGciOU.-_=AQ", max_size=200))
    async def test_texts(self, verifier: JwtVerifier, token: str) -> None:
        assert await refused(verifier, token)

    @given(where=st.floats(0, 1, exclude_max=True), change=st.characters(codec="utf-8") | st.just(""))
    async def test_one_changed_character(self, verifier: JwtVerifier, where: float, change: str) -> None:
        token = sign(HEADER, claims())
        at = int(where * len(token))
        changed = token[:at] + change + token[at + 1 :]
        if changed == token:
            assert await verifier.verify(changed) == USER
        else:
            assert await refused(verifier, changed)

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

    @given(header=st.binary(max_size=100), payload=st.binary(max_size=100))
    async def test_signed_bytes(self, verifier: JwtVerifier, header: bytes, payload: bytes) -> None:
        assert await refused(verifier, sign(header, claims()))
        assert await refused(verifier, sign(HEADER, payload))


class TestPublicKeyFile:
    @pytest.mark.parametrize(
        ("key", "algorithm"),
        [
            (RSA_KEY, "RS256"),
            (ec.generate_private_key(ec.SECP256R1()), "ES256"),
            (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
        ],
        ids=["RS256", "ES256", "EdDSA"],
    )
    async def test_verifies_with_the_algorithm_made_for_it(self, tmp_path: Path, key: Any, algorithm: str) -> None:
        pem = public_pem(key.public_key())
        file = tmp_path / "key.pem"
        file.write_bytes(pem)
        async with open_jwt_verifier(make_settings(JWT_PUBLIC_KEY_FILE=str(file))) as verifier:
            token = jwt.encode(claims(), key, algorithm)
            assert await verifier.verify(token) == USER
            assert await refused(verifier, token[:-4] + "AAAA")
            for other in {"HS256", "RS256", "ES256", "EdDSA", "none"} - {algorithm}:
                signed = f"{encode(json.dumps({'alg': other}).encode())}.{encode(json.dumps(claims()).encode())}"
                confused = encode(hmac.digest(pem, signed.encode(), hashlib.sha256))
                assert await refused(verifier, f"{signed}.{confused}")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            SECRET.encode(),
            private_pem(RSA_KEY),
            public_pem(rsa.generate_private_key(65537, 1024).public_key()),  # noqa: S505 - the weakness is the point
            public_pem(ec.generate_private_key(ec.SECP384R1()).public_key()),
            public_pem(x25519.X25519PrivateKey.generate().public_key()),
        ],
        ids=["empty", "damaged", "secret", "private", "short", "wrong curve", "wrong kind"],
    )
    async def test_a_wrong_file_stops_the_start(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "key.pem"
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="CARRYOUT_JWT_PUBLIC_KEY_FILE"):
            async with open_jwt_verifier(make_settings(JWT_PUBLIC_KEY_FILE=str(file))):
                pass

    @pytest.mark.parametrize("name", ["missing.pem", ".", "missing/key.pem"])
    async def test_a_missing_file_stops_the_start(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigurationError, match="CARRYOUT_JWT_PUBLIC_KEY_FILE"):
            async with open_jwt_verifier(make_settings(JWT_PUBLIC_KEY_FILE=str(tmp_path / name))):
                pass


class TestConfiguration:
    @pytest.mark.parametrize(
        ("source", "algorithms"),
        [
            ({"JWT_SECRET": SECRET}, "none"),
            ({"JWT_SECRET": SECRET}, "HS256,none"),
            ({"JWT_SECRET": SECRET}, "HS256,RS256"),
            ({"JWT_SECRET": SECRET}, "hs256"),
            ({"JWT_SECRET": SECRET}, "HS257"),
            ({"JWT_PUBLIC_KEY_FILE": "/missing"}, "HS256"),
            ({"JWT_PUBLIC_KEY_FILE": "/missing"}, "RS256,none"),
            ({"JWT_JWKS_URL": "http://127.0.0.1:9/"}, "RS256,HS256"),
            ({"JWT_JWKS_URL": "http://127.0.0.1:9/"}, "none"),
        ],
        ids=str,
    )
    async def test_algorithms_must_suit_the_key(self, source: dict[str, str], algorithms: str) -> None:
        with pytest.raises(ConfigurationError, match="CARRYOUT_JWT_ALGORITHMS"):
            async with open_jwt_verifier(make_settings(**source, JWT_ALGORITHMS=algorithms)):
                pass

    @pytest.mark.parametrize(
        ("secret", "algorithms"),
        [(SECRET, "HS512"), (SECRET, "HS256,HS384"), (public_pem(RSA_KEY.public_key()).decode(), "HS256")],
        ids=["short for HS512", "short for HS384", "public key"],
    )
    async def test_the_secret_must_suit_the_algorithms(self, secret: str, algorithms: str) -> None:
        with pytest.raises(ConfigurationError, match="CARRYOUT_JWT_SECRET"):
            async with open_jwt_verifier(make_settings(JWT_SECRET=secret, JWT_ALGORITHMS=algorithms)):
                pass

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://id.example/keys", "id.example/keys", "https:///keys"])
    async def test_the_key_set_is_fetched_over_http(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match="CARRYOUT_JWT_JWKS_URL"):
            async with open_jwt_verifier(make_settings(JWT_JWKS_URL=url)):
                pass


class TestCreateToken:
    async def test_the_token_is_one_we_accept(self) -> None:
        settings = make_settings(
            JWT_SECRET=SECRET * 2, JWT_ALGORITHMS="HS512", JWT_ISSUER="https://id.example", JWT_AUDIENCE="carryout"
        )
        token = create_token(settings, str(USER), 60)
        async with open_jwt_verifier(settings) as verifier:
            assert await verifier.verify(token) == USER
        decoded = jwt.decode(token, options={"verify_signature": False})
        assert decoded.pop("exp") == decoded.pop("iat") + 60
        assert decoded == {"sub": str(USER), "iss": "https://id.example", "aud": "carryout"}

    async def test_without_issuer_and_audience(self, verifier: JwtVerifier) -> None:
        token = create_token(make_settings(JWT_SECRET=SECRET), str(USER), 60)
        assert await verifier.verify(token) == USER

    def test_needs_the_secret(self) -> None:
        with pytest.raises(ConfigurationError, match="identity provider"):
            create_token(make_settings(JWT_JWKS_URL="https://id.example/keys"), str(USER), 60)

    def test_needs_a_user_id(self) -> None:
        with pytest.raises(InvalidValueError):
            create_token(make_settings(JWT_SECRET=SECRET), "someone", 60)

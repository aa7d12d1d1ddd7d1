import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from service.access.tokens import accepts_any_purpose, create_token, open_jwt_verifier
from service.errors import ConfigurationError, InvalidValueError
from service.user_ids import parse_user_id
from tests.support.certificates import create_authority
from tests.support.tokens import EC_KEY, RSA_KEY, SECRET, USER, claims, encode, make_settings, refused

UNKNOWN_KIND = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VjAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
-----END PUBLIC KEY-----
"""


def public_pem(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


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
            assert (await verifier.verify(token)).user_id == USER
            assert await refused(verifier, token[:-4] + "AAAA")
            for other in {"HS256", "RS256", "ES256", "EdDSA", "none"} - {algorithm}:
                signed = f"{encode(json.dumps({'alg': other}).encode())}.{encode(json.dumps(claims()).encode())}"
                confused = encode(hmac.digest(pem, signed.encode(), hashlib.sha256))
                assert await refused(verifier, f"{signed}.{confused}")

    async def test_a_file_may_hold_several_keys(self, tmp_path: Path) -> None:
        """The new key is added before the provider signs with it."""
        keys = [rsa.generate_private_key(65537, 2048), RSA_KEY]
        file = tmp_path / "keys.pem"
        file.write_bytes(b"new\n" + b"old\n".join(public_pem(key.public_key()) for key in keys))
        async with open_jwt_verifier(make_settings(JWT_PUBLIC_KEY_FILE=str(file))) as verifier:
            for key in keys:
                assert (await verifier.verify(jwt.encode(claims(), key, "RS256"))).user_id == USER
            assert await refused(verifier, jwt.encode(claims(), rsa.generate_private_key(65537, 2048), "RS256"))

    async def test_a_key_in_a_certificate(self, tmp_path: Path) -> None:
        """As Auth0 and Keycloak offer it for download, beside a key as it is."""
        signer = create_authority(tmp_path / "key.pem")
        with signer.file.open("ab") as file:
            file.write(public_pem(RSA_KEY.public_key()))
        async with open_jwt_verifier(make_settings(JWT_PUBLIC_KEY_FILE=str(signer.file))) as verifier:
            assert (await verifier.verify(jwt.encode(claims(), signer.key, "ES256"))).user_id == USER
            assert (await verifier.verify(jwt.encode(claims(), RSA_KEY, "RS256"))).user_id == USER
            assert await refused(verifier, jwt.encode(claims(), EC_KEY, "ES256"))

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            public_pem(RSA_KEY.public_key()) + private_pem(RSA_KEY),
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            UNKNOWN_KIND,
            SECRET.encode(),
            private_pem(RSA_KEY),
            public_pem(rsa.generate_private_key(65537, 1024).public_key()),  # noqa: S505 (the weakness is the point)
            public_pem(ec.generate_private_key(ec.SECP384R1()).public_key()),
            public_pem(x25519.X25519PrivateKey.generate().public_key()),
        ],
        ids=[
            "empty",
            "damaged certificate",
            "one private",
            "damaged",
            "unknown kind",
            "secret",
            "private",
            "short",
            "wrong curve",
            "wrong kind",
        ],
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


class TestSecrets:
    @pytest.mark.parametrize("encoded", [base64.b64encode, base64.urlsafe_b64encode])
    @pytest.mark.parametrize("end", ["", "="])
    async def test_a_secret_may_be_any_bytes(self, encoded: Callable[[bytes], bytes], end: str) -> None:
        secret = bytes(range(221, 255))
        text = encoded(secret).decode().rstrip("=") + end
        async with open_jwt_verifier(make_settings(JWT_SECRET=f"base64:{text}")) as verifier:
            assert (await verifier.verify(jwt.encode(claims(), secret))).user_id == USER
            assert await refused(verifier, jwt.encode(claims(), f"base64:{text}"))
            made = create_token(make_settings(JWT_SECRET=f"base64:{text}"), str(USER), 60)
            assert (await verifier.verify(made)).user_id == USER

    async def test_all_verify_and_the_first_signs(self) -> None:
        new, old = SECRET[::-1], bytes(range(221, 255))
        settings = make_settings(JWT_SECRET=f"{new}, base64:{base64.b64encode(old).decode()}")
        async with open_jwt_verifier(settings) as verifier:
            for secret in (new, old):
                assert (await verifier.verify(jwt.encode(claims(), secret))).user_id == USER
            assert await refused(verifier, jwt.encode(claims(), SECRET))
        async with open_jwt_verifier(make_settings(JWT_SECRET=new)) as verifier:
            assert (await verifier.verify(create_token(settings, str(USER), 60))).user_id == USER

    @pytest.mark.parametrize("text", ["base64:", "base64:AAAA", "base64:" + "A" * 43, "base64:" + "é" * 50])
    def test_it_must_be_long_and_valid(self, text: str) -> None:
        with pytest.raises(ConfigurationError, match=r"^CARRYOUT_JWT_SECRET .*(bytes|base64)"):
            make_settings(JWT_SECRET=text)


class TestCreateToken:
    async def test_with_other_claims(self) -> None:
        settings = make_settings(
            JWT_SECRET=SECRET, JWT_AUDIENCE="web,app", JWT_AUDIENCE_CLAIM="client_id", JWT_USER_CLAIM="oid"
        )
        token = create_token(settings, str(USER), 60)
        async with open_jwt_verifier(settings) as verifier:
            assert (await verifier.verify(token)).user_id == USER
        decoded = jwt.decode(token, options={"verify_signature": False})
        assert (decoded["client_id"], decoded["oid"], "sub" in decoded) == ("web", str(USER), False)

    async def test_the_token_is_one_we_accept(self) -> None:
        settings = make_settings(
            JWT_SECRET=SECRET * 2, JWT_ALGORITHMS="HS512", JWT_ISSUER="https://id.example", JWT_AUDIENCE="carryout"
        )
        token = create_token(settings, str(USER), 60)
        async with open_jwt_verifier(settings) as verifier:
            assert (await verifier.verify(token)).user_id == USER
        decoded = jwt.decode(token, options={"verify_signature": False})
        assert decoded.pop("exp") == decoded.pop("iat") + 60
        assert decoded == {"sub": str(USER), "iss": "https://id.example", "aud": "carryout"}

    async def test_with_required_claims_and_types(self) -> None:
        required = "type=access,scope=read,scope=export,roles=a,roles=b,email_verified=true"
        settings = make_settings(JWT_SECRET=SECRET, JWT_REQUIRED_CLAIMS=required, JWT_TOKEN_TYPES="at+jwt")
        token = create_token(settings, str(USER), 60)
        async with open_jwt_verifier(settings) as verifier:
            assert (await verifier.verify(token)).user_id == USER
        decoded = jwt.decode(token, options={"verify_signature": False})
        assert (decoded["scope"], decoded["roles"]) == ("read export", ["a", "b"])

    async def test_without_issuer_and_audience(self) -> None:
        settings = make_settings(JWT_SECRET=SECRET)
        async with open_jwt_verifier(settings) as verifier:
            assert (await verifier.verify(create_token(settings, str(USER), 60))).user_id == USER

    def test_needs_the_secret(self) -> None:
        with pytest.raises(ConfigurationError, match="identity provider"):
            create_token(make_settings(JWT_JWKS_URL="https://id.example/keys"), str(USER), 60)

    def test_needs_a_user_id(self) -> None:
        with pytest.raises(InvalidValueError):
            create_token(make_settings(JWT_SECRET=SECRET), "someone", 60)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"JWT_ISSUER": "https://id.example"}, True),
        ({"JWT_TOKEN_TYPES": "at+jwt,application/JWT"}, True),
        ({"JWT_AUDIENCE": "carryout"}, False),
        ({"JWT_REQUIRED_CLAIMS": "type=access"}, False),
        ({"JWT_TOKEN_TYPES": "at+jwt"}, False),
    ],
    ids=str,
)
def test_a_key_whose_tokens_may_have_any_purpose(given: dict[str, str], *, expected: bool) -> None:
    assert accepts_any_purpose(make_settings(JWT_SECRET=SECRET, **given)) is expected

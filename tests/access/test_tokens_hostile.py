"""No token, however it is made, ends in anything but a user or one and the same refusal."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, utils
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from service.access.tokens import JwtVerifier, open_jwt_verifier
from service.errors import AuthenticationError, TokenTooLargeError
from tests.support.tokens import EC_KEY, HEADER, RSA_KEY, SECRET, USER, claims, encode, make_settings, refused, sign

ED_KEY = ed25519.Ed25519PrivateKey.generate()


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest_asyncio.fixture(scope="module")
async def verifier() -> AsyncIterator[JwtVerifier]:
    async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET)) as opened:
        yield opened


class TestClaims:
    async def test_the_user_is_the_subject(self, verifier: JwtVerifier) -> None:
        assert (await verifier.verify(sign(HEADER, claims()))).user_id == USER

    async def test_clocks_may_differ_by_thirty_seconds(self, verifier: JwtVerifier) -> None:
        now = int(time.time())
        assert (await verifier.verify(sign(HEADER, claims(exp=now - 15)))).user_id == USER
        assert (await verifier.verify(sign(HEADER, claims(nbf=now + 15, iat=now + 15)))).user_id == USER
        assert await refused(verifier, sign(HEADER, claims(exp=now - 31)))
        assert await refused(verifier, sign(HEADER, claims(nbf=now + 60)))
        assert await refused(verifier, sign(HEADER, claims(iat=now + 60)))

    async def test_times_may_have_fractions(self, verifier: JwtVerifier) -> None:
        now = time.time()
        assert (
            await verifier.verify(sign(HEADER, claims(exp=now + 60.5, nbf=now - 0.5, iat=now - 0.5)))
        ).user_id == USER
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
            {"aud": "another-service"},
            {"aud": ["another-service"]},
            {"aud": {"a": 1}},
            # Bound to a key or a certificate of the sender.
            {"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}},
            {"cnf": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}},
            {"cnf": {}},
            # ID tokens of OpenID Connect, logout tokens and other security events.
            {"at_hash": "77QmUPtjPfzWtF2AnpK9RQ", "nonce": "n-0S6_WzA2Mj"},
            {"c_hash": "LDktKdoQak3Pk0cnXxCltA"},
            {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}, "sid": "1"},
            # Claims that issuers write into tokens that aren't access tokens.
            {"token_use": "id"},
            {"token_type": "refresh", "jti": "a"},
            {"type": "refresh", "fresh": False},
            {"tokenType": "REFRESH"},
            {"typ": "Refresh"},
            {"typ": "Offline"},
            {"typ": "ID"},
            {"typ": "Logout"},
            # The same words in other spellings, and in a list.
            {"token_use": "refresh-token"},
            {"tokenType": "refreshToken"},
            {"token_type": "ID Token"},
            {"TokenUse": "refresh"},
            {"Type": "Refresh"},
            {"typ": ["ID"]},
            {"type": ["access", "refresh"]},
        ],
        ids=str,
    )
    async def test_odd_ones_are_refused(self, verifier: JwtVerifier, changes: dict[str, object]) -> None:
        assert await refused(verifier, sign(HEADER, claims(**changes)))

    @pytest.mark.parametrize("name", ["exp", "sub"])
    async def test_null_counts_as_missing(self, verifier: JwtVerifier, name: str) -> None:
        assert await refused(verifier, sign(HEADER, {**claims(), name: None}))

    @pytest.mark.parametrize(
        "changes",
        [
            {"token_use": "access", "client_id": "a"},
            {"token_type": "access"},
            {"type": "access", "fresh": True},
            {"typ": "Bearer", "nonce": "n-0S6_WzA2Mj", "sid": "1"},
            {"scope": "refresh id", "amr": ["pwd", "otp"], "acr": "1"},
            {"type": 5, "typ": [["ID"]], "token_use": None},
            {"token_type": "access_token", "type": ["access", 5]},
            {"jti": 5},  # which PyJWT has refused since 2.10
        ],
        ids=str,
    )
    async def test_access_tokens_of_usual_issuers_are_accepted(
        self, verifier: JwtVerifier, changes: dict[str, object]
    ) -> None:
        assert (await verifier.verify(sign(HEADER, claims(**changes)))).user_id == USER

    @pytest.mark.parametrize(
        ("required", "given", "accepted"),
        [
            ("type=access", {"type": "access"}, True),
            ("type=access", {}, False),
            ("type=access", {"type": "mfa"}, False),
            ("type=access", {"type": "Access"}, False),
            ("type=access", {"type": "no access"}, False),
            ("type=access", {"type": ["access"]}, True),
            ("type=access", {"type": {"access": True}}, False),
            ("type=access", {"type": [["access"]]}, False),
            ("scope=export", {"scope": "read export"}, True),
            ("scope=export", {"scp": "read export"}, False),
            ("scp=export", {"scp": ["read", "export"]}, True),
            ("scp=export", {"scp": "export"}, True),
            ("scope=export", {"scope": "exports read:export export:read"}, False),
            ("scope=export", {"scope": "read\texport"}, False),
            ("scope=export,scope=read", {"scope": "read export"}, True),
            ("scope=export,scope=read", {"scope": "export"}, False),
            ("amr=mfa", {"amr": ["pwd", "mfa"]}, True),
            ("amr=mfa", {"amr": ["pwd"]}, False),
            ("amr=mfa", {"amr": []}, False),
            ("aal=aal2, type = access", {"aal": "aal2", "type": "access"}, True),
            ("mfa=true", {"mfa": True}, True),
            ("mfa=true", {"mfa": 1}, False),
            ("mfa=true", {"mfa": False}, False),
            ("level=2", {"level": 2}, True),
            ("level=2", {"level": "2"}, True),
            ("level=2", {"level": 22}, False),
            ("x=null", {"x": [None]}, False),
            ("group=Data Owners", {"group": "Data Owners"}, True),
            ("https://app.example/role=a=b", {"https://app.example/role": "a=b"}, True),
        ],
        ids=str,
    )
    async def test_required_claims(self, required: str, given: dict[str, object], *, accepted: bool) -> None:
        token = sign(HEADER, claims(**given))
        async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET, JWT_REQUIRED_CLAIMS=required)) as verifier:
            assert ((await verifier.verify(token)).user_id == USER) if accepted else await refused(verifier, token)

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
            assert ((await verifier.verify(token)).user_id == USER) if accepted else await refused(verifier, token)

    @pytest.mark.parametrize(
        ("given", "accepted"),
        [
            ({"iss": "https://sts.example/tenant/"}, True),
            ({"iss": "https://login.example/tenant/v2.0"}, True),
            ({"iss": "https://sts.example/tenant"}, False),
            ({"iss": "https://sts.example/tenant/,https://login.example/tenant/v2.0"}, False),
            ({"iss": ["https://sts.example/tenant/"]}, False),
            ({}, False),
        ],
        ids=str,
    )
    async def test_one_of_several_issuers(self, given: dict[str, object], *, accepted: bool) -> None:
        """Entra's two endpoints issue tokens of one tenant under two names."""
        settings = make_settings(
            JWT_SECRET=SECRET, JWT_ISSUER="https://sts.example/tenant/,https://login.example/tenant/v2.0"
        )
        token = sign(HEADER, claims(**given))
        async with open_jwt_verifier(settings) as verifier:
            assert ((await verifier.verify(token)).user_id == USER) if accepted else await refused(verifier, token)

    @pytest.mark.parametrize(
        ("given", "accepted"),
        [
            ({"aud": "web"}, True),
            ({"aud": "app"}, True),
            ({"aud": ["other", "app"]}, True),
            ({"aud": "other"}, False),
            ({"aud": "web,app"}, False),
            ({"client_id": "web"}, False),
        ],
        ids=str,
    )
    async def test_one_of_several_audiences(self, given: dict[str, object], *, accepted: bool) -> None:
        token = sign(HEADER, claims(**given))
        async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET, JWT_AUDIENCE="web, app")) as verifier:
            assert ((await verifier.verify(token)).user_id == USER) if accepted else await refused(verifier, token)

    @pytest.mark.parametrize(
        ("given", "accepted"),
        [
            ({"client_id": "web", "token_use": "access"}, True),
            ({"client_id": ["web"]}, True),
            ({"client_id": "other"}, False),
            ({"client_id": {"web": 1}}, False),
            ({"client_id": 5}, False),
            ({"aud": "web"}, False),
            ({"client_id": "web", "token_use": "id"}, False),
        ],
        ids=str,
    )
    async def test_the_audience_in_another_claim(self, given: dict[str, object], *, accepted: bool) -> None:
        """Amazon Cognito's access tokens name the client, and no audience."""
        token = sign(HEADER, claims(**given))
        settings = make_settings(JWT_SECRET=SECRET, JWT_AUDIENCE="web", JWT_AUDIENCE_CLAIM="client_id")
        async with open_jwt_verifier(settings) as verifier:
            assert ((await verifier.verify(token)).user_id == USER) if accepted else await refused(verifier, token)

    @pytest.mark.parametrize("name", ["oid", "uid", "https://app.example.org/user_id"])
    async def test_the_user_in_another_claim(self, name: str) -> None:
        """Entra's `sub` differs from application to application."""
        async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET, JWT_USER_CLAIM=name)) as verifier:
            assert (await verifier.verify(sign(HEADER, claims(sub="pairwise") | {name: str(USER)}))).user_id == USER
            assert (await verifier.verify(sign(HEADER, claims(sub=None) | {name: str(USER)}))).user_id == USER
            assert await refused(verifier, sign(HEADER, claims()))
            assert await refused(verifier, sign(HEADER, claims() | {name: {"id": str(USER)}}))

    @pytest.mark.parametrize(
        ("kind", "subject", "user"),
        [
            ("bigint", "42", 42),
            ("bigint", 42, 42),
            ("bigint", -(2**63), -(2**63)),
            ("bigint", 2**63, None),
            ("bigint", 10**4000, None),
            ("bigint", 42.0, None),
            ("bigint", True, None),
            ("bigint", [42], None),
            ("bigint", "042", None),
            ("text", 42, None),
            ("uuid", 42, None),
            ("text", "auth0|42", "auth0|42"),
            ("text", "a\0b", None),
        ],
        ids=lambda value: str(value)[:20],
    )
    async def test_the_subject_has_the_configured_type(self, kind: str, subject: object, user: object) -> None:
        token = sign(HEADER, claims(sub=subject))
        async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET, USER_ID_TYPE=kind)) as verifier:
            assert (
                (await refused(verifier, token)) if user is None else ((await verifier.verify(token)).user_id == user)
            )


class TestHeaders:
    @pytest.mark.parametrize(
        "typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "application/jwt", "application/JWT"]
    )
    async def test_usual_types_are_accepted(self, verifier: JwtVerifier, typ: str) -> None:
        assert (await verifier.verify(sign({**HEADER, "typ": typ}, claims()))).user_id == USER

    async def test_the_type_may_be_missing(self, verifier: JwtVerifier) -> None:
        assert (await verifier.verify(sign({"alg": "HS256"}, claims()))).user_id == USER

    @pytest.mark.parametrize(
        ("typ", "accepted"),
        [("at+jwt", True), ("application/AT+jwt", True), ("JWT", False), (None, False), ("text/at+jwt", False)],
    )
    async def test_one_type_may_be_required(self, typ: str | None, *, accepted: bool) -> None:
        header = {"alg": "HS256"} | ({"typ": typ} if typ else {})
        token = sign(header, claims())
        async with open_jwt_verifier(make_settings(JWT_SECRET=SECRET, JWT_TOKEN_TYPES="at+jwt")) as verifier:
            assert ((await verifier.verify(token)).user_id == USER) if accepted else await refused(verifier, token)

    @pytest.mark.parametrize(
        "changes",
        [
            *(
                {"typ": typ}
                for typ in (
                    "",
                    "JWE",
                    "application/",
                    "application/x-jwt",
                    "application/application/jwt",
                    "dpop+jwt",
                    "logout+jwt",
                    "secevent+jwt",
                    "JWT\n",
                    "xJWT",
                    None,
                    5,
                    ["JWT"],
                )
            ),
            *({"crit": crit} for crit in (["exp"], ["b64"], [], None, "b64", {"b64": 1})),
            {"crit": ["b64"], "b64": False},
            {"crit": ["b64"], "b64": True},
            {"b64": False},
            *(
                {"alg": alg}
                for alg in ("none", "None", "NONE", "", "hs256", "HS512", "RS256", None, 5, ["HS256"], True)
            ),
            *({"kid": kid} for kid in (None, 5, {}, {"a": 1}, ["a"], True)),
        ],
        ids=lambda changes: str(changes)[:60],
    )
    async def test_odd_ones_are_refused(self, verifier: JwtVerifier, changes: dict[str, object]) -> None:
        assert await refused(verifier, sign({**HEADER, **changes}, claims()))

    async def test_no_algorithm_is_refused(self, verifier: JwtVerifier) -> None:
        assert await refused(verifier, sign({"typ": "JWT"}, claims()))

    @pytest.mark.parametrize("kid", ["../../../../dev/null", "' UNION SELECT 'a", "http://127.0.0.1:9/key", "\0", ""])
    async def test_a_key_id_names_no_file_and_no_address(self, verifier: JwtVerifier, kid: str) -> None:
        assert (await verifier.verify(sign({**HEADER, "kid": kid}, claims()))).user_id == USER
        forged = jwt.encode(claims(), "\0" * 32, headers={"kid": kid})
        assert await refused(verifier, forged)

    async def test_a_key_inside_the_token_is_not_used(self, verifier: JwtVerifier) -> None:
        jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key()))
        assert await refused(verifier, jwt.encode(claims(), RSA_KEY, "RS256", headers={"jwk": jwk, "x5c": ["MIIB"]}))
        assert (await verifier.verify(sign({**HEADER, "jwk": jwk}, claims()))).user_id == USER


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
            f"{encode(nested(2000))}.e30.AA",
            f"{encode(b'[]')}.e30.AA",
            f"{encode(b'null')}.e30.AA",
            f"{encode(b'{')}.e30.AA",
            f"{encode(bytes([0xFF]))}.e30.AA",
            "A.e30.AA",
        ],
        ids=lambda token: ascii(token)[:30],
    )
    async def test_a_text_that_is_not_a_token_is_refused(self, verifier: JwtVerifier, token: str) -> None:
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

    async def test_sixteen_kibibytes_are_the_limit(self, verifier: JwtVerifier) -> None:
        """An Entra token with 200 groups has some 11,500 characters."""
        groups = [str(uuid.UUID(int=number)) for number in range(200)]
        assert (await verifier.verify(sign(HEADER, claims(groups=groups)))).user_id == USER
        assert (await verifier.verify(sign(HEADER, claims(roles="r" * 12_000)))).user_id == USER
        for token in (sign(HEADER, claims(roles="r" * 12_400)), "A" * 100_000):
            with pytest.raises(TokenTooLargeError, match="too large"):
                await verifier.verify(token)

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
    async def test_a_signed_payload_is_still_checked(self, verifier: JwtVerifier, payload: bytes) -> None:
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
            assert (await verifier.verify(changed)).user_id == USER
        else:
            assert await refused(verifier, changed)

    @settings(deadline=None)
    @given(data=st.data())
    @pytest.mark.slow
    async def test_signed_json_of_any_shape(self, verifier: JwtVerifier, data: st.DataObject) -> None:
        json_values = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=5,
        )
        header = data.draw(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64"]), json_values))
        payload = data.draw(st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "aud", "jti"]), json_values))
        with suppress(AuthenticationError):
            assert (await verifier.verify(sign(HEADER | header, claims() | payload))).user_id == USER

    @settings(deadline=None)
    @given(header=st.binary(max_size=100), payload=st.binary(max_size=100))
    async def test_signed_bytes(self, verifier: JwtVerifier, header: bytes, payload: bytes) -> None:
        assert await refused(verifier, sign(header, claims()))
        assert await refused(verifier, sign(HEADER, payload))


class TestForgedSignatures:
    """Signatures that careless verifiers take, as project Wycheproof collects them."""

    async def test_of_rsa(self, tmp_path: Path) -> None:
        signed = unsigned({"alg": "RS256"})
        number = RSA_KEY.private_numbers().public_numbers.n
        good = RSA_KEY.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        wrong = {
            "zero": bytes(256),
            "one": bytes(255) + b"\1",
            "the modulus": number.to_bytes(256),
            "modulus - 1": (number - 1).to_bytes(256),
            "with the modulus added": (int.from_bytes(good) + number).to_bytes(257),
            "with a leading zero": b"\0" + good,
            "cut": good[:-1],
            "longer": good + b"\0",
            "of another hash": RSA_KEY.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA1()),  # noqa: S303
            "of another padding": RSA_KEY.sign(signed.encode(), salted, hashes.SHA256()),
        }
        await refuses_all(tmp_path, RSA_KEY.public_key(), signed, good, wrong)

    async def test_of_ecdsa(self, tmp_path: Path) -> None:
        key, order = EC_KEY, 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
        signed = unsigned({"alg": "ES256"})
        der = key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(der)
        good = r.to_bytes(32) + s.to_bytes(32)
        wrong = {
            "zeros": bytes(64),
            "ones": (1).to_bytes(32) * 2,
            "the order": order.to_bytes(32) * 2,
            "r = 0": bytes(32) + s.to_bytes(32),
            "s = 0": r.to_bytes(32) + bytes(32),
            "s = order": r.to_bytes(32) + order.to_bytes(32),
            "swapped": s.to_bytes(32) + r.to_bytes(32),
            "DER": der,
            "DER of 64 bytes": der[:64],
            "padded": b"\0" + r.to_bytes(32) + b"\0" + s.to_bytes(32),
            "half": good[:32],
            "twice": good * 2,
        }
        await refuses_all(tmp_path, key.public_key(), signed, good, wrong)

    @pytest.mark.parametrize("name", ["EdDSA", "Ed25519"])
    async def test_of_ed25519(self, tmp_path: Path, name: str) -> None:
        signed = unsigned({"alg": name})
        good = ED_KEY.sign(signed.encode())
        order = 2**252 + 27742317777372353535851937790883648493
        beyond = (int.from_bytes(good[32:], "little") + order).to_bytes(32, "little")
        identity = (1).to_bytes(32, "little")
        wrong = {
            "zeros": bytes(64),
            "the identity and zero": identity + bytes(32),
            "s beyond the order": good[:32] + beyond,
            "swapped": good[32:] + good[:32],
            "cut": good[:-1],
            "longer": good + b"\0",
            "of other bytes": ED_KEY.sign(b"x"),
        }
        await refuses_all(tmp_path, ED_KEY.public_key(), signed, good, wrong)


def unsigned(header: dict[str, object]) -> str:
    return ".".join(encode(json.dumps(part).encode()) for part in (header, claims()))


async def refuses_all(folder: Path, key: PublicKeyTypes, signed: str, good: bytes, wrong: dict[str, bytes]) -> None:
    file = folder / "key.pem"
    file.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    async with open_jwt_verifier(make_settings(JWT_PUBLIC_KEY_FILE=str(file))) as verifier:
        assert (await verifier.verify(f"{signed}.{encode(good)}")).user_id == USER
        for signature in wrong.values():
            assert await refused(verifier, f"{signed}.{encode(signature)}")

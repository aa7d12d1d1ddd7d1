"""Tokens of the kinds that project Wycheproof collects for JSON Web Signatures and Keys, re-made.

Each is a 401, and the log and the metric have the cause.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias

import httpx
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from structlog.testing import capture_logs

from service.access.jwks import parse_key_set
from service.settings import Settings
from tests.api.problems import bearer, read_problem
from tests.conftest import OpenDatabase, on_database, open_client
from tests.support.scraping import scrape
from tests.support.tokens import EC_KEY, RSA_KEY, claims, encode

Vectors: TypeAlias = Mapping[str, tuple[str, str]]
"""By name: a token, and why it is refused."""
Sign: TypeAlias = Callable[[bytes], bytes]

REFUSALS = "carryout_token_refusals_total"
SECRET = "0123456789abcdef0123456789abcdef"
P384, P521, K256 = (ec.generate_private_key(curve) for curve in (ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1()))
OTHER_RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
ED448 = ed448.Ed448PrivateKey.generate()
KEYS: dict[str, Any] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA_KEY),
    "ES256": EC_KEY,
    "ES384": P384,
    "ES512": P521,
    "ES256K": K256,
    "EdDSA": ED25519,
}
ORDERS = {
    "P-256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "Ed25519": 2**252 + 27742317777372353535851937790883648493,
}
SHA256 = hashes.SHA256()


def pem(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


PUBLIC = RSA_KEY.public_key()
PEM = pem(PUBLIC)
JWK = json.loads(RSAAlgorithm.to_jwk(PUBLIC))


@pytest.fixture(scope="module")
async def url(open_database: OpenDatabase) -> AsyncIterator[str]:
    async with open_database() as opened:
        yield opened


@pytest.fixture(scope="module")
async def public(
    common_settings: Settings, url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """An API that knows a public key of each kind."""
    file = tmp_path_factory.mktemp("keys") / "keys.pem"
    file.write_bytes(b"".join(pem(key.public_key()) for key in (RSA_KEY, EC_KEY, P384, P521, K256, ED25519)))
    source = {"jwt_secret": (), "jwt_public_key_file": str(file), "jwt_algorithms": tuple(KEYS)}
    async with open_client(msgspec.structs.replace(on_database(common_settings, url), **source)) as client:
        yield client


@pytest.fixture(scope="module")
async def secret(common_settings: Settings, url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An API that knows a secret."""
    source = {"jwt_secret": (SECRET,), "jwt_algorithms": ("HS256",)}
    async with open_client(msgspec.structs.replace(on_database(common_settings, url), **source)) as client:
        yield client


async def check(api: httpx.AsyncClient, vectors: Vectors) -> None:
    before = await scrape(api)
    causes = {name: await cause_of(api, token) for name, (token, _) in vectors.items()}
    assert causes == {name: cause for name, (_, cause) in vectors.items()}
    after = await scrape(api)
    for cause in set(causes.values()):
        counted = after.value(REFUSALS, cause=cause) - before.value(REFUSALS, cause=cause)
        assert counted == list(causes.values()).count(cause)


async def cause_of(api: httpx.AsyncClient, token: str) -> str:
    with capture_logs() as events:
        answer = await api.get("/api/export", headers=bearer(token))
    assert read_problem(answer, 401)["detail"] == "Missing or invalid token"
    (cause,) = [str(event["cause"]) for event in events if event["event"] == "token_refused"]
    return cause


def make(header: object, payload: object, sign: Sign | bytes) -> str:
    """A token of any parts; a part is JSON of the value, or the bytes themselves."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = ".".join(map(encode, parts))
    return f"{signed}.{encode(sign if isinstance(sign, bytes) else sign(signed.encode()))}"


def with_hmac(key: bytes, name: str = "sha256") -> Sign:
    return lambda signed: hmac.digest(key, signed, name)


def with_rsa(signed: bytes) -> bytes:
    return RSA_KEY.sign(signed, padding.PKCS1v15(), SHA256)


def with_pss(salt: int) -> Sign:
    return lambda signed: RSA_KEY.sign(signed, padding.PSS(padding.MGF1(SHA256), salt), SHA256)


def with_ec(key: ec.EllipticCurvePrivateKey = EC_KEY, hash_: hashes.HashAlgorithm = SHA256) -> Sign:
    """The numbers r and s, as ES256 has them (RFC 7518, 3.4)."""
    size = (key.curve.key_size + 7) // 8

    def sign(signed: bytes) -> bytes:
        r, s = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(hash_)))
        return r.to_bytes(size) + s.to_bytes(size)

    return sign


def changed(sign: Sign, change: Callable[[bytes], bytes]) -> Sign:
    return lambda signed: change(sign(signed))


async def test_right_ones_are_accepted(public: httpx.AsyncClient, secret: httpx.AsyncClient) -> None:
    for name, key in KEYS.items():
        assert (await public.get("/api/export", headers=bearer(jwt.encode(claims(), key, name)))).status_code == 200
    signed = {
        "RS256": with_rsa,
        "PS256": with_pss(SHA256.digest_size),
        "ES256": with_ec(),
        "ES384": with_ec(P384, hashes.SHA384()),
        "EdDSA": ED25519.sign,
    }
    for name, sign in signed.items():
        made = make({"alg": name}, claims(), sign)
        assert (await public.get("/api/export", headers=bearer(made))).status_code == 200
    made = make({"alg": "HS256"}, claims(), with_hmac(SECRET.encode()))
    assert (await secret.get("/api/export", headers=bearer(made))).status_code == 200


async def test_confused_algorithms(public: httpx.AsyncClient) -> None:
    """A public key as an HMAC secret, in each form that a library might keep it in; and no signature at all."""
    number = PUBLIC.public_numbers().n
    secrets = {
        "PEM": PEM,
        "PEM without its last line break": PEM.rstrip(),
        "PEM of PKCS #1": PUBLIC.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "DER": PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "JWK": json.dumps(JWK).encode(),
        "modulus": number.to_bytes(256),
        "nothing": b"",
        "EC point": EC_KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        "Ed25519": ED25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
    }
    signed = {f"HS256, {name}": make({"alg": "HS256"}, claims(), with_hmac(key)) for name, key in secrets.items()}
    names = ("none", "None", "NONE", "nOnE", "", "null", "HS512", "rs256", "RS256 ", "RSA256", "SHA256", "ES256\0")
    named = {f"alg {name}": make({"alg": name}, claims(), with_rsa) for name in names}
    as_rsa = {f"RS256, {name}": make({"alg": "RS256"}, claims(), with_hmac(key)) for name, key in secrets.items()}
    unsigned = {f"alg {name}, unsigned": make({"alg": name}, claims(), b"") for name in ("none", "nOnE", "RS256")}
    odd = {f"alg {value!a}": make({"alg": value}, claims(), with_rsa) for value in (None, 5, ["RS256"], {"a": 1})}
    await check(
        public,
        {name: (token, "algorithm") for name, token in (signed | named).items()}
        | {name: (token, "signature") for name, token in as_rsa.items()}
        | {name: (token, "malformed") for name, token in (unsigned | odd).items()},
    )


async def test_odd_encodings(public: httpx.AsyncClient) -> None:
    header, payload, signature = make({"alg": "RS256"}, claims(x="?>?>~~~"), with_rsa).split(".")
    standard = make({"alg": "RS256"}, claims(), b"\xfb\xff" * 128).replace("-", "+").replace("_", "/")
    tokens = {
        "no signature, no dot": f"{header}.{payload}",
        "empty signature": f"{header}.{payload}.",
        "empty payload": f"{header}..{signature}",
        "empty header": f".{payload}.{signature}",
        "padded signature": f"{header}.{payload}.{signature}==",
        "padded once": f"{header}.{payload}.{signature}=",
        "padded header": f"{header}=.{payload}.{signature}",
        "padded payload": f"{header}.{payload}=.{signature}",
        "standard alphabet": standard,
        "line break inside": f"{header}.{payload[:20]}%0A{payload[20:]}.{signature}",
        "four parts": f"{header}.{payload}.{signature}.{signature}",
        "JWE": ".".join([encode(b'{"alg":"RSA-OAEP","enc":"A256GCM"}'), "a", "b", "c", "d"]),
        "JSON serialization": json.dumps({"protected": header, "payload": payload, "signature": signature}),
        "detached": f"{header}..{signature}",
    }
    await check(public, {name: (token, "malformed") for name, token in tokens.items()})


async def test_signatures_have_one_spelling(public: httpx.AsyncClient) -> None:
    """The last character of base64url holds bits that no byte has: another one there would be another token."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    vectors: dict[str, tuple[str, str]] = {}
    for name in ("RS256", "ES256", "EdDSA"):
        token = jwt.encode(claims(), KEYS[name], name)
        position = alphabet.index(token[-1])
        vectors |= {f"{name}, {bit}": (token[:-1] + alphabet[position ^ bit], "malformed") for bit in (1, 2)}
    await check(public, vectors)


async def test_headers(public: httpx.AsyncClient) -> None:
    """The attacker's key comes along, or is where the header says."""
    jwk = json.loads(RSAAlgorithm.to_jwk(OTHER_RSA.public_key()))
    certificate = base64.b64encode(pem(OTHER_RSA.public_key())).decode()
    foreign: dict[str, dict[str, Any]] = {
        "jwk": {"jwk": jwk},
        "jwk, symmetric": {"jwk": {"kty": "oct", "k": encode(SECRET.encode())}},
        "jku": {"jku": "http://127.0.0.1:9/jwks"},
        "x5u": {"x5u": "http://127.0.0.1:9/certificate"},
        "x5c": {"x5c": [certificate]},
        "x5t": {"x5t": "AAAA", "x5t#S256": "AAAA"},
        "kid is a path": {"kid": "../../../../../../dev/null"},
        "kid is an address": {"kid": "http://127.0.0.1:9/key"},
        "kid is SQL": {"kid": "x' UNION SELECT 'secret"},
        "kid is a command": {"kid": "$(touch /tmp/x)"},
        "kid is NUL": {"kid": "\0"},
        "kid is long": {"kid": "k" * 4_000},
    }
    malformed: dict[str, dict[str, Any]] = {
        "crit, unknown": {"crit": ["urn:x"], "urn:x": True},
        "crit, exp": {"crit": ["exp"]},
        "crit, empty": {"crit": []},
        "crit, null": {"crit": None},
        "crit, not a list": {"crit": "b64", "b64": True},
        "b64, critical": {"crit": ["b64"], "b64": False},
        "b64": {"b64": False},
        "kid is a number": {"kid": 5},
        "kid is a list": {"kid": ["a"]},
    }
    twice = b'{"alg":"none","alg":"RS256"}', b'{"alg":"RS256","alg":"RS256"}', b'{"alg":"RS256","\\u0061lg":"HS256"}'
    by_other = {name: jwt.encode(claims(), OTHER_RSA, "RS256", headers=more) for name, more in foreign.items()}
    await check(
        public,
        {name: (token, "signature") for name, token in by_other.items()}
        | {name: (make({"alg": "RS256"} | more, claims(), with_rsa), "malformed") for name, more in malformed.items()}
        | {f"alg twice, {header!r}": (make(header, claims(), with_rsa), "malformed") for header in twice},
    )


async def test_signatures_of_rsa(public: httpx.AsyncClient) -> None:
    number = PUBLIC.public_numbers().n
    right = {"alg": "RS256"}
    signs: dict[str, Sign | bytes] = {
        "zero": bytes(256),
        "one": (1).to_bytes(256),
        "modulus": number.to_bytes(256),
        "modulus - 1": (number - 1).to_bytes(256),
        "modulus added": changed(with_rsa, lambda good: (int.from_bytes(good) + number).to_bytes(257)),
        "leading zero": changed(with_rsa, lambda good: b"\0" + good),
        "cut": changed(with_rsa, lambda good: good[:-1]),
        "longer": changed(with_rsa, lambda good: good + b"\0"),
        "one byte": b"\1",
        "of SHA-1": lambda signed: RSA_KEY.sign(signed, padding.PKCS1v15(), hashes.SHA1()),  # noqa: S303
        "of SHA-512": lambda signed: RSA_KEY.sign(signed, padding.PKCS1v15(), hashes.SHA512()),
        "of a hash": lambda signed: RSA_KEY.sign(hashlib.sha256(signed).digest(), padding.PKCS1v15(), SHA256),
        "PSS": with_pss(SHA256.digest_size),
        "by another key": lambda signed: OTHER_RSA.sign(signed, padding.PKCS1v15(), SHA256),
        "of other claims": lambda _: with_rsa(b"x"),
    }
    salts = {
        f"PSS with a salt of {size}": with_pss(size)
        for size in (0, 20, 31, 64, padding.calculate_max_pss_salt_length(PUBLIC, SHA256))
    }
    other_mask = padding.PSS(padding.MGF1(hashes.SHA1()), SHA256.digest_size)  # noqa: S303
    salts["PSS with another mask"] = lambda signed: RSA_KEY.sign(signed, other_mask, SHA256)
    salts["PSS, but PKCS #1"] = with_rsa
    await check(
        public,
        {name: (make(right, claims(), sign), "signature") for name, sign in signs.items()}
        | {name: (make({"alg": "PS256"}, claims(), sign), "signature") for name, sign in salts.items()},
    )


async def test_signatures_of_ecdsa(public: httpx.AsyncClient) -> None:
    """Psychic ones (r = s = 0), DER in place of two numbers, other curves."""
    order = ORDERS["P-256"]
    numbers = {
        "r = s = 0": (0, 0),
        "r = 0": (0, 1),
        "s = 0": (1, 0),
        "r = s = 1": (1, 1),
        "r = order": (order, 1),
        "s = order": (1, order),
        "r = s = order": (order, order),
        "r = order + 1": (order + 1, 1),
        "r = s = order - 1": (order - 1, order - 1),
        "largest": (2**256 - 1, 2**256 - 1),
    }
    signs: dict[str, Sign | bytes] = {name: r.to_bytes(32) + s.to_bytes(32) for name, (r, s) in numbers.items()}
    signs |= {
        "DER": lambda signed: EC_KEY.sign(signed, ec.ECDSA(SHA256)),
        "r with the order added": changed(with_ec(), lambda good: _added(good[:32], order) + good[32:]),
        "swapped": changed(with_ec(), lambda good: good[32:] + good[:32]),
        "padded to 66": changed(with_ec(), lambda good: b"\0" + good[:32] + b"\0" + good[32:]),
        "cut": changed(with_ec(), lambda good: good[:-1]),
        "half": changed(with_ec(), lambda good: good[:32]),
        "twice": changed(with_ec(), lambda good: good * 2),
        "empty numbers": b"\0",
        "of SHA-512": with_ec(hash_=hashes.SHA512()),
        "by another key": with_ec(ec.generate_private_key(ec.SECP256R1())),
        "by secp256k1": with_ec(K256),
        "by P-384": with_ec(P384),
    }
    curves = {
        "ES384 by P-256": make({"alg": "ES384"}, claims(), with_ec(EC_KEY, hashes.SHA384())),
        "ES512 by P-384": make({"alg": "ES512"}, claims(), with_ec(P384, hashes.SHA512())),
        "ES256K by P-256": make({"alg": "ES256K"}, claims(), with_ec()),
        "ES512, zeros": make({"alg": "ES512"}, claims(), bytes(132)),
        "ES384, zeros": make({"alg": "ES384"}, claims(), bytes(96)),
        "RS256 by P-256": make({"alg": "RS256"}, claims(), with_ec()),
        "ES256 by RSA": make({"alg": "ES256"}, claims(), with_rsa),
    }
    await check(
        public,
        {name: (make({"alg": "ES256"}, claims(), sign), "signature") for name, sign in signs.items()}
        | {name: (token, "signature") for name, token in curves.items()},
    )


def _added(number: bytes, order: int) -> bytes:
    return ((int.from_bytes(number) + order) % 2**256).to_bytes(32)


async def test_signatures_of_eddsa(public: httpx.AsyncClient) -> None:
    order, identity = ORDERS["Ed25519"], (1).to_bytes(32, "little")

    def beyond(good: bytes) -> bytes:
        """The same signature to a verifier that doesn't compare s with the order (RFC 8032, 5.1.7)."""
        return good[:32] + (int.from_bytes(good[32:], "little") + order).to_bytes(32, "little")

    signs: dict[str, Sign | bytes] = {
        "s beyond the order": changed(ED25519.sign, beyond),
        "zeros": bytes(64),
        "the identity and zero": identity + bytes(32),
        "the identity and the order": identity + order.to_bytes(32, "little"),
        "high bit of s": changed(ED25519.sign, lambda good: good[:-1] + bytes([good[-1] | 0x80])),
        "swapped": changed(ED25519.sign, lambda good: good[32:] + good[:32]),
        "cut": changed(ED25519.sign, lambda good: good[:-1]),
        "longer": changed(ED25519.sign, lambda good: good + b"\0"),
        "of a hash": lambda signed: ED25519.sign(hashlib.sha512(signed).digest()),
        "by Ed448": ED448.sign,
        "by another key": ed25519.Ed25519PrivateKey.generate().sign,
    }
    await check(public, {name: (make({"alg": "EdDSA"}, claims(), sign), "signature") for name, sign in signs.items()})


async def test_authentication_codes(secret: httpx.AsyncClient) -> None:
    right = with_hmac(SECRET.encode())
    signs: dict[str, Sign | bytes] = {
        "cut": changed(right, lambda good: good[:-1]),
        "half": changed(right, lambda good: good[:16]),
        "one byte": changed(right, lambda good: good[:1]),
        "longer": changed(right, lambda good: good + b"\0"),
        "reversed": changed(right, lambda good: good[::-1]),
        "zeros": bytes(32),
        "ones": b"\xff" * 32,
        "of SHA-512": with_hmac(SECRET.encode(), "sha512"),
        "of SHA-1": with_hmac(SECRET.encode(), "sha1"),
        "by nothing": with_hmac(b""),
        "by zeros": with_hmac(bytes(32)),
        "by another case": with_hmac(SECRET.upper().encode()),
        "by the secret's base64": with_hmac(base64.b64encode(SECRET.encode())),
        "no key, a hash": lambda signed: hashlib.sha256(signed).digest(),
        "no key, a hash of both": lambda signed: hashlib.sha256(SECRET.encode() + signed).digest(),
    }
    await check(secret, {name: (make({"alg": "HS256"}, claims(), sign), "signature") for name, sign in signs.items()})


async def test_claims(secret: httpx.AsyncClient) -> None:
    """The right key signed these tokens."""
    now = time.time()
    given: dict[str, tuple[object, str]] = {
        "exp is a text": (claims(exp="4102444800"), "claim"),
        "exp is in other digits": (claims(exp="\uff14" * 10), "claim"),
        "exp is true": (claims(exp=True), "expired"),
        "exp is a list": (claims(exp=[now + 60]), "malformed"),
        "exp is an object": (claims(exp={}), "malformed"),
        "exp is empty": (claims(exp=""), "malformed"),
        "exp is negative": (claims(exp=-1), "expired"),
        "exp is zero": (claims(exp=0), "expired"),
        "exp is a float of the past": (claims(exp=now - 60.5), "expired"),
        "exp is in milliseconds": (claims(exp=int(now + 60) * 1_000), "claim"),
        "exp is huge": (claims(exp=10**400), "claim"),
        "exp is lacking": (claims(exp=None), "claim"),
        "exp is null": (claims() | {"exp": None}, "malformed"),
        "exp is NaN": (claims(exp=float("nan")), "malformed"),
        "exp is Infinity": (claims(exp=float("inf")), "malformed"),
        "exp is 1e400": (json.dumps(claims(exp=5)).replace("5}", "1e400}").encode(), "malformed"),
        "exp twice": (json.dumps(claims()).replace("{", '{"exp":1,', 1).encode(), "malformed"),
        "sub twice": (json.dumps(claims()).replace("{", '{"sub":"x",', 1).encode(), "malformed"),
        "nbf is in the future": (claims(nbf=now + 3_600), "not_yet"),
        "iat is in the future": (claims(iat=now + 3_600), "not_yet"),
        "a token in a token": (make({"alg": "HS256"}, claims(), with_hmac(SECRET.encode())).encode(), "malformed"),
        "a list": ([claims()], "malformed"),
        "a text": (json.dumps(claims()), "malformed"),
        "null": (None, "malformed"),
    }
    tokens = {
        name: (make({"alg": "HS256"}, payload, with_hmac(SECRET.encode())), cause)
        for name, (payload, cause) in given.items()
    }
    nested = make({"alg": "HS256", "cty": "JWT"}, b"a.b.c", with_hmac(SECRET.encode()))
    await check(secret, tokens | {"cty": (nested, "malformed")})


def test_keys_that_are_not_used() -> None:
    """A key set may hold weak and broken ones; with each of these, a signature would prove little or nothing."""
    number, point = PUBLIC.public_numbers().n, json.loads(ECAlgorithm.to_jwk(EC_KEY.public_key()))
    weak = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505 (the weakness is the point)
    keys: dict[str, dict[str, Any]] = {
        "RSA of 1024 bits": json.loads(RSAAlgorithm.to_jwk(weak)),
        "RSA, e = 1": JWK | {"e": _number(1)},
        "RSA, e = 0": JWK | {"e": ""},
        "RSA, e is even": JWK | {"e": _number(65536)},
        "RSA, e is beyond n": JWK | {"e": _number(number + 2)},
        "RSA, n = 1": JWK | {"n": _number(1)},
        "RSA, n is lacking": {"kty": "RSA", "e": "AQAB"},
        "EC, not on the curve": point | {"y": encode(bytes(32))},
        "EC, at infinity": point | {"x": encode(bytes(32)), "y": encode(bytes(32))},
        "EC, of another curve": point | {"crv": "P-384"},
        "EC, of no curve": point | {"crv": "P-192"},
        "EC, short": point | {"x": encode(b"\1")},
        "oct": {"kty": "oct", "k": encode(SECRET.encode())},
        "kty in capitals": JWK | {"kty": "rsa"},
        "for encryption": JWK | {"use": "enc"},
        "for wrapping": JWK | {"key_ops": ["wrapKey"]},
        "for another algorithm": JWK | {"alg": "RSA-OAEP"},
        "alg none": JWK | {"alg": "none"},
    }
    sets = {name: json.dumps({"keys": [key]}).encode() for name, key in keys.items()}
    assert len(parse_key_set(json.dumps({"keys": [JWK, point]}).encode(), tuple(KEYS))) == 2
    assert {name: parse_key_set(body, tuple(KEYS)) for name, body in sets.items()} == dict.fromkeys(keys, ())


def _number(value: int) -> str:
    return encode(value.to_bytes((value.bit_length() + 7) // 8))

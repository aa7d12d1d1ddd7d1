"""Forged tokens and keys get one and the same 401, and no server that they name is asked for a key."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.access.tokens import open_jwt_verifier
from service.settings import Settings
from tests.hostile.siege import Siege, status_of
from tests.support.tokens import EC_KEY, RSA_KEY, claims, encode, make_settings, refused

PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
STRANGER = str(uuid.UUID(int=7))
DEEP = 3_000


class Lure:
    """A server that a token names. The service must never connect to it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/keys"

    def was_visited(self) -> bool:
        try:
            self.listener.accept()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def lure() -> Iterator[Lure]:
    lure = Lure()
    yield lure
    assert not lure.was_visited()
    lure.listener.close()


def forge(header: object, payload: object, signature: bytes = b"") -> str:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    return ".".join(encode(part) for part in (*parts, signature))


def hmac_signed(header: object, payload: object, secret: bytes) -> str:
    unsigned = forge(header, payload).rpartition(".")[0]
    return f"{unsigned}.{encode(hmac.digest(secret, unsigned.encode(), hashlib.sha256))}"


def forgeries(lure: str, subject: str = STRANGER) -> dict[str, str]:
    """Forged tokens, by the kind of forgery. No trusted key signed any of them."""
    good = claims(sub=subject)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key()))
    certificate = base64.b64encode(PEM).decode()
    foreign = {
        "jwk": {"jwk": jwk},
        "jku": {"jku": lure},
        "x5u": {"x5u": lure},
        "x5c": {"x5c": [certificate], "x5t": "a", "x5t#S256": "b"},
        "kid is an address": {"kid": lure},
        "kid is a path": {"kid": "../../../../../../dev/null"},
        "kid is a process": {"kid": "/proc/self/environ"},
        "kid is SQL": {"kid": "x' UNION SELECT 'secret"},
        "kid is a command": {"kid": "|touch /tmp/x"},
        "kid is huge": {"kid": "k" * 5_000},
        "issuer": {"iss": lure},
        "crit": {"crit": ["urn:carryout:unknown"], "urn:carryout:unknown": True},
    }
    signed = {name: jwt.encode(good | {"iss": lure}, RSA_KEY, "RS256", headers=more) for name, more in foreign.items()}
    unsigned = {f"alg {alg}": forge({"alg": alg, "typ": "JWT"}, good) for alg in ("none", "None", "NONE", "nOnE", "")}
    confused = {
        "HMAC with a public key": hmac_signed({"alg": "HS256"}, good, PEM),
        "HMAC with nothing": hmac_signed({"alg": "HS256"}, good, b""),
        "HMAC with NULs": hmac_signed({"alg": "HS256", "kid": "/dev/null"}, good, b"\0" * 32),
        "ECDSA of zeros": forge({"alg": "ES256"}, good, b"\0" * 64),
        "ECDSA by another": jwt.encode(good, EC_KEY, "ES256"),
        "RSA of nothing": forge({"alg": "RS256"}, good, b"\0" * 256),
    }
    shapes = {
        "empty signature": forge({"alg": "HS256"}, good),
        "no signature": forge({"alg": "HS256"}, good).rpartition(".")[0],
        "two dots": "..",
        "five parts, as a JWE has": ".".join([encode(b'{"alg":"dir","enc":"A256GCM"}'), "", "a", "b", "c"]),
        "a token in a token": forge({"alg": "HS256", "cty": "JWT"}, {"inner": forge({"alg": "none"}, good)}),
        "deep header": forge(b"[" * DEEP + b"]" * DEEP, good),
        "deep payload": forge({"alg": "HS256"}, b'{"a":' * 1_500 + b"1" + b"}" * 1_500),
        "long": forge({"alg": "HS256"}, good | {"x": "x" * 11_000}),
        "huge number": forge({"alg": "HS256"}, b'{"exp":' + b"9" * 6_000 + b"}"),
        "not UTF-8": forge(b'{"alg":"\xff"}', good),
        "JSON, but no object": forge(b"null", b"[]"),
        "percent": "%00.%00.%00",
        "SQL": "' OR 1=1 --",
    }
    without = {
        f"without {name}": forge({"alg": "HS256"}, {k: v for k, v in good.items() if k != name}) for name in good
    }
    return signed | unsigned | confused | shapes | without


async def test_the_api_answers_all_alike(siege: Siege, lure: Lure) -> None:
    tokens = forgeries(lure.url, str(siege.user_id))
    tokens["truncated"] = siege.token[:-1]
    tokens["another subject"] = _with_payload(siege.token, claims())
    tokens["for ever"] = _with_payload(siege.token, claims(sub=str(siege.user_id), exp=int(time.time()) + 10**9))
    answers = {
        name: await siege.send("GET /api/export HTTP/1.1", f"Authorization: Bearer {t}") for name, t in tokens.items()
    }
    assert {name: status_of(raw) for name, raw in answers.items()} == dict.fromkeys(tokens, 401)
    details = {json.loads(raw.partition(b"\r\n\r\n")[2])["detail"] for raw in answers.values()}
    assert details == {"Missing or invalid token"}


async def test_only_a_token_that_is_too_large_is_told_why(siege: Siege) -> None:
    raw = await siege.send("GET /api/export HTTP/1.1", f"Authorization: Bearer {'a' * 16_385}")
    assert status_of(raw) == 431
    problem = json.loads(raw.partition(b"\r\n\r\n")[2])
    assert problem["detail"] == "The token is too large: more than 16384 characters"


async def test_tokens_for_another_purpose_open_nothing(siege: Siege) -> None:
    """Signed with the right secret, by an application that makes more than access tokens with it."""
    others: dict[str, tuple[dict[str, object], dict[str, str]]] = {
        "refresh": ({"type": "refresh"}, {}),
        "of a sender with a key": ({"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}, {}),
        "ID": ({"token_use": "id"}, {}),
        "logout": ({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}, {"typ": "logout+jwt"}),
        "for another audience": ({"aud": "unsubscribe"}, {}),
    }
    secret = siege.resources.settings.jwt_secret[0]
    tokens = {
        name: jwt.encode(claims(sub=str(siege.user_id), **more), secret, headers=header)
        for name, (more, header) in others.items()
    }
    doors = ["/api/export", "/api/export/stream?format=json", siege.link.partition("?")[0]]
    requests = [
        (f"GET {door} HTTP/1.1", f"Authorization: Bearer {token}") for door in doors for token in tokens.values()
    ]
    assert set(await siege.send_all(requests)) == {401}


async def test_every_door_is_as_tight(siege: Siege, lure: Lure) -> None:
    job = siege.link.split("/")[3]
    doors = [
        "POST /api/export",
        "GET /api/export/stream?format=csv",
        *(f"{method} /api/export/{job}" for method in ("GET", "DELETE")),
        *(f"GET /api/export/{job}/{what}" for what in ("events", "download", "downloads")),
        "GET /api/v1/users/export",
        "GET /api/v1/users/export-full",
    ]
    chosen = ["alg none", "empty signature", "jku", "HMAC with nothing", "deep payload"]
    tokens = forgeries(lure.url, str(siege.user_id))
    requests = [(f"{door} HTTP/1.1", f"Authorization: Bearer {tokens[name]}") for door in doors for name in chosen]
    assert set(await siege.send_all(requests)) == {401}


async def test_other_places_for_a_token(siege: Siege) -> None:
    places = [
        (f"GET /api/export?access_token={siege.token} HTTP/1.1",),
        (f"GET /api/export?token={siege.token} HTTP/1.1",),
        ("GET /api/export HTTP/1.1", f"Cookie: token={siege.token}"),
        ("GET /api/export HTTP/1.1", f"X-Authorization: Bearer {siege.token}"),
        ("GET /api/export HTTP/1.1", f"Authorization: Bearer  {siege.token}"),
        ("GET /api/export HTTP/1.1", f"Authorization: Bearer {siege.token},{siege.token}"),
        ("GET /api/export HTTP/1.1", f"Authorization: Token {siege.token}"),
        ("GET /api/export HTTP/1.1", f"X-API-Key: {siege.token}"),
        ("GET /api/export HTTP/1.1", siege.api_key),
        ("GET /api/v1/users/export HTTP/1.1", siege.bearer),
    ]
    assert set(await siege.send_all(places)) == {401}
    assert status_of(await siege.send("GET /api/export HTTP/1.1", siege.bearer)) == 200


async def test_wrong_api_keys(siege: Siege) -> None:
    prefix, secret = siege.key[:12], siege.key[12:]
    wrong = [
        secret,
        prefix,
        siege.key + "A",
        siege.key[:-1],
        siege.key.swapcase(),
        siege.key.replace("co_", "CO_"),
        f"co_%_{secret}",
        f"co_________{secret}",
        f"co_{'a' * 8}_{secret}",
        f"{prefix}{secret[::-1]}",
        f"{prefix}{'=' * 43}",
        f"{siege.key},{siege.key}",
        "' OR '1'='1",
        "co_" + "9" * 20_000,
        "\xff\xfe" * 30,
        *(siege.key[:at] + chr(ord(siege.key[at]) ^ 1) + siege.key[at + 1 :] for at in range(len(siege.key))),
    ]
    path = "GET /api/v1/users/export HTTP/1.1"
    statuses = await siege.send_all([(path, f"X-API-Key: {key}") for key in wrong])
    assert set(statuses) == {401}
    assert status_of(await siege.send(path, siege.api_key)) == 200


@asynccontextmanager
async def _jwks() -> AsyncIterator[str]:
    """A provider with one RSA key, which signed nothing here."""
    key = rsa.generate_private_key(65537, 2048).public_key()
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key)) | {"kid": "one", "use": "sig"}
    body = json.dumps({"keys": [jwk]}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"


async def _all_refused(settings: Settings, lure: Lure) -> bool:
    async with open_jwt_verifier(settings) as verifier:
        return all([await refused(verifier, token) for token in forgeries(lure.url).values()])


async def test_a_public_key_trusts_no_other(tmp_path: Path, lure: Lure) -> None:
    """Another's, of the same kind; the forger's own HMAC with it is what algorithm confusion is."""
    trusted = rsa.generate_private_key(65537, 2048).public_key()
    pem = trusted.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    settings = make_settings(JWT_PUBLIC_KEY_FILE=str(tmp_path / "key.pem"), JWT_ALGORITHMS="RS256,ES256")
    assert await _all_refused(settings, lure)
    async with open_jwt_verifier(settings) as verifier:
        assert await refused(verifier, hmac_signed({"alg": "HS256"}, claims(), pem))
        assert await refused(verifier, hmac_signed({"alg": "RS256"}, claims(), pem))


async def test_a_provider_is_the_only_place_for_keys(lure: Lure) -> None:
    async with _jwks() as url:
        assert await _all_refused(make_settings(JWT_JWKS_URL=url), lure)


def _with_payload(token: str, payload: object) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{encode(json.dumps(payload).encode())}.{signature}"

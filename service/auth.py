"""Who is asking: users by the token of their identity provider (a JWT)."""

import re
import time
import uuid
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import UNSET, Meta, UnsetType

from service.database import UserId
from service.errors import AuthenticationError, ConfigurationError, InvalidValueError
from service.jwks import PublicKey, VerificationKey, fitting_algorithms, open_jwks
from service.settings import Settings
from service.strict_json import parse_strictly

NOT_AUTHENTICATED = "Missing or invalid token"
LEEWAY_SECONDS = 30
MAX_TOKEN_CHARACTERS = 8_192
MAX_USER_ID_CHARACTERS = 255
SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES256K", "ES384", "ES512", "EdDSA"}
)

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")

BIGINT = range(-(2**63), 2**63)
"""The values of PostgreSQL's type."""


def parse_user_id(text: str, user_id_type: Literal["uuid", "bigint", "text"]) -> UserId:
    """The one value `text` can mean as a user's id. Raises InvalidValueError for any other spelling of it."""
    if user_id_type == "uuid" and _UUID.fullmatch(text):
        return uuid.UUID(text)
    if user_id_type == "bigint" and (number := parse_bigint(text)) is not None:
        return number
    if user_id_type == "text" and 1 <= len(text) <= MAX_USER_ID_CHARACTERS and text.isprintable():
        return text
    raise InvalidValueError(f"Not a user id of type {user_id_type}")


def parse_bigint(text: str) -> int | None:
    """The bigint that `text` is the one spelling of; None for any other text."""
    return number if _INTEGER.fullmatch(text) and (number := int(text)) in BIGINT else None


class KeySource(Protocol):
    async def find(self, key_id: str | None, algorithm: str) -> VerificationKey | None:
        """The key for a token with this header. Raises UnavailableError if nobody can say."""


class JwtVerifier:
    def __init__(self, keys: KeySource, settings: Settings) -> None:
        self._keys = keys
        self._settings = settings

    async def verify(self, token: str) -> UserId:
        """The user whose token it is. Raises AuthenticationError, or UnavailableError if the keys can't be had."""
        with _refusing():
            header = _read_header(token)
        key = await self._keys.find(header.kid, header.alg)
        with _refusing():
            claims = msgspec.convert(self._decode(token, key), _Claims)
            return parse_user_id(claims.sub, self._settings.user_id_type)

    def _decode(self, token: str, key: VerificationKey | None) -> dict[str, Any]:
        if key is None:
            raise jwt.InvalidKeyError("No such key")
        return _JWT.decode(
            token,
            key.key,
            algorithms=key.algorithms,
            issuer=self._settings.jwt_issuer or None,
            audience=self._settings.jwt_audience or None,
            leeway=LEEWAY_SECONDS,
        )


@asynccontextmanager
async def open_jwt_verifier(settings: Settings) -> AsyncIterator[JwtVerifier]:
    """Raises ConfigurationError for keys or algorithms that can't work; doesn't wait for an identity provider."""
    async with _open_keys(settings) as keys:
        yield JwtVerifier(keys, settings)


def create_token(settings: Settings, subject: str, ttl_seconds: int) -> str:
    """A token like an identity provider's, for operators' tests.

    Raises ConfigurationError unless tokens are signed with a shared secret, InvalidValueError for a wrong `subject`.
    """
    if not settings.jwt_secret:
        raise ConfigurationError(
            "Tokens come from your identity provider; only with CARRYOUT_JWT_SECRET can they be made here"
        )
    algorithms = _load_secret(settings).algorithms
    now = int(time.time())
    claims = {
        "sub": str(parse_user_id(subject, settings.user_id_type)),
        "iat": now,
        "exp": now + ttl_seconds,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
    }
    given = {name: claim for name, claim in claims.items() if claim != ""}
    return _JWT.encode(given, settings.jwt_secret, algorithms[0])


class _Header(msgspec.Struct):
    """Where else a key might be found (`jku`, `jwk`, `x5u`, `x5c`) is never read."""

    alg: str
    kid: str | None = None
    typ: Annotated[str, Meta(pattern=r"^(?i:(at\+)?jwt)\Z")] = "JWT"
    crit: UnsetType = UNSET


class _Claims(msgspec.Struct):
    """Required, and of these types: PyJWT takes texts in the digits of any script and `true` for times.

    A time may have a fraction (RFC 7519, 2), and those of Python's and JavaScript's clocks do.
    """

    sub: str
    exp: Annotated[float, Meta(ge=0, le=253_402_300_799)]  # the end of the year 9999; milliseconds lie beyond it


class _StrictJwt(jwt.PyJWT):
    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        return _parse_object(decoded["payload"])


_JWT = _StrictJwt(options={"enforce_minimum_key_length": True})


def _read_header(token: str) -> _Header:
    if len(token) > MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token):
        raise jwt.DecodeError("Not three base64url segments")
    segment = token.partition(".")[0]
    return msgspec.convert(_parse_object(urlsafe_b64decode(segment + "=" * (-len(segment) % 4))), _Header)


def _parse_object(text: bytes) -> dict[str, Any]:
    value = parse_strictly(text)
    if not isinstance(value, dict):
        raise jwt.DecodeError("Not a JSON object")
    return value


@contextmanager
def _refusing() -> Iterator[None]:
    """ValueError is what base64, UTF-8, JSON and msgspec raise; RecursionError comes of deep nesting."""
    try:
        yield
    except (jwt.PyJWTError, InvalidValueError, ValueError, RecursionError) as error:
        raise AuthenticationError(NOT_AUTHENTICATED) from error


class _SingleKey:
    def __init__(self, key: VerificationKey) -> None:
        self._key = key

    async def find(self, _key_id: str | None, _algorithm: str) -> VerificationKey:
        return self._key


def _open_keys(settings: Settings) -> AbstractAsyncContextManager[KeySource]:
    if settings.jwt_secret:
        return nullcontext(_SingleKey(_load_secret(settings)))
    if settings.jwt_public_key_file:
        return nullcontext(_SingleKey(_load_public_key(settings)))
    url = urlsplit(settings.jwt_jwks_url)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ConfigurationError("CARRYOUT_JWT_JWKS_URL must begin with http:// or https:// and name a host")
    return open_jwks(settings.jwt_jwks_url, _require_algorithms(settings, ASYMMETRIC))


def _load_secret(settings: Settings) -> VerificationKey:
    algorithms = _require_algorithms(settings, SYMMETRIC)
    secret = settings.jwt_secret.encode()
    if fitting_algorithms(secret, algorithms) != algorithms:
        raise ConfigurationError(
            f"CARRYOUT_JWT_SECRET is a public key, or too short for {', '.join(algorithms)} (32, 48 and 64 bytes)"
        )
    return VerificationKey(secret, algorithms)


def _load_public_key(settings: Settings) -> VerificationKey:
    path = settings.jwt_public_key_file
    algorithms = _require_algorithms(settings, ASYMMETRIC)
    try:
        key = load_pem_public_key(Path(path).read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"CARRYOUT_JWT_PUBLIC_KEY_FILE: no public key in PEM format at {path}") from error
    if isinstance(key, PublicKey) and (fitting := fitting_algorithms(key, algorithms)):
        return VerificationKey(key, fitting)
    raise ConfigurationError(
        f"CARRYOUT_JWT_PUBLIC_KEY_FILE: the key at {path} is too short or not made for {', '.join(algorithms)}"
    )


def _require_algorithms(settings: Settings, possible: frozenset[str]) -> tuple[str, ...]:
    """What keeps a public key from ever being taken for an HMAC secret, and `none` out."""
    if wrong := [name for name in settings.jwt_algorithms if name not in possible]:
        raise ConfigurationError(
            f"CARRYOUT_JWT_ALGORITHMS: {wrong[0]} can't be used with this key, only {', '.join(sorted(possible))}"
        )
    return settings.jwt_algorithms

"""Authentication of users by a JWT of their identity provider."""

import re
import time
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt.types import Options
from msgspec import UNSET, Meta, UnsetType

from guard.files import read_trusted
from languages.choice import find_language
from service.access.claims import has_all, has_audience, is_foreign, make_required, user_text
from service.access.jwks import ALGORITHMS, PublicKey, VerificationKey, fitting_algorithms, open_jwks
from service.errors import ConfigurationError, InvalidValueError, TokenFault, TokenRefusedError, TokenTooLargeError
from service.settings import Settings, decode_secret
from service.strict_json import parse_strictly
from service.user_ids import UserId, parse_user_id

LEEWAY_SECONDS = 30
MAX_TOKEN_CHARACTERS = 16_384
SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES256K", "ES384", "ES512", "EdDSA", "Ed25519"}
)
FAULTS = (
    (jwt.ExpiredSignatureError, TokenFault.EXPIRED),
    (jwt.ImmatureSignatureError, TokenFault.NOT_YET),
    (jwt.InvalidIssuerError, TokenFault.ISSUER),
    (jwt.MissingRequiredClaimError, TokenFault.ISSUER),  # the only claim that PyJWT requires here
)

# A file may hold several, and text between them; a block that isn't a public key is refused. Auth0 and others hand out
# the key in a certificate, of which nothing else is read: who made it and when it ends says nothing about tokens.
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----", re.DOTALL)
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class KeySource(Protocol):
    def find(self, key_id: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """The known keys that a token with this header may be signed with, the likeliest first."""

    async def renew(self, key_id: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """The same after the keys were fetched again, if the source has any more. Raises UnavailableError."""


class Access(NamedTuple):
    """A valid token: its user, how long it still is valid, and the language that its claim `locale` names."""

    user_id: UserId
    seconds_left: float
    language: str | None


class JwtVerifier:
    def __init__(self, keys: KeySource, settings: Settings) -> None:
        self._keys = keys
        self._settings = settings
        self._types = {_type(text) for text in settings.jwt_token_types}

    async def verify(self, token: str) -> Access:
        """Raises TokenRefusedError, TokenTooLargeError, or UnavailableError if the keys can't be had."""
        header = self._read_header(token)
        claims = await self._decode(token, header)
        self._require_purpose(claims)
        self._require_audience(claims)
        with _refusing(TokenFault.CLAIM):
            expiry = msgspec.convert(claims, _Expiry).exp
        with _refusing(TokenFault.USER):
            text = user_text(claims, self._settings.jwt_user_claim, self._settings.user_id_type)
            user_id = parse_user_id(text, self._settings.user_id_type)
        return Access(user_id, expiry + LEEWAY_SECONDS - time.time(), find_language(claims.get("locale")))

    def _read_header(self, token: str) -> "_Header":
        header = _parse_header(token)
        if _type(header.typ) not in self._types:
            raise TokenRefusedError(TokenFault.TYPE)
        if header.alg not in self._settings.jwt_algorithms:
            raise TokenRefusedError(TokenFault.ALGORITHM)
        return header

    async def _decode(self, token: str, header: "_Header") -> dict[str, Any]:
        """The claims, by one of the known keys, or one that was published since they were fetched."""
        known = self._keys.find(header.kid, header.alg)
        if (claims := self._verify_with(known, token)) is not None:
            return claims
        renewed = [key for key in await self._keys.renew(header.kid, header.alg) if key not in known]
        if (claims := self._verify_with(renewed, token)) is not None:
            return claims
        raise TokenRefusedError(TokenFault.SIGNATURE if known or renewed else TokenFault.UNKNOWN_KEY)

    def _verify_with(self, keys: Sequence[VerificationKey], token: str) -> dict[str, Any] | None:
        """The claims by the first key whose signature it is. Raises TokenRefusedError."""
        for key in keys:
            with _refusing(), suppress(jwt.InvalidSignatureError):
                return self._verify(token, key)
        return None

    def _verify(self, token: str, key: VerificationKey) -> dict[str, Any]:
        issuer = self._settings.jwt_issuer or None
        return _JWT.decode(token, key.key, algorithms=key.algorithms, issuer=issuer, leeway=LEEWAY_SECONDS)

    def _require_purpose(self, claims: Mapping[str, object]) -> None:
        if is_foreign(claims):
            raise TokenRefusedError(TokenFault.PURPOSE)
        if not has_all(claims, self._settings.jwt_required_claims):
            raise TokenRefusedError(TokenFault.CLAIM)

    def _require_audience(self, claims: Mapping[str, object]) -> None:
        if not has_audience(claims, self._settings.jwt_audience_claim, self._settings.jwt_audience):
            raise TokenRefusedError(TokenFault.AUDIENCE)


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
    algorithms = _load_secrets(settings)[0].algorithms
    now = int(time.time())
    claims = make_required(settings.jwt_required_claims) | {
        settings.jwt_user_claim: str(parse_user_id(subject, settings.user_id_type)),
        "iat": now,
        "exp": now + ttl_seconds,
        "iss": next(iter(settings.jwt_issuer), ""),
        settings.jwt_audience_claim: next(iter(settings.jwt_audience), ""),
    }
    given = {name: claim for name, claim in claims.items() if claim != ""}
    header = {"typ": settings.jwt_token_types[0]}
    return _JWT.encode(given, decode_secret(settings.jwt_secret[0]), algorithms[0], headers=header)


def accepts_any_purpose(settings: Settings) -> bool:
    """Whether tokens that the application issues for other purposes, with the same key, are accepted too."""
    return (
        not settings.jwt_audience and not settings.jwt_required_claims and "jwt" in map(_type, settings.jwt_token_types)
    )


class _Header(msgspec.Struct):
    """Keys and key locations in the header (`jku`, `jwk`, `x5u`, `x5c`) are never read."""

    alg: str
    kid: str | None = None
    typ: str = "JWT"
    crit: UnsetType = UNSET


class _Expiry(msgspec.Struct):
    """Required, and of this type: PyJWT takes texts in the digits of any script and `true` for times.

    A time may have a fraction (RFC 7519, 2), and those of Python's and JavaScript's clocks do.
    """

    exp: Annotated[float, Meta(ge=0, le=253_402_300_799)]  # the end of the year 9999; milliseconds lie beyond it


class _StrictJwt(jwt.PyJWT):
    def __init__(self, options: Options) -> None:
        super().__init__(options)
        with suppress(ValueError):  # a PyJWT that has it
            self._jws.register_algorithm("Ed25519", ALGORITHMS["Ed25519"])

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        return _parse_object(decoded["payload"])


# The audience and the user are claims that settings choose. A token's own id is never read, and some issuers number
# them.
_JWT = _StrictJwt(
    options={"enforce_minimum_key_length": True, "verify_aud": False, "verify_sub": False, "verify_jti": False}
)


def _parse_header(token: str) -> _Header:
    if not token:
        raise TokenRefusedError(TokenFault.MISSING)
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenTooLargeError(MAX_TOKEN_CHARACTERS)
    if not _TOKEN.fullmatch(token):
        raise TokenRefusedError(TokenFault.MALFORMED)
    segment = token.partition(".")[0]
    with _refusing():
        return msgspec.convert(_parse_object(urlsafe_b64decode(segment + "=" * (-len(segment) % 4))), _Header)


def _type(text: str) -> str:
    """A media type in its short form: `application/` may be left out (RFC 7515, section 4.1.9)."""
    return text.lower().removeprefix("application/")


def _parse_object(text: bytes) -> dict[str, Any]:
    value = parse_strictly(text)
    if not isinstance(value, dict):
        raise jwt.DecodeError("Not a JSON object")
    return value


@contextmanager
def _refusing(fault: TokenFault = TokenFault.MALFORMED) -> Iterator[None]:
    """ValueError is what base64, UTF-8, JSON and msgspec raise; RecursionError comes of deep nesting."""
    try:
        yield
    except (jwt.PyJWTError, InvalidValueError, ValueError, RecursionError) as error:
        known = (named for kind, named in FAULTS if isinstance(error, kind))
        raise TokenRefusedError(next(known, fault)) from error


class _GivenKeys:
    """Several while one is exchanged for another."""

    def __init__(self, keys: Sequence[VerificationKey]) -> None:
        self._keys = keys

    def find(self, _key_id: str | None, algorithm: str) -> Sequence[VerificationKey]:
        return [key for key in self._keys if algorithm in key.algorithms]

    async def renew(self, _key_id: str | None, _algorithm: str) -> Sequence[VerificationKey]:
        return ()


def _open_keys(settings: Settings) -> AbstractAsyncContextManager[KeySource]:
    if settings.jwt_secret:
        return nullcontext(_GivenKeys(_load_secrets(settings)))
    if settings.jwt_public_key_file:
        return nullcontext(_GivenKeys(_load_public_keys(settings)))
    url = urlsplit(settings.jwt_jwks_url)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ConfigurationError("CARRYOUT_JWT_JWKS_URL must begin with http:// or https:// and name a host")
    return open_jwks(settings.jwt_jwks_url, _require_algorithms(settings, ASYMMETRIC), ca_file=settings.ca_file)


def _load_secrets(settings: Settings) -> list[VerificationKey]:
    algorithms = _require_algorithms(settings, SYMMETRIC)
    secrets = [decode_secret(text) for text in settings.jwt_secret]
    if any(fitting_algorithms(secret, algorithms) != algorithms for secret in secrets):
        raise ConfigurationError(
            f"CARRYOUT_JWT_SECRET is a public key, or too short for {', '.join(algorithms)} (32, 48 and 64 bytes)"
        )
    return [VerificationKey(secret, algorithms) for secret in secrets]


def _load_public_keys(settings: Settings) -> list[VerificationKey]:
    path, algorithms = settings.jwt_public_key_file, _require_algorithms(settings, ASYMMETRIC)
    try:
        blocks = _PEM.findall(read_trusted(Path(path)))
    except OSError as error:
        raise ConfigurationError(f"CARRYOUT_JWT_PUBLIC_KEY_FILE: {path}: {error.strerror}") from error
    except ValueError as error:
        raise _no_public_key(path) from error
    if not blocks:
        raise _no_public_key(path)
    return [_load_public_key(path, block, algorithms) for block in blocks]


def _load_public_key(path: str, block: bytes, algorithms: tuple[str, ...]) -> VerificationKey:
    try:
        key = load_pem_x509_certificate(block).public_key() if _CERTIFICATE in block else load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_public_key(path) from error
    if isinstance(key, PublicKey) and (fitting := fitting_algorithms(key, algorithms)):
        return VerificationKey(key, fitting)
    raise ConfigurationError(
        f"CARRYOUT_JWT_PUBLIC_KEY_FILE: a key at {path} is too short or not made for {', '.join(algorithms)}"
    )


def _no_public_key(path: str) -> ConfigurationError:
    return ConfigurationError(f"CARRYOUT_JWT_PUBLIC_KEY_FILE: no public key in PEM format at {path}")


def _require_algorithms(settings: Settings, possible: frozenset[str]) -> tuple[str, ...]:
    """Never mix symmetric and asymmetric algorithms: a public key must not serve as an HMAC secret. Refuse `none`."""
    if wrong := [name for name in settings.jwt_algorithms if name not in possible]:
        raise ConfigurationError(
            f"CARRYOUT_JWT_ALGORITHMS: {wrong[0]} can't be used with this key, only {', '.join(sorted(possible))}"
        )
    return settings.jwt_algorithms

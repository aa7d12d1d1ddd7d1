"""Keys that verify users' tokens, and the JWKS (RFC 7517) of an identity provider that publishes them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeAlias

import aiohttp
import jwt
import msgspec
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import OKPAlgorithm, get_default_algorithms

from service.backends.authorities import create_tls_context
from service.backends.failures import describe_unreachable
from service.errors import UnavailableError

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

ASYMMETRIC_TYPES = ("RSA", "EC", "OKP")
REFRESH_SECONDS = 300.0
RETRY_SECONDS = 5.0
REFETCH_COOLDOWN_SECONDS = 30.0
FETCH_TIMEOUT_SECONDS = 3.0
MAX_BODY_BYTES = 256 * 1024

logger = structlog.get_logger()


class Ed25519Algorithm(OKPAlgorithm):
    """EdDSA under the name that fixes its curve (RFC 9864, section 2.2); PyJWT has the older name alone."""

    _crypto_key_types = (Ed25519PublicKey, Ed25519PrivateKey)


ALGORITHMS = get_default_algorithms() | {"Ed25519": Ed25519Algorithm()}


class VerificationKey(msgspec.Struct, frozen=True):
    """A key, and the only algorithms it may be used with: what the token says about itself chooses nothing else."""

    key: PublicKey | bytes
    algorithms: tuple[str, ...]
    key_id: str | None = None


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


@asynccontextmanager
async def open_jwks(url: str, algorithms: tuple[str, ...], *, ca_file: str) -> AsyncIterator["Jwks"]:
    """The keys behind `url`, first fetched in the background: the provider needn't be up when we start."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=create_tls_context(ca_file)),
        timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_SECONDS),
        # Cloudflare and other firewalls refuse the library's own name.
        headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "Carryout"},
        auto_decompress=False,  # the limit on the body must hold for what we keep, not for what we receive
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=True,  # HTTP_PROXY, HTTPS_PROXY and NO_PROXY
    )
    async with session, aclosing(Jwks(session, url, algorithms)) as jwks:
        yield jwks


class Jwks:
    """A provider's keys, refreshed every five minutes and kept for as long as it can't be reached."""

    def __init__(self, session: aiohttp.ClientSession, url: str, algorithms: tuple[str, ...]) -> None:
        self._session = session
        self._url = url
        self._algorithms = algorithms
        self._keys: tuple[VerificationKey, ...] = ()
        self._failure: Exception | None = None
        self._refetch_allowed_at = 0.0
        self._fetching = asyncio.create_task(self._fetch())
        self._refreshing = asyncio.create_task(self._refresh_forever())

    def find(self, key_id: str | None, algorithm: str) -> list[VerificationKey]:
        """The keys that a token's header allows, first those with its `kid`. A key or a token may have none."""
        fitting = [
            key
            for key in self._keys
            if algorithm in key.algorithms and (key_id is None or key.key_id is None or key.key_id == key_id)
        ]
        return sorted(fitting, key=lambda key: key.key_id != key_id)

    async def renew(self, key_id: str | None, algorithm: str) -> list[VerificationKey]:
        """The same once the provider was asked again. Only tokens that no known key has signed wait for it.

        Raises UnavailableError while the provider, who may have published another key, can't be asked.
        """
        await self._refetch()
        if self._failure:
            raise UnavailableError("The identity provider's keys can't be fetched") from self._failure
        return self.find(key_id, algorithm)

    async def aclose(self) -> None:
        self._refreshing.cancel()
        self._fetching.cancel()
        await asyncio.gather(self._refreshing, self._fetching, return_exceptions=True)

    async def _refetch(self) -> None:
        """Join a running fetch, or start one if the last request that did so was long enough ago."""
        if self._fetching.done():
            now = time.monotonic()
            if now < self._refetch_allowed_at:
                return
            self._refetch_allowed_at = now + REFETCH_COOLDOWN_SECONDS
        if not await self._join_fetch():
            self._refetch_allowed_at = time.monotonic() + RETRY_SECONDS

    async def _refresh_forever(self) -> None:
        while True:
            fetched = await self._join_fetch()
            await asyncio.sleep(REFRESH_SECONDS if fetched else RETRY_SECONDS)

    async def _join_fetch(self) -> bool:
        if self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch())
        return await asyncio.shield(self._fetching)  # a request that goes away must not end the others' fetch

    async def _fetch(self) -> bool:
        try:
            self._keys = parse_key_set(await self._download(), self._algorithms)
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            logger.warning("jwks_fetch_failed", error_type=type(error).__name__, cause=describe_failed_fetch(error))
            self._failure = error
            return False
        if not self._keys:
            logger.warning("jwks_has_no_usable_key", algorithms=self._algorithms)
        self._failure = None
        return True

    async def _download(self) -> bytearray:
        body = bytearray()
        async with self._session.get(self._url, allow_redirects=False) as response:
            if response.status != HTTPStatus.OK:
                raise aiohttp.ClientResponseError(response.request_info, response.history, status=response.status)
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise aiohttp.ClientPayloadError(f"answered more than {MAX_BODY_BYTES} bytes")
        return body


def describe_failed_fetch(error: BaseException | None) -> str:
    """The words after the provider's name in a sentence."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"answered {error.status}"
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return describe_unreachable(error)
    return "answered something that is not a key set"


def parse_key_set(body: bytes | bytearray, algorithms: tuple[str, ...]) -> tuple[VerificationKey, ...]:
    """The usable keys in `body`; others are left out (RFC 7517, section 5).

    Raises ValueError or RecursionError if it isn't a key set at all.
    """
    jwks = msgspec.json.decode(body, type=_KeySet).keys
    keys = (_parse_key(jwk, algorithms) for jwk in jwks)
    return tuple(key for key in keys if key is not None and key.algorithms)


def _parse_key(jwk: dict[str, Any], algorithms: tuple[str, ...]) -> VerificationKey | None:
    declared = tuple(name for name in algorithms if name == jwk.get("alg", name))
    if jwk.get("kty") not in ASYMMETRIC_TYPES or not _is_for_signatures(jwk) or not declared:
        return None
    try:
        key = jwt.PyJWK(jwk, "EdDSA" if jwk.get("alg") == "Ed25519" else None).key
    except (jwt.PyJWTError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, PublicKey):
        return None
    return VerificationKey(key, fitting_algorithms(key, declared), jwk.get("kid"))


def _is_for_signatures(jwk: dict[str, Any]) -> bool:
    """By either of the members that say what a key is for (RFC 7517, sections 4.2 and 4.3)."""
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def fitting_algorithms(key: PublicKey | bytes, algorithms: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `algorithms` that are made for this kind of key and for which it is long enough."""
    return tuple(name for name in algorithms if _fits(key, name))


def _fits(key: PublicKey | bytes, name: str) -> bool:
    algorithm = ALGORITHMS[name]
    try:
        return algorithm.check_key_length(algorithm.prepare_key(key)) is None
    except (jwt.InvalidKeyError, TypeError):
        return False

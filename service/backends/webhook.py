"""The receiver of webhooks: signed POSTs by Standard Webhooks 1.0, to private addresses only if that is allowed."""

import base64
import hashlib
import hmac
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from http import HTTPStatus

import aiohttp
import msgspec

from service.backends.authorities import create_tls_context
from service.backends.failures import describe_unreachable
from service.settings import Settings, decode_webhook_secret

TIMEOUT_SECONDS = 20.0
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Verdict(StrEnum):
    """`GONE`: the receiver wants no events any more."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    GONE = "gone"


class Answer(msgspec.Struct, frozen=True):
    """`cause` says what was wrong, without the receiver's address and without its words."""

    verdict: Verdict
    cause: str | None = None


class Receiver:
    """Posts events to the URL of the settings."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings) -> None:
        self._session = session
        self._url = settings.webhook_url
        self._secrets = [decode_webhook_secret(text) for text in settings.webhook_secrets]

    async def post(self, webhook_id: str, body: bytes) -> Answer:
        """Post `body`, JSON. Only a 2xx counts as accepted; a redirect isn't followed: it could lead anywhere."""
        headers = {"Content-Type": "application/json"} | sign(self._secrets, webhook_id, int(time.time()), body)
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                return _judge(response.status)
        except (aiohttp.ClientError, OSError) as error:
            return Answer(Verdict.RETRY, _describe(error))


@asynccontextmanager
async def open_receiver(settings: Settings) -> AsyncIterator[Receiver]:
    """Connections go straight to the receiver: behind a proxy, its address couldn't be checked."""
    socket_factory = None if settings.webhook_allow_private else _open_public_socket
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=create_tls_context(settings.ca_file), socket_factory=socket_factory),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
        headers={"User-Agent": "Carryout", "Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield Receiver(session, settings)


def sign(secrets: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks 1.0: a signature by each secret, so that the receiver may know only one of them.

    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in secrets)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def is_public(address: str) -> bool:
    """Whether the address is one of the Internet's, also where it is written inside an IPv6 address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast


class _PrivateAddressError(OSError):
    pass


def _open_public_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Called with the address of the connection itself: a name may lead elsewhere by then."""
    family, kind, protocol, _, (host, *_) = address
    if not is_public(str(host)):
        raise _PrivateAddressError
    return socket.socket(family, kind, protocol)


def _judge(status: int) -> Answer:
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Answer(Verdict.ACCEPTED)
    verdict = Verdict.GONE if status == HTTPStatus.GONE else Verdict.RETRY
    return Answer(verdict, f"answered {status}")


def _describe(error: Exception) -> str:
    if isinstance(error.__cause__, _PrivateAddressError):
        return "has a private address, and CARRYOUT_WEBHOOK_ALLOW_PRIVATE is off"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed the connection without an answer"
    return describe_unreachable(error)

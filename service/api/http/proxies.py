"""The client's address behind proxies, so that the audit trail names the client and not the ingress."""

import ipaddress
import re
from collections.abc import Sequence
from typing import TypeAlias

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_PROXIES = 32
# A port may follow an IPv4 address or an IPv6 address in brackets. Zones aren't accepted: they may be any text.
FORWARDED = re.compile(r"\[(?P<v6>[0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?|(?P<v4>[0-9.]{7,15}):[0-9]{1,5}")
BARE = re.compile(r"[0-9A-Fa-f:.]{2,45}")


class ProxyMiddleware:
    """Puts the client into the scope in place of a trusted proxy. No other header of proxies is trusted.

    Each proxy appends its peer to X-Forwarded-For. Only the entries of trusted proxies are reliable, so the client is
    the first untrusted address from the right.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        """`trusted` are networks. If it is empty, every peer is a client."""
        self.app = app
        self._trusted = [ipaddress.ip_network(network) for network in trusted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["client"]:
            scope["client"] = (self._find_client(scope), 0)
        await self.app(scope, receive, send)

    def _find_client(self, scope: Scope) -> str:
        """The nearest address outside the trusted networks, or the last proxy's own if that entry is invalid."""
        client = _parse(scope["client"][0])  # on a socket for both families, IPv4 addresses are mapped to IPv6
        if client is None:
            return str(scope["client"][0])
        forwarded = ",".join(Headers(scope=scope).getlist("X-Forwarded-For")).split(",")
        for text in reversed(forwarded[-MAX_PROXIES:]):
            previous = _parse(text.strip()) if self._is_trusted(client) else None
            if previous is None:
                break
            client = previous
        return str(client)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _parse(text: str) -> Address | None:
    match = FORWARDED.fullmatch(text)
    bare = (match["v6"] or match["v4"]) if match else text
    if not BARE.fullmatch(bare):
        return None
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address

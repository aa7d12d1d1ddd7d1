"""Counts what clients send to PostgreSQL, on the wire."""

import asyncio
from dataclasses import dataclass, field

from tests.support.wires import Connection, Proxy

LENGTH_BYTES = 4
ENCRYPTION_REQUEST = (80_877_103).to_bytes(4)
COMMANDS = {b"Q", b"E"}  # Query, a text of one or several statements; Execute, of a prepared statement or a cursor


@dataclass
class Sent:
    """The queries since the last `clear`, in order; a cursor's is there once for each fetch."""

    queries: list[str] = field(default_factory=list)

    def clear(self) -> None:
        self.queries.clear()


class StatementProxy(Proxy):
    """Leads to the PostgreSQL of `url`. Counts to `sent`, which several proxies may share."""

    def __init__(self, url: str, sent: Sent) -> None:
        super().__init__(url)
        self._sent = sent

    def connect(self, client: asyncio.StreamWriter) -> Connection:
        return _Connection(client, self._sent)


class _Connection(Connection):
    def __init__(self, client: asyncio.StreamWriter, sent: Sent) -> None:
        super().__init__(client)
        self._sent = sent
        self._unread = b""
        self._began = False
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}

    async def ask(self, chunk: bytes) -> bytes:
        self._unread += chunk
        while message := self._take():
            kind, body = message
            self._note(kind, body)
        return chunk

    def _take(self) -> tuple[bytes, bytes] | None:
        """The next whole message: its kind, which the first ones of a connection don't have, and its body."""
        kind = self._unread[:1] if self._began else b""
        start = len(kind) + LENGTH_BYTES
        if len(self._unread) < start:
            return None
        end = len(kind) + int.from_bytes(self._unread[len(kind) : start])
        if len(self._unread) < end:
            return None
        body, self._unread = self._unread[start:end], self._unread[end:]
        if not self._began:
            self._began = body != ENCRYPTION_REQUEST
        return kind, body

    def _note(self, kind: bytes, body: bytes) -> None:
        first, _, rest = body.partition(b"\0")
        second = rest.partition(b"\0")[0]
        if kind == b"P":
            self._prepared[first] = second.decode()
        elif kind == b"B":
            self._portals[first] = self._prepared[second]
        elif kind in COMMANDS:
            self._sent.queries.append(first.decode() if kind == b"Q" else self._portals[first])

"""A TCP proxy between the service and one of its servers: the network, and how it fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

State: TypeAlias = Literal["whole", "refused", "hung", "slow", "cut", "500", "507"]

CHUNK_BYTES = 2**16
SLOW_SECONDS = 0.1
# Enough for a handshake, or for a part of an upload, of some connections and not of others.
CUT_AFTER_BYTES = (200, 3_000, 40_000, 3_000_000)
ANSWERS = {
    "500": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "507": b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}


class Wire:
    """`state` holds for open connections, too: "refused" resets them, "hung" keeps back what is sent until it's whole
    again, "cut" resets each after some bytes, a number answers every HTTP request with that status.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._target_port = parts.hostname or "127.0.0.1", parts.port
        self._state: State = "whole"
        self._changed = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._opened = 0
        self.port = 0

    def through(self, url: str) -> str:
        """`url` by way of this wire."""
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.port}").geturl()

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()
        if state == "refused":
            for connection in self._connections:
                connection.abort()

    async def while_hung(self) -> None:
        while self._state == "hung":
            await self._changed.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._opened += 1
        connection = _Connection(self, writer, CUT_AFTER_BYTES[self._opened % len(CUT_AFTER_BYTES)])
        self._connections.add(connection)
        try:
            if self._state != "refused":
                await connection.pump(reader, self._host, self._target_port)
        except OSError:
            pass  # either end may go at any time
        finally:
            self._connections.discard(connection)
            connection.abort()


class _Connection:
    def __init__(self, wire: Wire, client: asyncio.StreamWriter, cut_after_bytes: int) -> None:
        self._wire = wire
        self._client = client
        self._left_bytes = cut_after_bytes

    async def pump(self, reader: asyncio.StreamReader, host: str, port: int | None) -> None:
        server_reader, server = await asyncio.open_connection(host, port)
        pumps = [
            asyncio.create_task(self._pass(reader, server, asked=True)),
            asyncio.create_task(self._pass(server_reader, self._client, asked=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            server.transport.abort()

    def abort(self) -> None:
        with suppress(OSError):
            self._client.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asked: bool) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._wire.while_hung()
            state = self._wire.state
            if asked and state in ANSWERS:
                self._client.write(ANSWERS[state])
                await self._client.drain()
                return
            if state == "slow":
                await asyncio.sleep(SLOW_SECONDS)
            if state == "cut":
                self._left_bytes -= len(chunk)
                if self._left_bytes < 0:
                    return
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def open_wire(url: str) -> AsyncIterator[Wire]:
    wire = Wire(url)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0, backlog=512)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.state = "refused"

"""A TCP proxy on 127.0.0.1 that breaks nothing: others build on it, and add only their own way to break things."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Self
from urllib.parse import urlsplit

HOST = "127.0.0.1"
CHUNK_BYTES = 2**16
BACKLOG = 512
UNKNOWN = f"http://{HOST}:0"


class Connection:
    """`ask` and `answer` replace each chunk by their result. An empty result ends the connection."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self._client = client

    async def ask(self, chunk: bytes) -> bytes:
        return chunk

    async def answer(self, chunk: bytes) -> bytes:
        return chunk

    def fail(self, status: HTTPStatus) -> bytes:
        """Answers an HTTP request in the server's place, which is passed nothing."""
        head = f"HTTP/1.1 {status} {status.phrase}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        self._client.write(head.encode())
        return b""


class Proxy:
    """Leads to the server of `url`. `target`, that server's port, may change: it holds for the next connection."""

    def __init__(self, url: str = UNKNOWN) -> None:
        self.target = urlsplit(url).port
        self._url = url
        self._port = 0
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """The server's, by way of this proxy."""
        parts = urlsplit(self._url)
        return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self._port}").geturl()

    def connect(self, client: asyncio.StreamWriter) -> Connection | None:
        """None refuses the client."""
        return Connection(client)

    def drop(self) -> None:
        """Ends all connections, even with bytes left for clients that don't read."""
        for serving, client in self._open.items():
            serving.cancel()
            client.transport.abort()

    @asynccontextmanager
    async def open(self, port: int = 0) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._accept, HOST, port, backlog=BACKLOG)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.drop()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, client))
        self._open[serving] = client
        serving.add_done_callback(self._open.pop)
        serving.add_done_callback(lambda _: client.close())

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        connection = self.connect(client)
        if connection is None:
            return
        try:
            async with _connected(self.target) as (server_reader, server), asyncio.TaskGroup() as pumps:
                asking = pumps.create_task(_pump(reader, connection.ask, server))
                answering = pumps.create_task(_pump(server_reader, connection.answer, client))
                asking.add_done_callback(lambda _: answering.cancel())
                answering.add_done_callback(lambda _: asking.cancel())
        except* OSError:
            pass  # either end may go at any time


@asynccontextmanager
async def _connected(port: int | None) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, change: Callable[[bytes], Awaitable[bytes]], writer: asyncio.StreamWriter
) -> None:
    while (chunk := await reader.read(CHUNK_BYTES)) and (changed := await change(chunk)):
        writer.write(changed)
        await writer.drain()

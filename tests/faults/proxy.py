"""A TCP proxy that can break what passes through it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
COMPLETE = b"?uploadId="


class FaultProxy:
    """`mode` is "pass", "refuse" (connections are reset), "hang" (only HEAD passes), "error" (HTTP 500), or
    "lose complete" (the answer to CompleteMultipartUpload is cut, once).
    """

    def __init__(self, url: str) -> None:
        self.mode = "pass"
        self.seen = 0
        self._target = urlsplit(url)
        self._port = 0

    @property
    def url(self) -> str:
        return urlunsplit(self._target._replace(netloc=f"127.0.0.1:{self._port}"))

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        return server

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.mode == "refuse":
                return
            upstream_reader, upstream = await asyncio.open_connection(self._target.hostname, self._target.port)
            losing = asyncio.Event()
            pumps = [
                asyncio.create_task(self._requests(reader, upstream, writer, losing)),
                asyncio.create_task(self._answers(upstream_reader, writer, losing)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                upstream.close()
        finally:
            with suppress(OSError):
                writer.transport.abort()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
        losing: asyncio.Event,
    ) -> None:
        while chunk := await reader.read(2**16):
            self.seen += 1
            if self.mode == "refuse":
                return
            if self.mode == "error":
                writer.write(ERROR)
                await writer.drain()
                return
            if self.mode == "lose complete" and chunk.startswith(b"POST ") and COMPLETE in chunk.split(b"\r\n")[0]:
                losing.set()
            while self.mode == "hang" and not chunk.startswith(b"HEAD "):
                await asyncio.sleep(0.05)
            upstream.write(chunk)
            await upstream.drain()

    async def _answers(
        self, upstream_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while chunk := await upstream_reader.read(2**16):
            if losing.is_set():
                self.mode = "pass"
                return
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def open_proxy(url: str) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy(url)
    server = await proxy.serve()
    try:
        yield proxy
    finally:
        server.close()

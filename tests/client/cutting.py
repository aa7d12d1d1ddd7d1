"""A TCP proxy that cuts connections after so many bytes, and remembers what was asked through it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

HOST = "127.0.0.1"
WHOLE = 10**12


class CuttingProxy:
    """Passes connections on to `target`, which may be told later.

    Each connection takes the next of `cuts`, while there are any: after so many bytes of answers it is cut or, with
    `stalling`, goes silent.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://{HOST}:{port}"
        self.target = 0
        self.reset()

    def reset(self) -> None:
        self.cuts: list[int] = []
        self.stalling = False
        self.asked = b""

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.cuts.pop(0) if self.cuts else WHOLE
        upstream_reader, upstream = await asyncio.open_connection(HOST, self.target)
        pumps = [
            asyncio.create_task(self._requests(reader, upstream)),
            asyncio.create_task(self._answers(upstream_reader, writer, left)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            upstream.close()
            writer.close()

    async def _requests(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(2**16):
            self.asked += chunk
            upstream.write(chunk)
            await upstream.drain()

    async def _answers(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int) -> None:
        with suppress(OSError):
            while left and (chunk := await upstream.read(min(left, 2**16))):
                writer.write(chunk)
                await writer.drain()
                left -= len(chunk)
            if not left and self.stalling:
                await asyncio.Event().wait()


@asynccontextmanager
async def open_cutting_proxy() -> AsyncIterator[CuttingProxy]:
    connected: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connected.add(task)
        task.add_done_callback(connected.discard)
        await proxy.pass_on(reader, writer)

    server = await asyncio.start_server(serve, HOST, 0)
    proxy = CuttingProxy(server.sockets[0].getsockname()[1])
    try:
        yield proxy
    finally:
        server.close()
        for task in connected:
            task.cancel()
        await asyncio.gather(*connected, return_exceptions=True)

"""A proxy that cuts connections after so many bytes, and remembers what was asked through it."""

import asyncio

from tests.support.wires import UNKNOWN, Connection, Proxy

WHOLE = 10**12


class CuttingProxy(Proxy):
    """Each connection takes the next of `cuts`, while there are any: after so many bytes of answers it is cut or, with
    `stalling`, goes silent.
    """

    def __init__(self, url: str = UNKNOWN) -> None:
        super().__init__(url)
        self.reset()

    def reset(self) -> None:
        self.cuts: list[int] = []
        self.stalling = False
        self.asked = b""

    def connect(self, client: asyncio.StreamWriter) -> Connection:
        return _Connection(client, self, self.cuts.pop(0) if self.cuts else WHOLE)


class _Connection(Connection):
    def __init__(self, client: asyncio.StreamWriter, proxy: CuttingProxy, left_bytes: int) -> None:
        super().__init__(client)
        self._proxy = proxy
        self._left_bytes = left_bytes

    async def ask(self, chunk: bytes) -> bytes:
        self._proxy.asked += chunk
        return chunk

    async def answer(self, chunk: bytes) -> bytes:
        if len(chunk) < self._left_bytes:
            self._left_bytes -= len(chunk)
            return chunk
        self._client.write(chunk[: self._left_bytes])
        if self._proxy.stalling:
            await asyncio.Event().wait()
        return b""

"""A proxy before the storage that can break what passes through it."""

import asyncio
from http import HTTPStatus

from tests.support.wires import Connection, Proxy

COMPLETE = b"?uploadId="


class FaultProxy(Proxy):
    """`mode` is "pass", "refuse" (connections are ended), "hang" (only HEAD passes), "error" (HTTP 500), or
    "lose complete" (the answer to CompleteMultipartUpload is cut, once).
    """

    mode = "pass"

    def connect(self, client: asyncio.StreamWriter) -> Connection | None:
        return None if self.mode == "refuse" else _Connection(client, self)


class _Connection(Connection):
    def __init__(self, client: asyncio.StreamWriter, proxy: FaultProxy) -> None:
        super().__init__(client)
        self._proxy = proxy
        self._losing = False

    async def ask(self, chunk: bytes) -> bytes:
        if self._proxy.mode == "refuse":
            return b""
        if self._proxy.mode == "error":
            return self.fail(HTTPStatus.INTERNAL_SERVER_ERROR)
        if self._proxy.mode == "lose complete" and chunk.startswith(b"POST ") and COMPLETE in chunk.split(b"\r\n")[0]:
            self._losing = True
        while self._proxy.mode == "hang" and not chunk.startswith(b"HEAD "):
            await asyncio.sleep(0.05)
        return chunk

    async def answer(self, chunk: bytes) -> bytes:
        if not self._losing:
            return chunk
        self._proxy.mode = "pass"
        return b""

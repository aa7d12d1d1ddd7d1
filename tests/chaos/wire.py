"""A proxy between the service and one of its servers: the network, and how it fails."""

import asyncio
import itertools
from http import HTTPStatus
from typing import Literal, TypeAlias

from tests.support.wires import Connection, Proxy

State: TypeAlias = Literal["whole", "refused", "hung", "slow", "cut", "500", "507"]

SLOW_SECONDS = 0.1
# Enough for a handshake, or for a part of an upload, of some connections and not of others.
CUT_AFTER_BYTES = (200, 3_000, 40_000, 3_000_000)


class Wire(Proxy):
    """`state` holds for open connections, too: "refused" ends them, "hung" keeps back what is sent until it's whole
    again, "cut" ends each after some bytes, a number answers every HTTP request with that status.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._state: State = "whole"
        self._changed = asyncio.Event()
        self._cuts = itertools.cycle(CUT_AFTER_BYTES)

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()
        if state == "refused":
            self.drop()

    async def while_hung(self) -> None:
        while self._state == "hung":
            await self._changed.wait()

    def connect(self, client: asyncio.StreamWriter) -> Connection | None:
        cut_after_bytes = next(self._cuts)
        return None if self._state == "refused" else _Connection(client, self, cut_after_bytes)


class _Connection(Connection):
    def __init__(self, client: asyncio.StreamWriter, wire: Wire, cut_after_bytes: int) -> None:
        super().__init__(client)
        self._wire = wire
        self._left_bytes = cut_after_bytes

    async def ask(self, chunk: bytes) -> bytes:
        await self._wire.while_hung()
        if self._wire.state.isdigit():
            return self.fail(HTTPStatus(int(self._wire.state)))
        return await self._weaken(chunk)

    async def answer(self, chunk: bytes) -> bytes:
        await self._wire.while_hung()
        return await self._weaken(chunk)

    async def _weaken(self, chunk: bytes) -> bytes:
        state = self._wire.state
        if state == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        if state == "cut":
            self._left_bytes -= len(chunk)
        return b"" if self._left_bytes < 0 else chunk

"""What stands before the processes: each new connection goes to the next one, whoever asks."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress


class Balancer:
    """`taken` has the port that each connection so far was given to."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.taken: list[int] = []
        self._turns = itertools.cycle(ports)

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = next(self._turns)
        self.taken.append(port)
        with suppress(OSError):
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
            pumps = [
                asyncio.create_task(_pump(reader, upstream_writer)),
                asyncio.create_task(_pump(upstream_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            upstream_writer.close()
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(2**16):
        writer.write(chunk)
        await writer.drain()


@asynccontextmanager
async def open_balancer(port: int, targets: Sequence[int]) -> AsyncIterator[Balancer]:
    balancer = Balancer(targets)
    server = await asyncio.start_server(balancer.pass_on, "127.0.0.1", port)
    try:
        yield balancer
    finally:
        server.close()

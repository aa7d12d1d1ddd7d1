"""A load balancer before the processes: each new connection goes to the next process."""

import asyncio
import itertools
from collections.abc import Sequence

from tests.support.wires import Connection, Proxy


class Balancer(Proxy):
    """`taken` has the port that each connection so far was given to."""

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__()
        self.taken: list[int] = []
        self._turns = itertools.cycle(ports)

    def connect(self, client: asyncio.StreamWriter) -> Connection | None:
        self.target = next(self._turns)
        self.taken.append(self.target)
        return super().connect(client)

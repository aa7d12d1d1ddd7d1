"""How long a response waits for a client that reads slowly, before its connection is cut."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.types import Message, Send

from service.errors import ServiceError

# Bytes that the server and both kernels may buffer before the client has read any.
BUFFERED_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Patience:
    """The time budget of a slow client: `initial_seconds` at first, increased by every byte that it reads.

    Until BUFFERED_BYTES have left, the budget is capped at `initial_seconds`, so that a client that reads nothing is
    cut after that time even if buffers took data. Later the cap is `max_seconds`, for clients that read in bursts: curl
    7.88 with `--limit-rate 20k` reads 2 MB and then nothing for 101 s. Waiting for rows doesn't count.
    """

    initial_seconds: float = 30.0
    max_seconds: float = 120.0
    bytes_per_second: int = 8 * 1024
    crowded_bytes_per_second: int = 64 * 1024
    """The same while all places are taken: slow clients then give theirs up within minutes."""


DEFAULT_PATIENCE: Final = Patience()


class SlowClientError(ServiceError):
    """The client read too slowly; its connection is cut."""

    def __init__(self) -> None:
        super().__init__("The client read too slowly")


class PatientSender:
    """Sends the messages of one response, as long as its client's budget lasts."""

    def __init__(self, patience: Patience, *, is_crowded: Callable[[], bool]) -> None:
        self._patience = patience
        self._is_crowded = is_crowded
        self._seconds_left = patience.initial_seconds
        self._sent_bytes = 0

    async def send(self, send: Send, message: Message) -> None:
        """Raises SlowClientError when the budget is used up."""
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds_left):
                await send(message)
        except TimeoutError:
            raise SlowClientError from None
        self._count(len(message.get("body", b"")), time.monotonic() - started_at)

    def _count(self, size: int, seconds: float) -> None:
        self._sent_bytes += size
        patience = self._patience
        most = patience.max_seconds if self._sent_bytes > BUFFERED_BYTES else patience.initial_seconds
        wanted = patience.crowded_bytes_per_second if self._is_crowded() else patience.bytes_per_second
        self._seconds_left = min(self._seconds_left - seconds + size / wanted, most)

"""One after the other."""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import ExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from service.errors import RateLimitedError


class Turns:
    """Of those who come for the same, in this process, one at a time has what the others would compete for."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def take(self, name: Hashable, *, timeout_seconds: float) -> AsyncIterator[Callable[[], None]]:
        """Yields what ends the turn before the block ends. Raises RateLimitedError if it doesn't come in time."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with asyncio.timeout(timeout_seconds):
                await lock.acquire()
        except TimeoutError:
            raise RateLimitedError("Too many requests of yours at once", retry_after_seconds=1) from None
        with ExitStack() as turn:
            turn.callback(lock.release)
            yield turn.close

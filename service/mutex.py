"""Limits and mutexes per key, within one process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

from service.errors import RateLimitedError


class Shares:
    """A limit per holder and process, so that a single holder can't use up a shared resource."""

    def __init__(self, limit: int, *, refusal: str, retry_after_seconds: int) -> None:
        self._limit = limit
        self._refusal = refusal
        self._retry_after_seconds = retry_after_seconds
        self._held: Counter[Hashable] = Counter()

    @contextmanager
    def take(self, holder: Hashable) -> Iterator[None]:
        """Raises RateLimitedError if `holder` has reached the limit."""
        if self._held[holder] >= self._limit:
            raise RateLimitedError(self._refusal, retry_after_seconds=self._retry_after_seconds)
        self._held[holder] += 1
        try:
            yield
        finally:
            self._held -= Counter([holder])


class KeyedMutex:
    """A keyed mutex, per process: at most one holder per key."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def acquire(self, key: Hashable, *, timeout_seconds: float) -> AsyncIterator[Callable[[], None]]:
        """Yields a function that releases the mutex early. Raises RateLimitedError after `timeout_seconds`."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with asyncio.timeout(timeout_seconds):
                await lock.acquire()
        except TimeoutError:
            raise RateLimitedError("Too many requests of yours at once", retry_after_seconds=1) from None
        with ExitStack() as held:
            held.callback(lock.release)
            yield held.close

"""Retries with exponential backoff."""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from client.errors import IncompleteError
from client.words import gettext

# A command doesn't wait longer: it treats such a server as unavailable.
MAX_RETRY_AFTER_SECONDS = 60.0


@dataclass(frozen=True)
class Backoff:
    """Delays double from `first_seconds` to `max_seconds`; `tries` in a row without progress end the retries."""

    first_seconds: float = 0.5
    max_seconds: float = 10.0
    tries: int = 6

    def delays(self) -> Iterator[float]:
        """Infinite delays with jitter, so that many clients don't retry at the same time."""
        delay = self.first_seconds
        while True:
            yield delay * random.uniform(0.5, 1)  # noqa: S311 (spreads load, protects nothing)
            delay = min(2 * delay, self.max_seconds)


class Retry:
    """The retry budget of one operation. Progress between attempts resets it."""

    def __init__(self, backoff: Backoff, say: Callable[[str], None]) -> None:
        self._backoff = backoff
        self._say = say
        self._done = 0
        self._start()

    async def pause(self, error: IncompleteError, done: int = 0) -> None:
        """Wait before the next attempt, at least as long as the server asked. Raises `error` if none is left."""
        if done > self._done:
            self._done = done
            self._start()
        self._tries_left -= 1
        if not self._tries_left or error.retry_after_seconds > MAX_RETRY_AFTER_SECONDS:
            raise error
        self._say(gettext("%(error)s; retrying", error=error))
        await asyncio.sleep(max(next(self._delays), error.retry_after_seconds))

    def _start(self) -> None:
        self._tries_left = self._backoff.tries
        self._delays = self._backoff.delays()

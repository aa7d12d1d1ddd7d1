"""When to try again, and when to stop."""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from client.errors import IncompleteError

# A server that asks for a longer wait is unavailable as far as a command is concerned.
MAX_RETRY_AFTER_SECONDS = 60.0


@dataclass(frozen=True)
class Backoff:
    """Waits double from `first_seconds` to `max_seconds`; so many `tries` in a row that bring nothing are the end."""

    first_seconds: float = 0.5
    max_seconds: float = 10.0
    tries: int = 6

    def delays(self) -> Iterator[float]:
        """Without end, each shortened at random by up to a half, so that many clients don't come back at once."""
        delay = self.first_seconds
        while True:
            yield delay * random.uniform(0.5, 1)  # noqa: S311 (spreads load, protects nothing)
            delay = min(2 * delay, self.max_seconds)


class Retry:
    """Tries at one thing, of which something may stay done in between: what does counts the tries anew."""

    def __init__(self, backoff: Backoff, say: Callable[[str], None]) -> None:
        self._backoff = backoff
        self._say = say
        self._done = 0
        self._start()

    async def pause(self, error: IncompleteError, done: int = 0) -> None:
        """Wait before the next try, at the least as long as the server asked. Raises `error` if there is to be none."""
        if done > self._done:
            self._done = done
            self._start()
        self._tries_left -= 1
        if not self._tries_left or error.retry_after_seconds > MAX_RETRY_AFTER_SECONDS:
            raise error
        self._say(f"{error}; trying again")
        await asyncio.sleep(max(next(self._delays), error.retry_after_seconds))

    def _start(self) -> None:
        self._tries_left = self._backoff.tries
        self._delays = self._backoff.delays()

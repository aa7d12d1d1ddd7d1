"""What fails again and again, told as an operator reads it: when it begins, now and then, and when it is over."""

import datetime as dt
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from service.errors import OutageError, find_cause

REMIND_SECONDS = 30.0

logger = structlog.get_logger()


class Trouble:
    """Of one thing that one task tries again and again; `begins` and `ends` are the events, `facts` stand in both."""

    def __init__(self, begins: str, ends: str, **facts: str) -> None:
        self._begins = begins
        self._ends = ends
        self._facts = facts
        self._since: dt.datetime | None = None
        self._server: dict[str, str] = {}
        self._told: object = None
        self._silent_until = 0.0

    @asynccontextmanager
    async def noting(self, *kinds: type[Exception]) -> AsyncIterator[None]:
        """What the block raises of these is noted, and goes no further; its success ends the trouble."""
        try:
            yield
        except kinds as error:
            await self.note(error)
        else:
            await self.end()

    async def note(self, error: Exception) -> None:
        """Tell of it, unless it was told of less than REMIND_SECONDS ago, and is the same server's and kind still."""
        self._since = self._since or dt.datetime.now(dt.UTC)
        self._server = {"server": error.server} if isinstance(error, OutageError) else {}
        told, now = (self._server, type(find_cause(error))), time.monotonic()
        if told == self._told and now < self._silent_until:
            return
        self._told, self._silent_until = told, now + REMIND_SECONDS
        await logger.aerror(self._begins, **self._server | self._facts, since=self._since, exc_info=error)

    async def end(self) -> None:
        if self._since is not None:
            seconds = (dt.datetime.now(dt.UTC) - self._since).total_seconds()
            await logger.ainfo(self._ends, **self._server | self._facts, since=self._since, seconds=round(seconds, 1))
            self._since = self._told = None

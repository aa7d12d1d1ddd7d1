"""Logging of repeated failures: one event when an outage begins, reminders while it lasts, one event when it ends."""

import datetime as dt
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from service.errors import OutageError, find_cause

REMIND_SECONDS = 30.0

logger = structlog.get_logger()


class OutageLog:
    """The outages of one operation that a task retries. `begins` and `ends` name the events; both carry `facts`."""

    def __init__(self, begins: str, ends: str, **facts: str) -> None:
        self._begins = begins
        self._ends = ends
        self._facts = facts
        self._since: dt.datetime | None = None
        self._server: dict[str, str] = {}
        self._told: object = None
        self._silent_until = 0.0

    @asynccontextmanager
    async def catching(self, *kinds: type[Exception]) -> AsyncIterator[None]:
        """Record and suppress exceptions of these kinds. A block that succeeds ends the outage."""
        try:
            yield
        except kinds as error:
            await self.record(error)
        else:
            await self.end()

    async def record(self, error: Exception) -> None:
        """Log the failure, unless one of the same server and kind was logged less than REMIND_SECONDS ago."""
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

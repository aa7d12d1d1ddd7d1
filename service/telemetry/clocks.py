"""This host's clock, compared with PostgreSQL's: tokens are judged by the first, links by the second."""

import time

import structlog

from service.backends.database import QUERIES, Connection
from service.telemetry.metrics import Metrics

TOLERANCE_SECONDS = 5.0

logger = structlog.get_logger()


class Clock:
    """`ahead_seconds` is how far this host's clock was ahead of PostgreSQL's when last measured; negative if behind."""

    def __init__(self, metrics: Metrics) -> None:
        self._skew = metrics.clock_skew
        self._warned = False
        self.ahead_seconds = 0.0

    @property
    def differs(self) -> bool:
        return abs(self.ahead_seconds) > TOLERANCE_SECONDS

    async def measure(self, connection: Connection) -> None:
        asked_at = time.time()
        theirs: float = await connection.fetchval(QUERIES["read_clock"])
        self.ahead_seconds = (asked_at + time.time()) / 2 - theirs
        self._skew.set(self.ahead_seconds)
        if self.differs != self._warned:
            self._warned = self.differs
            event = "clock_differs" if self.differs else "clock_agrees"
            log = logger.awarning if self.differs else logger.ainfo
            await log(event, ahead_seconds=round(self.ahead_seconds, 1))

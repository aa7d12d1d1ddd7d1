"""Retention: the rows of exports and the events of the trail that are older than the operator's period are deleted.

Any number of workers may do this at once: each skips the rows that another is deleting.
"""

import asyncio

import structlog

from service.bookkeeping.audit import SYSTEM
from service.bookkeeping.retention import purge
from service.exports import attempts
from service.resources import Resources
from worker.repair import outages_of

PURGE_SECONDS = 3_600.0

logger = structlog.get_logger()


async def purge_forever(resources: Resources, retention_seconds: int) -> None:
    purging = outages_of("purge")
    while True:
        async with purging.catching(*attempts.FAILURES):
            await purge_old(resources, retention_seconds)
        await asyncio.sleep(PURGE_SECONDS)


async def purge_old(resources: Resources, retention_seconds: int) -> None:
    purged = await purge(resources.transaction, retention_seconds, SYSTEM)
    resources.metrics.repairs.labels("purged").inc(purged.exports + purged.events)
    if purged.exports or purged.events:
        await logger.ainfo("purged", exports=purged.exports, events=purged.events)

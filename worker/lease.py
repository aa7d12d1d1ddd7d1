"""The lease of an export: renewed while a worker makes it, so that no other worker takes it over."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from service.backends.database import CONNECTION_LOST
from service.bookkeeping.exports import Export, Progress
from service.errors import OutageError, UnavailableError
from service.resources import Resources

HEARTBEAT_SECONDS = 0.5


async def while_leased(
    resources: Resources, export: Export, work: Coroutine[Any, Any, Export], progress: Callable[[], Progress]
) -> Export:
    """The result of `work`. Losing the lease cancels it and raises ExportSupersededError or OutageError."""
    working = asyncio.create_task(work)
    beating = asyncio.create_task(_renew_forever(resources, export, progress))
    try:
        await asyncio.wait({working, beating}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            beating.result()  # always raises: the heartbeat ends only by losing the lease
        return await working
    finally:
        for task in (beating, working):
            task.cancel()
        await asyncio.gather(beating, working, return_exceptions=True)


async def _renew_forever(resources: Resources, export: Export, progress: Callable[[], Progress]) -> None:
    """Renew the lease until another worker holds it (ExportSupersededError) or it expires (OutageError)."""
    loop = asyncio.get_running_loop()
    lease_seconds = resources.settings.lease_seconds
    lost_at = loop.time() + lease_seconds
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        renewing_at = loop.time()
        try:
            async with asyncio.timeout_at(lost_at), resources.transaction() as connection:
                await resources.exports.renew_lease(connection, export, progress=progress())
            lost_at = renewing_at + lease_seconds
        except (UnavailableError, *CONNECTION_LOST) as error:
            if loop.time() >= lost_at:
                raise OutageError("The lease could not be renewed in time", server="postgresql") from error

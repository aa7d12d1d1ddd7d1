"""Expiry: delete the files of exports whose lifetime is over, or that were deleted or cancelled. Any number of workers
may do this at once.
"""

import asyncio
from contextlib import suppress

import structlog

from service.bookkeeping.exports import Export
from service.errors import OutageError, UnavailableError
from service.exports import attempts
from service.exports.files import key_of
from service.resources import Resources
from worker.repair import outages_of

EXPIRY_SECONDS = 1.0
BATCH = 100
DELETION_SECONDS = 60.0  # longer than the storage's timeout
LONGEST_KEPT_SECONDS = 86_400.0  # cap of the backoff

logger = structlog.get_logger()


async def expire_forever(resources: Resources) -> None:
    expiring = outages_of("expire files")
    while True:
        async with expiring.catching(*attempts.FAILURES):
            await expire_files(resources)
        await asyncio.sleep(EXPIRY_SECONDS)


async def expire_files(resources: Resources) -> None:
    """Delete expired files. An outage ends the run; a file that the storage refuses to delete doesn't block others."""
    for _ in range(BATCH):
        export = await _claim_ended_file(resources)
        if export is None:
            return
        try:
            await _expire_file(resources, export)
        except OutageError:
            await _put_off(resources, export, longest_seconds=0)
            raise  # every further call would fail likewise
        except UnavailableError as error:
            await _put_off(resources, export, longest_seconds=LONGEST_KEPT_SECONDS)
            await logger.awarning("file_kept", job_id=str(export.id), exc_info=error)


async def _claim_ended_file(resources: Resources) -> Export | None:
    async with resources.transaction() as connection:
        return await resources.exports.claim_ended_file(
            connection, bucket=resources.settings.s3_bucket, url=resources.storage.url, seconds=DELETION_SECONDS
        )


async def _put_off(resources: Resources, export: Export, *, longest_seconds: float) -> None:
    with suppress(UnavailableError):  # then the claim expires by itself
        async with resources.transaction() as connection:
            await resources.exports.put_off_deletion(connection, export, longest_seconds=longest_seconds)


async def _expire_file(resources: Resources, export: Export) -> None:
    await resources.storage.delete(key_of(export))
    async with resources.transaction() as connection:
        if await resources.exports.expire(connection, export):
            resources.metrics.repairs.labels("expired").inc()
            await logger.ainfo("export_expired", job_id=str(export.id))

"""The sweep of the storage: objects and multipart uploads that no export owns are removed, files that the storage lost
are marked.
"""

import asyncio
import datetime as dt
import uuid
from collections.abc import Collection, Iterator
from contextlib import aclosing, contextmanager, suppress

import structlog

from service.backends.storage import OpenUpload
from service.bookkeeping.exports import Export
from service.errors import OutageError, UnavailableError
from service.exports import files
from service.exports.attempts import FAILURES
from service.exports.comparison import UNKNOWN_SECONDS, Comparison, Finding, Mismatch
from service.object_keys import KEYS
from service.resources import Resources

LEASE_SECONDS = 30.0
# A storage that never ends its list must not hold a worker's slot.
CLEAN_UP_SECONDS = 30.0

logger = structlog.get_logger()


async def sweep(resources: Resources) -> bool:
    """Compare the storage with the exports. Does nothing and returns False while another worker sweeps.

    A lease that is renewed lasts as long as the sweep, and ends soon if the worker dies. A lock would belong to a
    session, which a pooler may exchange, or to a transaction, which would hold back vacuum.
    """
    worker_id = uuid.uuid4()
    if not await _take_lease(resources, worker_id):
        return False
    renewing = asyncio.create_task(_keep_lease(resources, worker_id))
    unknown: int | None = None
    try:
        unknown = await _compare(resources)
    finally:
        renewing.cancel()
        await asyncio.wait({renewing})
        with suppress(UnavailableError):
            async with resources.transaction() as connection:
                await resources.exports.end_sweep(connection, worker_id, unknown_objects=unknown)
    return True


async def _compare(resources: Resources) -> int:
    """Mend what differs; return how many unknown objects are left. Refusals as in `remove_orphans`."""
    kept: list[UnavailableError] = []
    await _abort_orphaned_uploads(resources, KEYS, kept)
    comparison = Comparison(resources.storage, resources.exports, resources.mark, resources.connection)
    unknown = 0
    async with aclosing(comparison.findings()) as findings:
        async for finding in findings:
            with _keeping(kept):
                unknown += await _mend(resources, finding)
    if kept:
        raise kept[-1]
    return unknown


async def _mend(resources: Resources, finding: Finding) -> bool:
    """Mend it. True for an unknown object that stays."""
    match finding.mismatch:
        case Mismatch.ORPHANED:
            await _delete(resources, finding.key)
        case Mismatch.UNKNOWN:
            return await _keep_unknown(resources, finding)
        case Mismatch.MISSING | Mismatch.ELSEWHERE:
            assert finding.export
            await files.note_missing(resources, finding.export)
        case Mismatch.FOUND:
            assert finding.export
            await files.note_found(resources, finding.export)
    return False


async def _keep_unknown(resources: Resources, finding: Finding) -> bool:
    """Keep it for as long as a file lives, and a day."""
    assert finding.modified_at
    kept_for = dt.timedelta(seconds=resources.settings.export_ttl_seconds + UNKNOWN_SECONDS)
    if dt.datetime.now(dt.UTC) - finding.modified_at <= kept_for:
        return True
    await resources.storage.delete(finding.key)
    resources.metrics.repairs.labels("unknown_object").inc()
    await logger.awarning("unknown_object_deleted", object=finding.key)
    return False


async def _take_lease(resources: Resources, worker_id: uuid.UUID) -> bool:
    async with resources.transaction() as connection:
        return await resources.exports.take_sweep(connection, worker_id, seconds=LEASE_SECONDS)


async def _keep_lease(resources: Resources, worker_id: uuid.UUID) -> None:
    """A second sweep at the same time would only do the same work, so nothing depends on it."""
    while True:
        await asyncio.sleep(LEASE_SECONDS / 3)
        with suppress(*FAILURES):
            await _take_lease(resources, worker_id)


async def remove_orphans(resources: Resources, job_id: uuid.UUID) -> None:
    """Delete the orphaned objects of one export, and abort its orphaned uploads.

    The current attempt owns its upload, and a completed export owns its file until that is deleted. Objects are listed
    before owners are read: an owner's row always exists before its object, so no owned object is taken for an orphan.
    An outage ends the run. After any other refusal it tries the rest, then raises UnavailableError.
    """
    prefix = f"{KEYS}{job_id}/"
    kept: list[UnavailableError] = []
    await _abort_orphaned_uploads(resources, prefix, kept)
    async for keys in resources.storage.list_keys(prefix):
        for key in await _list_orphaned(resources, keys):
            with _keeping(kept):
                await _delete(resources, key)
    if kept:
        raise kept[-1]


async def _abort_orphaned_uploads(resources: Resources, prefix: str, kept: list[UnavailableError]) -> None:
    async for uploads in resources.storage.list_uploads(prefix):
        orphaned = await _list_orphaned(resources, {upload.key for upload in uploads})
        for upload in uploads:
            if upload.key in orphaned:
                with _keeping(kept):
                    await _abort(resources, upload)


async def clean_up(resources: Resources, export: Export) -> None:
    """Remove the orphans of one export now. The sweep retries those that the storage refuses, or is slow with."""
    with suppress(UnavailableError, TimeoutError):
        async with asyncio.timeout(CLEAN_UP_SECONDS):
            await remove_orphans(resources, export.id)


@contextmanager
def _keeping(kept: list[UnavailableError]) -> Iterator[None]:
    """Collect a refusal, so that one undeletable object doesn't block the others."""
    try:
        yield
    except OutageError:
        raise  # every further call would fail likewise
    except UnavailableError as error:
        kept.append(error)


async def _abort(resources: Resources, upload: OpenUpload) -> None:
    await resources.storage.abort_upload(upload)
    resources.metrics.repairs.labels("orphaned_upload").inc()
    await logger.ainfo("orphaned_upload_aborted", object=upload.key)


async def _delete(resources: Resources, key: str) -> None:
    await resources.storage.delete(key)
    resources.metrics.repairs.labels("orphaned_object").inc()
    await logger.ainfo("orphaned_object_deleted", object=key)


async def _list_orphaned(resources: Resources, keys: Collection[str]) -> set[str]:
    async with resources.connection() as connection:
        return await resources.exports.list_orphaned_keys(connection, list(keys))

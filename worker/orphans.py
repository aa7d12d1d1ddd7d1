"""Objects and uploads in the storage that no export owns: what a killed attempt leaves behind."""

import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

import structlog

from service import exporting
from service.bootstrap import Resources
from service.database import COMMAND_TIMEOUT_SECONDS, connect
from service.errors import ConfigurationError, OutageError, UnavailableError
from service.exports import Export
from service.storage import OpenUpload

PREFIX = "exports/"
SWEEP_LOCK = int.from_bytes(b"orphans")

logger = structlog.get_logger()


async def sweep(resources: Resources) -> bool:
    """Remove all orphans; False, and nothing is done, while another worker does.

    The lock has a connection of its own and goes with it, whatever becomes of the sweep or the worker. No transaction:
    one that takes as long as a large bucket would hold up vacuum.
    """
    try:
        async with connect(resources.settings.database_url) as connection:
            alone: bool = await connection.fetchval(
                "SELECT pg_try_advisory_lock($1)", SWEEP_LOCK, timeout=COMMAND_TIMEOUT_SECONDS
            )
            if alone:
                await remove_orphans(resources)
    except ConfigurationError as error:
        raise OutageError("PostgreSQL is not available", server="postgresql") from error
    return alone


async def remove_orphans(resources: Resources, job_id: uuid.UUID | None = None) -> None:
    """Delete objects and abort uploads that attempts of ours made and nobody owns, of one export or of all.

    An attempt owns its upload while it is the current one, a completed export its file until that is deleted. They are
    listed before their owners are: what is found has an owner from its first moment on, or never had. An outage ends
    it; otherwise all are tried, and it raises UnavailableError if the storage wouldn't give some of them up.
    """
    prefix = f"{PREFIX}{job_id}/" if job_id else PREFIX
    kept: list[UnavailableError] = []
    async for uploads in resources.storage.list_uploads(prefix):
        orphaned = await _list_orphaned(resources, {upload.key for upload in uploads})
        for upload in uploads:
            if upload.key in orphaned:
                with _keeping(kept):
                    await _abort(resources, upload)
    async for keys in resources.storage.list_keys(prefix):
        for key in await _list_orphaned(resources, keys):
            with _keeping(kept):
                await _delete(resources, key)
    if kept:
        raise kept[-1]


async def clean_up(resources: Resources, export: Export) -> None:
    """Remove the orphans of one export now. What the storage keeps is left to the sweep."""
    with suppress(UnavailableError):
        await remove_orphans(resources, export.id)


@contextmanager
def _keeping(kept: list[UnavailableError]) -> Iterator[None]:
    """One that the storage won't give up keeps no other."""
    try:
        yield
    except OutageError:
        raise  # the others would wait in vain, too
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
    async with exporting.open_connection(resources) as connection:
        return await resources.exports.list_orphaned_keys(connection, list(keys))

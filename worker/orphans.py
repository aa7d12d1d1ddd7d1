"""Objects and uploads in the storage that no export owns: what a killed attempt leaves behind."""

import uuid
from contextlib import suppress

import structlog

from service import exporting
from service.bootstrap import Resources
from service.errors import UnavailableError
from service.exports import Export
from service.storage import OpenUpload

PREFIX = "exports/"
QUERY_KEYS = 1_000

logger = structlog.get_logger()


async def remove_orphans(resources: Resources, job_id: uuid.UUID | None = None) -> None:
    """Delete objects and abort uploads that attempts of ours made and nobody owns, of one export or of all.

    An attempt owns its upload while it is the current one, a completed export its file until that is deleted. They are
    listed before their owners are: what is found has an owner from its first moment on, or never had. Raises
    UnavailableError at the end if the storage wouldn't give some of them up.
    """
    prefix = f"{PREFIX}{job_id}/" if job_id else PREFIX
    uploads = [upload async for upload in resources.storage.list_uploads(prefix)]
    objects = [found.key async for found in resources.storage.list_keys(prefix)]
    orphaned = await _orphaned(resources, [*{upload.key for upload in uploads}, *objects])
    kept: UnavailableError | None = None
    candidates: list[OpenUpload | str] = [*uploads, *objects]
    for orphan in candidates:
        try:
            await _remove(resources, orphan, orphaned)
        except UnavailableError as error:
            kept = error
    if kept:
        raise kept


async def clean_up(resources: Resources, export: Export) -> None:
    """Remove the orphans of one export now. What the storage keeps is left to the sweep."""
    with suppress(UnavailableError):
        await remove_orphans(resources, export.id)


async def _remove(resources: Resources, orphan: OpenUpload | str, orphaned: set[str]) -> None:
    if isinstance(orphan, str):
        if orphan in orphaned:
            await resources.storage.delete(orphan)
            resources.metrics.repairs.labels("orphaned_object").inc()
            await logger.ainfo("orphaned_object_deleted", object=orphan)
    elif orphan.key in orphaned:
        await resources.storage.abort_upload(orphan)
        resources.metrics.repairs.labels("orphaned_upload").inc()
        await logger.ainfo("orphaned_upload_aborted", object=orphan.key)


async def _orphaned(resources: Resources, keys: list[str]) -> set[str]:
    orphaned: set[str] = set()
    for start in range(0, len(keys), QUERY_KEYS):
        async with exporting.read(resources) as connection:
            orphaned |= await resources.exports.list_orphaned_keys(connection, keys[start : start + QUERY_KEYS])
    return orphaned

"""Objects and uploads in the storage that no export owns: what a killed attempt leaves behind."""

import uuid

import structlog

from service import exporting
from service.bootstrap import Resources

PREFIX = "exports/"
QUERY_KEYS = 1_000

logger = structlog.get_logger()


async def remove_orphans(resources: Resources, job_id: uuid.UUID | None = None) -> None:
    """Delete objects and abort uploads that nobody owns, of one export or of all.

    An attempt owns its upload while it is the current one, a completed export its file until that is deleted. They are
    listed before their owners are: what is found has an owner from its first moment on, or never had.
    """
    prefix = f"{PREFIX}{job_id}/" if job_id else PREFIX
    uploads = [upload async for upload in resources.storage.list_uploads(prefix)]
    objects = [found.key async for found in resources.storage.list_keys(prefix)]
    owned = await _owned(resources, [*{upload.key for upload in uploads}, *objects])
    for upload in uploads:
        if upload.key not in owned:
            await resources.storage.abort_upload(upload)
            resources.metrics.repairs.labels("orphaned_upload").inc()
            await logger.ainfo("orphaned_upload_aborted", object=upload.key)
    for key in objects:
        if key not in owned:
            await resources.storage.delete(key)
            resources.metrics.repairs.labels("orphaned_object").inc()
            await logger.ainfo("orphaned_object_deleted", object=key)


async def _owned(resources: Resources, keys: list[str]) -> set[str]:
    owned: set[str] = set()
    for start in range(0, len(keys), QUERY_KEYS):
        async with exporting.read(resources) as connection:
            owned |= await resources.exports.list_owned_keys(connection, keys[start : start + QUERY_KEYS])
    return owned

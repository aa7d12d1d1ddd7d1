"""Ownership checks. Another user's export looks like one that does not exist, and the attempt is audited."""

import uuid

from service.bookkeeping.audit import Actor
from service.bookkeeping.exports import Export
from service.errors import ExportNotFoundError
from service.resources import Resources
from service.user_ids import UserId


async def get_owned(resources: Resources, job_id: uuid.UUID, user_id: UserId, actor: Actor) -> Export:
    """Raises ExportNotFoundError if the id is unknown or the export is another user's; the latter is audited."""
    try:
        return await resources.exports.get_owned(resources.autocommit, job_id, user_id)
    except ExportNotFoundError:
        await record_denial(resources, job_id, actor)
        raise


async def record_denial(resources: Resources, job_id: uuid.UUID, actor: Actor) -> None:
    """Audit that the caller may not access the export, at most once a minute per export. Unknown ids aren't audited."""
    await resources.exports.record_denial(resources.autocommit, job_id, actor)

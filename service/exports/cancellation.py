"""Ends an export early, for its owner or an operator. A running export fails; a completed export loses its file."""

import uuid
from collections.abc import Iterable
from contextlib import suppress

from service.backends.database import Connection
from service.bookkeeping.audit import Actor, operator_actor
from service.bookkeeping.exports import Export, ExportRepository, ExportStatus
from service.errors import ExportNotFoundError, UnavailableError
from service.exports.files import is_in, key_of
from service.resources import Resources
from service.user_ids import UserId

CANCELLED_BY_USER = "cancelled by user"
CANCELLED_BY_OPERATOR = "cancelled by an operator"


async def cancel_or_delete(resources: Resources, export: Export, actor: Actor) -> None:
    """Fail a running export. Delete a completed export's file and end its link at once."""
    async with resources.transaction() as connection:
        ended = await resources.exports.end(connection, export.id, actor, message=CANCELLED_BY_USER)
    if ended and ended.status is ExportStatus.FAILED:
        resources.metrics.exports.labels("cancelled", export.format).inc()
    elif ended and is_in(resources.storage, ended):
        with suppress(UnavailableError):  # the link has ended; the worker deletes the file later
            await resources.storage.delete(key_of(ended))
            async with resources.transaction() as connection:
                await resources.exports.mark_file_deleted(connection, ended.id)


async def cancel_for_operator(connection: Connection, exports: ExportRepository, job_id: uuid.UUID) -> list[Export]:
    """The ended export; an empty list if it had ended before. Raises ExportNotFoundError for an unknown id."""
    async with connection.transaction():
        if await exports.find(connection, job_id) is None:
            raise ExportNotFoundError
        return await _end(connection, exports, [job_id])


async def cancel_all_for_operator(connection: Connection, exports: ExportRepository, user_id: UserId) -> list[Export]:
    """The ended exports: all of the user's that were running or had a working link. A failure ends none of them."""
    async with connection.transaction():
        await exports.lock_user(connection, user_id)  # so that the API accepts no export until the commit
        unended = await exports.list_unended(connection, user_id)
        return await _end(connection, exports, [export.id for export in unended])


async def _end(connection: Connection, exports: ExportRepository, job_ids: Iterable[uuid.UUID]) -> list[Export]:
    actor = operator_actor()
    ended = [await exports.end(connection, job_id, actor, message=CANCELLED_BY_OPERATOR) for job_id in job_ids]
    return [export for export in ended if export]

"""End the exports of users whom the application has erased. Otherwise their data would outlive them here, and could be
shown to the next user with the same id.
"""

import asyncio

import structlog

from service.bookkeeping.audit import SYSTEM
from service.bookkeeping.exports import Export, ExportStatus
from service.errors import DocumentError, OutageError, SubjectNotFoundError, UnavailableError
from service.exports import attempts
from service.mails.sending import skip_mails
from service.resources import Resources
from worker.repair import outages_of

ROUND_SECONDS = 1.0
BATCH = 100
# Interval between two checks of one export's user. Two consecutive checks must miss the user, because a replica may lag
# behind and a table may be emptied and refilled.
LOOK_AGAIN_SECONDS = 300.0
# The same for exports without a file: there are many more, and the next user with the id would see their rows alone.
LOOK_AT_ENDED_AGAIN_SECONDS = 86_400.0
ENDED_BATCH = 20
GONE = "the user no longer exists in the application"

logger = structlog.get_logger()


async def end_erased_forever(resources: Resources) -> None:
    outages = outages_of("end exports of erased users")
    while True:
        async with outages.catching(*attempts.FAILURES):
            await end_erased(resources)
        await asyncio.sleep(ROUND_SECONDS)


async def end_erased(resources: Resources) -> None:
    """Check the users of a batch of exports, least recently checked first. An outage ends the round."""
    async with resources.transaction() as connection:
        due = await resources.exports.claim_subject_checks(connection, after_seconds=LOOK_AGAIN_SECONDS, limit=BATCH)
        due += await resources.exports.claim_ended_subject_checks(
            connection, after_seconds=LOOK_AT_ENDED_AGAIN_SECONDS, limit=ENDED_BATCH
        )
    for export in due:
        try:
            missing = await _is_missing(resources, export)
        except OutageError:
            raise
        except (UnavailableError, DocumentError) as error:  # not evidence about this user or the others
            await logger.awarning("user_not_looked_for", job_id=str(export.id), exc_info=error)
        else:
            await _conclude(resources, export, missing=missing)


async def _is_missing(resources: Resources, export: Export) -> bool:
    try:
        await attempts.require_owner(resources, export)
    except SubjectNotFoundError:
        return True
    return False


async def _conclude(resources: Resources, export: Export, *, missing: bool) -> None:
    if missing and export.subject_missing:
        await _end(resources, export)
    elif missing != export.subject_missing:
        async with resources.transaction() as connection:
            await resources.exports.note_subject(connection, export.id, missing=missing)


async def _end(resources: Resources, export: Export) -> None:
    async with resources.transaction() as connection:
        ended = await resources.exports.end(connection, export.id, SYSTEM, message=GONE, cause=GONE)
        await skip_mails(resources, connection, export, cause=GONE)
        await resources.exports.disown(connection, export)
    if ended:
        resources.metrics.repairs.labels("erased").inc()
        if ended.status is ExportStatus.FAILED:
            resources.metrics.exports.labels("cancelled", export.format).inc()
        await logger.ainfo("export_of_erased_user_ended", job_id=str(export.id))

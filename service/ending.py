"""How an export is ended before its time, by its owner or by an operator."""

import uuid

from service.audit import Actor, AuditAction, AuditLog
from service.database import Connection
from service.exports import Export, ExportRepository


async def end_export(  # noqa: PLR0913 (two tables, and who ends what)
    connection: Connection,
    exports: ExportRepository,
    audit: AuditLog,
    job_id: uuid.UUID,
    actor: Actor,
    *,
    message: str,
) -> Export | None:
    """In the caller's transaction: fail a running export, saying `message`; end the link of a completed one.

    The export as it is then, failed or completed, or None if it had ended before. The file of a completed one is left
    to the caller, and to the worker, who deletes whatever has no link any more.
    """
    if cancelled := await exports.cancel(connection, job_id, message=message):
        await record_export(audit, connection, actor, AuditAction.CANCELLED, cancelled)
        await record_export(audit, connection, actor, AuditAction.FAILED, cancelled, outcome=message)
        return cancelled
    if ended := await exports.end_link(connection, job_id):
        await record_export(audit, connection, actor, AuditAction.DELETED, ended)
    return ended


async def record_export(  # noqa: PLR0913 (an event's facts)
    audit: AuditLog,
    connection: Connection,
    actor: Actor,
    action: AuditAction,
    export: Export,
    *,
    outcome: str | None = None,
) -> None:
    await audit.record(
        connection,
        actor,
        action,
        user_id=export.user_id,
        job_id=export.id,
        format_=export.format,
        records=export.record_count,
        outcome=outcome,
    )

"""Exports for tests that begin with one."""

from uuid import uuid4

from service.backends.database import Connection
from service.bookkeeping.audit import SYSTEM, Actor
from service.bookkeeping.exports import Export, ExportRepository, ExportRequest, Limits
from service.export_spec import ExportSpec
from service.exports import requests
from service.formats import Format
from service.resources import Resources
from service.user_ids import UserId
from tests.support.factories import Connection as Administrator
from tests.support.factories import create_user_with

UNLIMITED = Limits(1_000_000, 1_000_000, 1_000_000)


async def start_export(
    resources: Resources, user_id: UserId, format_: Format = Format.CSV, *, queued: bool = True
) -> Export:
    """As POST /api/export does: pending if `queued`, and otherwise made at once."""
    actor = Actor("user", str(user_id), request_id="test")
    return await requests.request_export(
        resources, ExportRequest(ExportSpec(user_id, format_), actor, respond_async=queued)
    )


async def make_small_export(resources: Resources, database: Administrator) -> Export:
    """A completed one, of a new user."""
    export = await start_export(resources, await create_user_with(database, 3), queued=False)
    return await find_export(resources, export)


async def find_export(resources: Resources, export: Export) -> Export:
    """The export as it is now."""
    found = await resources.exports.find(resources.autocommit, export.id)
    assert found
    return found


async def insert_export(  # noqa: PLR0913 (a row's columns)
    exports: ExportRepository,
    connection: Connection,
    *,
    user_id: UserId | None = None,
    format_: Format = Format.CSV,
    queued: bool = True,
    records: int = 10,
    key: str | None = None,
) -> Export:
    """The row of an export that is pending, or one in progress if it isn't `queued`; of a new user by default."""
    request = ExportRequest(ExportSpec(user_id or uuid4(), format_), SYSTEM, idempotency_key=key)
    admitted = await exports.admit(connection, request, UNLIMITED, queued=queued, estimated_records=records)
    assert admitted.export
    assert admitted.is_new
    return admitted.export

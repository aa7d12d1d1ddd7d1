"""An export's file: its key in the storage, its signed link, and the audit of its downloads."""

import uuid

import structlog

from languages.words import to_translate
from service.backends.database import Connection
from service.backends.storage import ObjectStorage
from service.bookkeeping.audit import Actor
from service.bookkeeping.exports import Export, ExportStatus
from service.errors import ExportGoneError, ExportNotReadyError
from service.object_keys import KEYS, object_key
from service.resources import Resources

LOST = to_translate("This export's file is not available any more: please request the export again")

logger = structlog.get_logger()


async def get_file(resources: Resources, connection: Connection, job_id: uuid.UUID) -> Export:
    """The export, if its file may be downloaded now. Otherwise raises ExportGoneError or ExportNotReadyError."""
    export = await resources.exports.find(connection, job_id)
    if export is None or export.expired:
        raise ExportGoneError("This export's file is gone: it expired or was deleted")
    if export.status is not ExportStatus.COMPLETED:
        raise ExportNotReadyError(f"This export has no file: it is {export.status}", export_status=export.status)
    if is_lost(resources.storage, export):
        raise ExportGoneError(LOST)
    return export


async def note_missing(resources: Resources, export: Export) -> None:
    """Record that the storage doesn't have the file, unless it was deleted on purpose meanwhile."""
    async with resources.transaction() as connection:
        noted = await resources.exports.note_missing(connection, export)
    if noted:
        await logger.aerror("file_missing", job_id=str(export.id), url=export.file_url)


async def record_download(resources: Resources, export: Export, actor: Actor, *, outcome: str) -> None:
    async with resources.transaction() as connection:
        await resources.exports.record_download(connection, export, actor, outcome=outcome)


async def note_found(resources: Resources, export: Export) -> None:
    """Record that the storage has the file again."""
    assert export.file_url is not None
    async with resources.transaction() as connection:
        noted = await resources.exports.note_found(connection, export, export.file_url)
    if noted:
        await logger.ainfo("file_found", job_id=str(export.id), url=export.file_url)


def is_lost(storage: ObjectStorage, export: Export) -> bool:
    """Whether the file of a completed export can't be served: it is missing, or in an earlier bucket."""
    return export.file_missing_at is not None or not is_in(storage, export)


def is_in(storage: ObjectStorage, export: Export) -> bool:
    """Whether the file's URL is in the bucket, and behind the prefix, that the settings name."""
    return (export.file_url or "").startswith(f"{storage.url}{KEYS}{export.id}/")


def new_key(resources: Resources, export: Export) -> str:
    """The key of the object that this attempt stores."""
    return object_key(export.id, export.attempt, export.format, resources.mark)


def key_of(export: Export) -> str:
    """The key of a completed export's object, from its `s3://bucket/prefix/key`."""
    assert export.file_url is not None
    return KEYS + export.file_url.rpartition(f"/{KEYS}")[2]


def download_url(resources: Resources, export: Export) -> str | None:
    """The signed link; None if it doesn't work any more."""
    if export.status is not ExportStatus.COMPLETED or export.expired or export.expires_at is None:
        return None
    if is_lost(resources.storage, export):
        return None
    query = resources.links.sign(export.id, export.expires_at)
    return f"{resources.settings.public_url}/api/export/{export.id}/download?{query}"

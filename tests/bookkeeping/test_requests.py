"""Requests of the desk in the table of exports: whole, answered or counted, and purged like any export."""

import datetime as dt
from uuid import UUID, uuid4

import asyncpg
import pytest

from service.backends.database import QUERIES
from service.bookkeeping.audit import SYSTEM, Actor
from service.bookkeeping.exports import DeskRequest, Export, ExportRepository, ExportRequest, FileFacts
from service.export_spec import ExportSpec
from service.formats import Format
from tests.support.exports import UNLIMITED
from tests.support.factories import Connection

KEY = Actor("key", "abcdefgh")
FILE = FileFacts("s3://carryout/exports/file.csv", 3, 100, bytes(32))
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def exports() -> ExportRepository:
    return ExportRepository(lease_seconds=60)


async def insert(
    exports: ExportRepository,
    database: Connection,
    user_id: UUID | None = None,
    *,
    age_days: float = 0,
    desk: bool = True,
    **spec: object,
) -> Export:
    """A completed one, so that another may follow; received `age_days` ago if it is the desk's."""
    asked = DeskRequest("support", "Your letter", NOW - dt.timedelta(days=age_days)) if desk else None
    wanted = ExportRequest(ExportSpec(user_id or uuid4(), Format.CSV, **spec), KEY, desk=asked)  # type: ignore[arg-type] # as given
    admitted = await exports.admit(database, wanted, UNLIMITED, queued=False, estimated_records=3)
    assert admitted.export
    await exports.complete(database, admitted.export, FILE, ttl_seconds=60)
    return admitted.export


async def answered(database: Connection) -> set[UUID]:
    rows = await database.fetch("SELECT id FROM carryout.export_jobs WHERE answered_at IS NOT NULL")
    return {row["id"] for row in rows}


async def counted(database: Connection) -> tuple[int, int]:
    row = await database.fetchrow(QUERIES["measure_backlog"])
    assert row
    return row["requests_overdue"], row["requests_due_soon"]


async def test_a_download_answers_the_request(exports: ExportRepository, database: Connection) -> None:
    export = await insert(exports, database)
    other = await insert(exports, database)
    await exports.record_download(database, export, KEY, outcome="redirected")
    assert await answered(database) == {export.id}
    await exports.end(database, other.id, SYSTEM, message="cancelled")
    assert await answered(database) == {export.id, other.id}


async def test_an_answer_is_one_to_earlier_requests_of_the_same_part(
    exports: ExportRepository, database: Connection
) -> None:
    user_id = uuid4()
    first = await insert(exports, database, user_id)
    part = await insert(exports, database, user_id, sections=("activity",))
    year = await insert(exports, database, user_id, start=NOW)
    own = await insert(exports, database, user_id, desk=False)
    again = await insert(exports, database, user_id)
    later = await insert(exports, database, user_id)
    others = await insert(exports, database)
    await exports.note_answered(database, own)
    assert await answered(database) == set()
    await exports.note_answered(database, again)
    assert await answered(database) == {first.id, again.id}
    times = [row["answered_at"] for row in await database.fetch("SELECT answered_at FROM carryout.export_jobs")]
    await exports.note_answered(database, again)
    assert times == [row["answered_at"] for row in await database.fetch("SELECT answered_at FROM carryout.export_jobs")]
    assert not {part.id, year.id, later.id, others.id} & await answered(database)


async def test_unanswered_ones_are_counted_by_their_due_date(exports: ExportRepository, database: Connection) -> None:
    assert await counted(database) == (0, 0)
    await insert(exports, database, age_days=500, desk=False)
    await insert(exports, database, age_days=1)
    assert await counted(database) == (0, 0)
    soon = await insert(exports, database, age_days=27)
    assert await counted(database) == (0, 1)
    late = await insert(exports, database, age_days=32)
    erased = await insert(exports, database, age_days=400)
    assert await counted(database) == (2, 1)
    await database.execute("UPDATE carryout.export_jobs SET expires_at = now() WHERE id = $1", erased.id)
    await exports.disown(database, erased)
    assert await counted(database) == (1, 1)
    for export in (soon, late):
        await exports.note_answered(database, export)
    assert await counted(database) == (0, 0)


@pytest.mark.parametrize(
    "change", ["reason = NULL", "due_at = NULL", "requested_by = NULL", "received_at = NULL, due_at = NULL"]
)
async def test_a_request_is_whole(exports: ExportRepository, database: Connection, change: str) -> None:
    export = await insert(exports, database)
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute(f"UPDATE carryout.export_jobs SET {change} WHERE id = $1", export.id)
    own = await insert(exports, database, desk=False)
    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute("UPDATE carryout.export_jobs SET answered_at = now() WHERE id = $1", own.id)


async def test_it_is_shown_to_operators_and_purged_like_any_export(
    exports: ExportRepository, database: Connection
) -> None:
    export = await insert(exports, database, age_days=100)
    shown = await exports.show(database, export.id)
    assert (shown["requested_by"], shown["reason"]) == ("support", "Your letter")
    assert {"received_at", "due_at"} <= shown.keys()
    await database.execute(
        "UPDATE carryout.export_jobs SET file_deleted_at = now(), completed_at = now() - interval '40 days'"
    )
    assert await database.fetchval("SELECT carryout.purge_exports(interval '30 days', 10, NULL)") == 1
    assert await counted(database) == (0, 0)

"""Admission of exports: which rule applies to a request, and what its refusal says."""

from uuid import UUID, uuid4

import pytest

from service.bookkeeping.audit import SYSTEM
from service.bookkeeping.exports import ExportRepository, ExportRequest
from service.errors import ExportInProgressError, IdempotencyConflictError, RateLimitedError
from service.export_spec import ExportSpec
from service.exports.admission import Admission
from service.formats import Format
from service.user_ids import UserId
from tests.support.exports import insert_export
from tests.support.factories import Connection


@pytest.fixture
def exports() -> ExportRepository:
    return ExportRepository(lease_seconds=60.0)


@pytest.fixture
def admission(exports: ExportRepository) -> Admission:
    return Admission(exports, per_hour=10, kept_files=10)


def ask(user_id: UserId, *, key: str | None = None, format_: Format = Format.CSV) -> ExportRequest:
    return ExportRequest(ExportSpec(user_id, format_), SYSTEM, idempotency_key=key)


async def insert_ended(
    database: Connection, user_id: UUID, *, minutes_ago: int, started: bool = True, failures: int = 0
) -> None:
    """An export that was cancelled, or that failed."""
    await database.execute(
        "INSERT INTO carryout.export_jobs"
        " (user_id, format, queued, estimated_records, created_at, status, completed_at, error_message, failures,"
        "  started_at)"
        " VALUES ($1, 'csv', true, 1, now() - make_interval(mins => $2), 'failed', now(), 'ended', $3,"
        "  CASE WHEN $4 THEN now() END)",
        user_id,
        minutes_ago,
        failures,
        started,
    )


async def insert_file(database: Connection, user_id: UUID, *, minutes_left: int) -> None:
    await database.execute(
        "INSERT INTO carryout.export_jobs"
        " (user_id, format, queued, estimated_records, status, created_at, completed_at, record_count, file_url,"
        "  size_bytes, sha256, expires_at)"
        " VALUES ($1, 'csv', true, 1, 'completed', now() - interval '2 hours', now(), 1, 's3://carryout/file', 1,"
        "  sha256(''), now() + make_interval(mins => $2))",
        user_id,
        minutes_left,
    )


async def test_an_idempotency_key_is_known_for_a_day(
    admission: Admission, exports: ExportRepository, database: Connection
) -> None:
    export = await insert_export(exports, database, key="key")
    await database.execute(
        "UPDATE carryout.export_jobs SET status = 'failed', completed_at = now(), error_message = ''"
    )
    for minutes, known in ((24 * 60 - 1, True), (24 * 60, False)):
        await database.execute(
            "UPDATE carryout.export_jobs SET created_at = now() - make_interval(mins => $1)", minutes
        )
        found = await admission.check(database, ask(export.user_id, key="key"))
        assert (found is not None) == known
        await exports.forget_old_idempotency_keys(database)
        kept = await database.fetchval("SELECT idempotency_key FROM carryout.export_jobs")
        assert (kept is not None) == known


async def test_a_running_export_answers_its_own_key(
    admission: Admission, exports: ExportRepository, database: Connection
) -> None:
    export = await insert_export(exports, database, key="key")
    assert await admission.check(database, ask(export.user_id, key="key")) == export
    assert await admission.check(database, ask(uuid4(), key="key")) is None
    with pytest.raises(ExportInProgressError) as refused:
        await admission.check(database, ask(export.user_id, key="other"))
    assert refused.value.fields["job_id"] == export.id
    with pytest.raises(IdempotencyConflictError):
        await admission.check(database, ask(export.user_id, key="key", format_=Format.JSON))


async def test_a_key_answers_before_a_running_export_refuses(
    admission: Admission, exports: ExportRepository, database: Connection
) -> None:
    earlier = await insert_export(exports, database, key="key")
    await exports.end(database, earlier.id, SYSTEM, message="cancelled")
    await insert_export(exports, database, user_id=earlier.user_id)
    found = await admission.check(database, ask(earlier.user_id, key="key"))
    assert found
    assert found.id == earlier.id


async def test_a_rate_counts_back_from_the_latest(exports: ExportRepository, database: Connection) -> None:
    user_id = uuid4()
    async with database.transaction():  # at one time
        for minutes in (61, 59, 40, 20, 10):
            await insert_ended(database, user_id, minutes_ago=minutes)
        assert await Admission(exports, per_hour=5, kept_files=1).check(database, ask(user_id)) is None
        for per_hour, minutes_left in ((4, 1), (3, 20), (2, 40), (1, 50)):
            with pytest.raises(RateLimitedError, match=f"At most {per_hour} exports an hour") as refused:
                await Admission(exports, per_hour=per_hour, kept_files=1).check(database, ask(user_id))
            assert refused.value.retry_after_seconds == minutes_left * 60


@pytest.mark.parametrize(("started", "failures"), [(True, 3), (False, 0)])
async def test_what_failed_or_never_began_uses_up_no_rate(
    exports: ExportRepository, database: Connection, *, started: bool, failures: int
) -> None:
    """But ten times the rate ends a loop."""
    user_id = uuid4()
    async with database.transaction():  # at one time
        for minutes in range(1, 20):
            await insert_ended(database, user_id, minutes_ago=minutes, started=started, failures=failures)
        assert await Admission(exports, per_hour=2, kept_files=1).check(database, ask(user_id)) is None
        await insert_ended(database, user_id, minutes_ago=30, started=started, failures=failures)
        with pytest.raises(RateLimitedError, match="At most 20 exports an hour, failed and cancelled") as refused:
            await Admission(exports, per_hour=2, kept_files=1).check(database, ask(user_id))
        assert refused.value.retry_after_seconds == 30 * 60


async def test_kept_files_count_back_from_the_last_to_expire(exports: ExportRepository, database: Connection) -> None:
    user_id = uuid4()
    async with database.transaction():  # at one time
        for minutes in (-1, 20, 30, 50):
            await insert_file(database, user_id, minutes_left=minutes)
        assert await Admission(exports, per_hour=1, kept_files=4).check(database, ask(user_id)) is None
        for kept_files, minutes_left in ((3, 20), (2, 30), (1, 50)):
            with pytest.raises(RateLimitedError, match=f"At most {kept_files} files are kept") as refused:
                await Admission(exports, per_hour=1, kept_files=kept_files).check(database, ask(user_id))
            assert refused.value.retry_after_seconds == minutes_left * 60


async def test_admits_one(admission: Admission, database: Connection) -> None:
    request = ask(uuid4(), key="key")
    async with database.transaction():
        admitted, new = await admission.admit(database, request, queued=False, records=7)
        again, again_new = await admission.admit(database, request, queued=False, records=7)
    assert (new, again_new) == (True, False)
    assert admitted.id == again.id
    assert (admitted.estimated_records, admitted.queued, admitted.attempt) == (7, False, 1)

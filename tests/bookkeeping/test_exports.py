"""The table of exports: whose an export is, when it is due, and how its end is foreseen."""

import datetime as dt
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from service.bookkeeping.audit import SYSTEM
from service.bookkeeping.exports import MAX_ATTEMPTS, Export, ExportRepository, FileFacts, Progress
from service.errors import ExportSupersededError
from service.formats import Format
from service.object_keys import object_key
from tests.support.exports import insert_export
from tests.support.factories import Connection

LEASE_SECONDS = 60.0
MARK = "0123456789ab"
FILE = FileFacts("s3://carryout/exports/file.csv", 3, 100, bytes(32))

Change = Callable[[ExportRepository, Connection, Export], Awaitable[object]]
CHANGES: dict[str, Change] = {
    "complete": lambda exports, database, export: exports.complete(database, export, FILE, ttl_seconds=60),
    "retry": lambda exports, database, export: exports.retry(database, export, after_seconds=0, cause="late"),
    "hand back": lambda exports, database, export: exports.hand_back(database, export),
    "fail": lambda exports, database, export: exports.fail(database, export, message="late", cause="late"),
    "renew": lambda exports, database, export: exports.renew_lease(database, export, progress=Progress(2)),
}


@pytest.fixture
def exports() -> ExportRepository:
    return ExportRepository(lease_seconds=LEASE_SECONDS)


async def begin(exports: ExportRepository, database: Connection, *, records: int = 10) -> Export:
    return await claim(exports, database, await insert_export(exports, database, records=records))


async def claim(exports: ExportRepository, database: Connection, export: Export) -> Export:
    claimed = await exports.claim(database, export.id)
    assert claimed
    return claimed


async def change(database: Connection, export: Export, what: str, *values: object) -> None:
    await database.execute(f"UPDATE carryout.export_jobs SET {what} WHERE id = $1", export.id, *values)


async def grow_old(database: Connection, export: Export, minutes: float) -> None:
    await change(database, export, "created_at = now() - make_interval(secs => $2)", minutes * 60)


async def lose_lease(database: Connection, export: Export) -> None:
    await change(database, export, "lease_expires_at = now()")


async def read(database: Connection, export: Export) -> asyncpg.Record:
    row = await database.fetchrow("SELECT * FROM carryout.export_jobs WHERE id = $1", export.id)
    assert row
    return row


async def take(exports: ExportRepository, database: Connection, *, limit: int = 10) -> set[UUID]:
    return {taken.id for taken in await exports.take_forgotten(database, after_seconds=LEASE_SECONDS, limit=limit)}


@pytest.mark.parametrize("name", CHANGES)
class TestSuperseded:
    """An attempt that isn't the current one changes nothing any more."""

    async def test_by_another_attempt(self, exports: ExportRepository, database: Connection, name: str) -> None:
        late = await begin(exports, database)
        await lose_lease(database, late)
        await claim(exports, database, late)
        await self._refused(exports, database, late, name)

    async def test_by_its_user(self, exports: ExportRepository, database: Connection, name: str) -> None:
        late = await begin(exports, database)
        await exports.end(database, late.id, SYSTEM, message="cancelled")
        await self._refused(exports, database, late, name)

    async def test_by_no_attempt_yet(self, exports: ExportRepository, database: Connection, name: str) -> None:
        late = await begin(exports, database)
        await exports.hand_back(database, late)
        await self._refused(exports, database, late, name)

    async def _refused(self, exports: ExportRepository, database: Connection, late: Export, name: str) -> None:
        before = await read(database, late)
        with pytest.raises(ExportSupersededError):
            await CHANGES[name](exports, database, late)
        assert await read(database, late) == before


class TestClaim:
    async def test_a_leased_one_is_its_workers(self, exports: ExportRepository, database: Connection) -> None:
        export = await begin(exports, database)
        assert await exports.claim(database, export.id) is None

    async def test_a_lost_lease_is_a_failure(self, exports: ExportRepository, database: Connection) -> None:
        export = await begin(exports, database)
        await exports.renew_lease(database, export, progress=Progress(5))
        await lose_lease(database, export)
        began_at = (await read(database, export))["started_at"]
        again = await claim(exports, database, export)
        assert (again.attempt, again.failures, again.records_done) == (2, 1, 0)
        assert (await read(database, export))["started_at"] > began_at

    async def test_an_export_left_by_a_request_is_queued_from_then_on(
        self, exports: ExportRepository, database: Connection
    ) -> None:
        export = await insert_export(exports, database, queued=False)
        assert await exports.claim(database, export.id) is None
        await lose_lease(database, export)
        assert (await claim(exports, database, export)).queued

    async def test_the_last_try(self, exports: ExportRepository, database: Connection) -> None:
        export = await insert_export(exports, database)
        await change(database, export, "failures = $2", MAX_ATTEMPTS - 1)
        await claim(exports, database, export)
        assert await exports.fail_lost(database, message="lost", limit=1) == []
        await change(database, export, "lease_expires_at = now(), enqueued_at = NULL")
        assert await exports.claim(database, export.id) is None
        assert await take(exports, database) == set()
        (failed,) = await exports.fail_lost(database, message="lost", limit=1)
        assert (failed.id, failed.failures, failed.error_message) == (export.id, MAX_ATTEMPTS, "lost")

    async def test_not_the_last_try(self, exports: ExportRepository, database: Connection) -> None:
        export = await begin(exports, database)
        await change(database, export, "failures = $2", MAX_ATTEMPTS - 2)
        await lose_lease(database, export)
        assert await exports.fail_lost(database, message="lost", limit=1) == []
        assert (await claim(exports, database, export)).failures == MAX_ATTEMPTS - 1

    async def test_a_retry_waits(self, exports: ExportRepository, database: Connection) -> None:
        export = await begin(exports, database)
        await exports.retry(database, export, after_seconds=60, cause="OutageError", failures=0)
        assert await exports.claim(database, export.id) is None
        assert await take(exports, database) == set()
        await change(database, export, "run_after = now()")
        assert await take(exports, database) == {export.id}
        assert (await claim(exports, database, export)).failures == 0

    async def test_an_export_that_is_handed_back_is_due_without_a_failure(
        self, exports: ExportRepository, database: Connection
    ) -> None:
        export = await begin(exports, database)
        await exports.hand_back(database, export)
        assert await take(exports, database) == {export.id}
        again = await claim(exports, database, export)
        assert (again.attempt, again.failures) == (2, 0)


async def test_a_late_heartbeat_does_not_change_a_completed_export(
    exports: ExportRepository, database: Connection
) -> None:
    export = await begin(exports, database)
    await exports.complete(database, export, FILE, ttl_seconds=60)
    await exports.renew_lease(database, export, progress=Progress(1))
    assert (await read(database, export))["records_done"] == FILE.records


async def test_a_heartbeat_keeps_the_lease(exports: ExportRepository, database: Connection) -> None:
    export = await begin(exports, database)
    await lose_lease(database, export)
    await exports.renew_lease(database, export, progress=Progress(1))
    assert await exports.claim(database, export.id) is None


async def test_a_lost_export_keeps_its_earlier_causes(exports: ExportRepository, database: Connection) -> None:
    export = await begin(exports, database)
    await change(database, export, "failures = $2, error_cause = 'DocumentError'", MAX_ATTEMPTS - 1)
    await lose_lease(database, export)
    await exports.fail_lost(database, message="lost", limit=1)
    assert (await read(database, export))["error_cause"] == "DocumentError; its worker was lost"


class TestForgotten:
    async def test_after_a_while_for_a_while(self, exports: ExportRepository, database: Connection) -> None:
        export = await insert_export(exports, database)
        assert await take(exports, database) == set()
        await change(database, export, "enqueued_at = now() - make_interval(secs => $2)", LEASE_SECONDS)
        assert await take(exports, database) == {export.id}
        assert await take(exports, database) == set()

    async def test_at_once_if_redis_has_not_got_it(self, exports: ExportRepository, database: Connection) -> None:
        export = await insert_export(exports, database)
        await exports.note_unqueued(database, export)
        assert await take(exports, database) == {export.id}

    async def test_with_its_worker(self, exports: ExportRepository, database: Connection) -> None:
        export = await begin(exports, database)
        await change(database, export, "enqueued_at = NULL")
        assert await take(exports, database) == set()
        await lose_lease(database, export)
        assert await take(exports, database) == {export.id}

    async def test_the_oldest_come_first(self, exports: ExportRepository, database: Connection) -> None:
        old, older, young = [await insert_export(exports, database) for _ in range(3)]
        for export, minutes in {young: 1, old: 2, older: 3}.items():
            await exports.note_unqueued(database, export)
            await grow_old(database, export, minutes)
        assert await take(exports, database, limit=1) == {older.id}
        assert await take(exports, database, limit=1) == {old.id}
        assert await take(exports, database, limit=1) == {young.id}


@pytest.mark.parametrize("failures", [0, MAX_ATTEMPTS - 1])
async def test_workers_that_repair_at_once_do_not_wait_for_each_other(
    exports: ExportRepository, database: Connection, database_url: str, failures: int
) -> None:
    export = await begin(exports, database)
    await change(database, export, "enqueued_at = NULL, failures = $2", failures)
    await lose_lease(database, export)
    other = await asyncpg.connect(database_url)
    async with database.transaction(), other.transaction():
        await other.execute("SET LOCAL lock_timeout = '1s'")
        assert await take(exports, database) or await exports.fail_lost(database, message="lost", limit=1)
        assert await take(exports, other) == set()
        assert await exports.fail_lost(other, message="lost", limit=1) == []
    await other.close()


class TestEstimate:
    """One second, and what the records take that are still to be made."""

    async def test_without_any_experience(self, exports: ExportRepository, database: Connection) -> None:
        assert await self._seconds(exports, database, await insert_export(exports, database, records=20_000)) == 2.0

    async def test_with_the_pace_of_workers(self, exports: ExportRepository, database: Connection) -> None:
        for seconds in (0.001, 0.002, 9.0):
            await self._complete(database, exports, await begin(exports, database), seconds)
        for _ in range(4):  # made at once, by requests
            await self._complete(database, exports, await insert_export(exports, database, queued=False), 7.0)
        assert await self._seconds(exports, database, await insert_export(exports, database, records=500)) == 2.0

    async def test_behind_others(self, exports: ExportRepository, database: Connection) -> None:
        running = await begin(exports, database, records=30_000)
        await exports.renew_lease(database, running, progress=Progress(10_000))
        cancelled = await insert_export(exports, database, records=50_000)
        await exports.end(database, cancelled.id, SYSTEM, message="cancelled")
        export = await insert_export(exports, database, records=20_000)
        await insert_export(exports, database, records=70_000)
        assert await self._seconds(exports, database, export) == 3.0

    async def test_half_done(self, exports: ExportRepository, database: Connection) -> None:
        export = await begin(exports, database, records=40_000)
        await exports.renew_lease(database, export, progress=Progress(20_000))
        assert await self._seconds(exports, database, export) == 2.0

    async def test_like_the_exports_of_its_size(self, exports: ExportRepository, database: Connection) -> None:
        """Small exports take long for each record: for the start, the snapshot and the upload, not for records."""
        for records, seconds in [*[(1_000, 0.8)] * 20, *[(100_000, 4.0)] * 5]:
            export = await claim(exports, database, await insert_export(exports, database))
            await exports.complete(database, export, msgspec.structs.replace(FILE, records=records), ttl_seconds=60)
            await change(database, export, "started_at = completed_at - make_interval(secs => $2)", seconds)
        large = await insert_export(exports, database, records=100_000)
        assert 4 < await self._seconds(exports, database, large) < 10

    async def test_put_off(self, exports: ExportRepository, database: Connection) -> None:
        export = await insert_export(exports, database, records=20_000)
        async with database.transaction():
            await change(database, export, "run_after = now() + interval '1 minute'")
            assert await self._seconds(exports, database, export) == 62.0

    async def _complete(
        self, database: Connection, exports: ExportRepository, export: Export, seconds_per_record: float
    ) -> None:
        await exports.complete(database, export, FILE, ttl_seconds=60)
        took = "started_at = completed_at - make_interval(secs => $2)"
        await change(database, export, took, seconds_per_record * FILE.records)

    async def _seconds(self, exports: ExportRepository, database: Connection, export: Export) -> float:
        async with database.transaction():
            estimate = await exports.estimate_completion(database, export)
            now: dt.datetime = await database.fetchval("SELECT now()")
        return (estimate - now).total_seconds()


async def test_pages_of_what_was_made_at_one_time(exports: ExportRepository, database: Connection) -> None:
    user_id = uuid4()
    await database.execute(
        "INSERT INTO carryout.export_jobs"
        " (user_id, format, queued, estimated_records, status, completed_at, error_message)"
        " SELECT $1, 'csv', true, 1, 'failed', now(), 'failed' FROM generate_series(1, 5)",
        user_id,
    )
    pages = [[export.id for export in await exports.list_owned(database, user_id, after=None, limit=2)]]
    while pages[-1]:
        page = await exports.list_owned(database, user_id, after=pages[-1][-1], limit=2)
        pages.append([export.id for export in page])
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert len({job_id for page in pages for job_id in page}) == 5


@pytest.mark.parametrize("name", ["pending", "processing", "completed"])
async def test_unended(exports: ExportRepository, database: Connection, name: str) -> None:
    export = await insert_export(exports, database)
    if name != "pending":
        export = await claim(exports, database, export)
    if name == "completed":
        await exports.complete(database, export, FILE, ttl_seconds=60)
    assert [found.id for found in await exports.list_unended(database, export.user_id)] == [export.id]


class TestEndedFiles:
    async def test_a_claimed_file_is_not_claimed_again_for_a_while(
        self, exports: ExportRepository, database: Connection
    ) -> None:
        export = await self._ended(exports, database, minutes=1)
        assert await self._claim(exports, database) == export.id
        assert await self._claim(exports, database) is None
        await change(database, export, "delete_after = now()")
        assert await self._claim(exports, database) == export.id
        await exports.mark_file_deleted(database, export.id)
        await change(database, export, "delete_after = now()")
        assert await self._claim(exports, database) is None

    async def test_the_longest_due_comes_first(self, exports: ExportRepository, database: Connection) -> None:
        old, older, young = [await self._ended(exports, database, minutes) for minutes in (2, 3, 1)]
        claimed = [await self._claim(exports, database) for _ in range(3)]
        assert claimed == [older.id, old.id, young.id]

    async def _ended(self, exports: ExportRepository, database: Connection, minutes: int) -> Export:
        export = await begin(exports, database)
        await exports.complete(database, export, FILE, ttl_seconds=60)
        await change(database, export, "expires_at = now() - make_interval(mins => $2)", minutes)
        return export

    async def _claim(self, exports: ExportRepository, database: Connection) -> UUID | None:
        claimed = await exports.claim_ended_file(database, bucket="carryout", url="s3://carryout/", seconds=60)
        return claimed.id if claimed else None


async def test_orphans(exports: ExportRepository, database: Connection) -> None:
    begun = [await begin(exports, database) for _ in range(5)]
    for export in begun:
        await lose_lease(database, export)
    made, done, gone, failed, waiting = [await claim(exports, database, export) for export in begun]
    for export in (done, gone):
        await exports.complete(database, export, FILE, ttl_seconds=60)
    await exports.mark_file_deleted(database, gone.id)
    await exports.fail(database, failed, message="failed", cause="failed")
    await exports.hand_back(database, waiting)

    ours = {object_key(export.id, attempt, Format.CSV, MARK) for export in begun for attempt in (1, 2)}
    theirs = {object_key(uuid4(), 1, Format.CSV, MARK), f"exports/{made.id}/1.txt", f"exports/{made.id}", "readme"}
    owned = {object_key(export.id, 2, Format.CSV, MARK) for export in (made, done)}
    assert await exports.list_orphaned_keys(database, [*ours, *theirs]) == ours - owned

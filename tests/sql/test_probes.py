"""Frequent queries find their rows by an index, so ended exports don't slow them down."""

import uuid
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from service.backends.database import QUERIES, Connection
from tests.conftest import OpenDatabase

ENDED = 20_000
# A tenth of the smallest table's pages. The planner's estimate has a bound, too: it decides how larger tables are read.
MAX_PAGES = 60
MAX_COST = 60.0
A_USER = uuid.UUID(int=2**127)  # user and export; in the middle of all ids

# Each asks as an installation does that has made nearly all its exports at once, whose storage keeps files for years,
# and which no user has downloaded anything from.
FILL = """
INSERT INTO carryout.export_jobs
  (user_id, format, queued, created_at, estimated_records, status, attempt, started_at, completed_at,
   record_count, file_url, size_bytes, sha256, expires_at, file_deleted_at, delete_after, subject_checked_at)
SELECT gen_random_uuid(), 'csv', n % 5000 = 0, at, 1, 'completed', 1, at, at,
       1, format('s3://%s/exports/%s/1.csv', CASE WHEN n % 3 = 0 THEN 'earlier' ELSE 'ours' END, gen_random_uuid()),
       1, sha256(''), at, CASE WHEN n % 2 = 0 THEN at END, now() + interval '1 hour',
       'infinity'
FROM (SELECT n, now() - n * interval '1 minute' AS at FROM generate_series(1, $1::int) AS n) AS ended
"""
FILL_PENDING = """
INSERT INTO carryout.export_jobs (id, user_id, format, queued, estimated_records)
VALUES ($1::uuid, $1::uuid, 'csv', true, 1)
"""
FILL_NOTIFICATIONS = """
INSERT INTO carryout.export_notifications (job_id, kind, state, message_id, data_started_at, ended_at)
SELECT id, 'ready', 'sent', id, now(), now() FROM carryout.export_jobs
"""
FILL_AUDIT = """
INSERT INTO carryout.export_audit (actor_type, action, user_id, job_id)
SELECT 'system', action, user_id, id
FROM carryout.export_jobs, unnest(ARRAY['export:requested', 'export:started', 'export:completed']) AS action
"""


class _Plan(msgspec.Struct, rename={"hit": "Shared Hit Blocks", "read": "Shared Read Blocks", "cost": "Total Cost"}):
    hit: int
    read: int
    cost: float


class _Explained(msgspec.Struct, rename={"plan": "Plan"}):
    plan: _Plan


@pytest.fixture(scope="module")
async def filled(open_database: OpenDatabase) -> AsyncIterator[Connection]:
    async with open_database() as url:
        connection = await asyncpg.connect(url)
        await connection.execute(FILL, ENDED)
        await connection.execute(FILL_PENDING, A_USER)
        await connection.execute(FILL_NOTIFICATIONS)
        await connection.execute(FILL_AUDIT)
        await connection.execute("VACUUM ANALYZE")
        yield connection
        await connection.close()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("find_admission", [A_USER, "key", 10, 50, 100]),
        ("find_admission", [A_USER, None, 10, 50, 100]),
        ("find_export", [A_USER]),
        ("list_exports", [A_USER, None, 20]),
        ("list_unended_exports", [A_USER]),
        ("claim_export", [A_USER, 15.0, 3]),
        ("estimate_completion", [A_USER]),
        ("take_forgotten_exports", [3, 15.0, 100]),
        ("fail_lost_exports", [3, "lost", 100]),
        ("claim_ended_file", ["ours", 60.0, "s3://ours/exports/"]),
        ("claim_subject_checks", [300.0, 1]),
        ("claim_ended_subject_checks", [86_400.0, 1]),
        ("forget_old_idempotency_keys", []),
        ("claim_due_entries", [10, 60.0, 86_400.0]),
        ("end_lost_entries", [86_400.0]),
        ("list_audit_events", [A_USER, None, None, None, 100, None]),
        ("list_audit_events", [None, A_USER, None, None, 100, None]),
        ("list_downloads", [A_USER, None, 20]),
        ("list_requests", [None, 20]),
        ("list_requests", [A_USER, 20]),
        ("find_request_by_key", ["key"]),
        ("answer_requests", [A_USER]),
        ("measure_backlog", []),
    ],
)
async def test_index_probe(filled: Connection, name: str, arguments: list[object]) -> None:
    transaction = filled.transaction()
    await transaction.start()
    query = QUERIES[name].replace("{outbox}", "carryout.export_notifications").replace("{may_go}", "true")
    await filled.fetch(query, *arguments)  # a function's queries are planned
    explained = await filled.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", *arguments)
    await transaction.rollback()
    (found,) = msgspec.json.decode(explained, type=list[_Explained])
    assert found.plan.hit + found.plan.read <= MAX_PAGES
    assert found.plan.cost <= MAX_COST

"""Asking for an export: what is made at once, what is queued, and what is refused."""

import asyncio
import csv
import datetime as dt
import hashlib
import io
import json
from collections import Counter
from uuid import UUID

import httpx
import msgspec
import pytest

from service.backends.database import connect
from service.backends.queue import QUEUE_NAME
from service.errors import AWAY
from service.exports import files, requests
from service.resources import Resources
from service.settings import Settings
from tests.api.conftest import ASYNC, CSV, JSON, UNKNOWN_ID, Create
from tests.api.problems import bearer, read_problem
from tests.conftest import PUBLIC_PATH, PUBLIC_URL, Token
from tests.support.factories import Connection, create_user, create_user_with, list_actions, list_audit, refuse_audit


async def count_exports(database: Connection) -> int:
    count: int = await database.fetchval("SELECT count(*) FROM carryout.export_jobs")
    return count


async def read_file(resources: Resources, job_id: str) -> bytes:
    async with resources.connection() as connection:
        export = await files.get_file(resources, connection, UUID(job_id))
    async with resources.storage.open_download(files.key_of(export)) as chunks:
        return b"".join([chunk async for chunk in chunks])


def in_minutes(minutes: int) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)


class TestSmall:
    async def test_is_made_at_once(self, create: Create, database: Connection) -> None:
        response = await create(await create_user_with(database, 5))
        body = response.json()
        assert response.status_code == 201
        assert body.keys() == {"job_id", "status", "download_url", "record_count", "expires_at"}
        assert (body["status"], body["record_count"]) == ("completed", 5)
        assert body["download_url"].startswith(f"{PUBLIC_URL}/api/export/{body['job_id']}/download?expires=")
        assert response.headers["location"] == f"{PUBLIC_PATH}/api/export/{body['job_id']}"
        assert response.headers["content-type"] == "application/json"
        assert response.headers["cache-control"] == "private, no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        week = dt.timedelta(days=7)
        expires_at = dt.datetime.fromisoformat(body["expires_at"])
        assert in_minutes(-5) + week < expires_at < in_minutes(5) + week

    async def test_is_not_announced_by_mail(self, create: Create, database: Connection) -> None:
        assert (await create(await create_user_with(database, 5))).status_code == 201
        assert await database.fetchval("SELECT count(*) FROM carryout.export_notifications") == 0

    async def test_csv_is_stored(self, create: Create, database: Connection, resources: Resources) -> None:
        created = (await create(await create_user_with(database, 5), CSV)).json()
        content = await read_file(resources, created["job_id"])
        header, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
        assert header[:4] == ["user_id", "email", "name", "created_at"]
        assert len(rows) == 5
        row = await database.fetchrow("SELECT * FROM carryout.export_jobs")
        assert row is not None
        assert (row["sha256"], row["size_bytes"]) == (hashlib.sha256(content).digest(), len(content))
        assert row["file_url"].startswith(f"s3://{resources.settings.s3_bucket}/")

    async def test_json_is_stored(self, create: Create, database: Connection, resources: Resources) -> None:
        created = (await create(await create_user(database, activity=3, content=1), JSON)).json()
        document = json.loads(await read_file(resources, created["job_id"]))
        assert (len(document["activity"]), len(document["content"])) == (3, 1)

    async def test_audit_chain(self, create: Create, database: Connection) -> None:
        user_id = await create_user_with(database, 5)
        response = await create(user_id, headers={"User-Agent": "tests", "X-Request-ID": "request-1"})
        requested, started, completed = await list_audit(database)
        assert [event["action"] for event in (requested, started, completed)] == [
            "export:requested",
            "export:started",
            "export:completed",
        ]
        for event in (requested, started, completed):
            assert (event["user_id"], event["format"]) == (user_id, "csv")
            assert str(event["job_id"]) == response.json()["job_id"]
        assert (requested["actor_type"], requested["actor"]) == ("user", str(user_id))
        assert (str(requested["ip"]), requested["user_agent"]) == ("127.0.0.1", "tests")
        assert requested["request_id"] == "request-1"
        assert completed["records"] == 5

    async def test_next_one_may_follow_at_once(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        first, second = await create(user_id), await create(user_id)
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json()["job_id"] != second.json()["job_id"]


class TestQueued:
    async def test_answer(self, create: Create, database: Connection, resources: Resources) -> None:
        response = await create(await create_user_with(database, 1_000))
        body = response.json()
        assert response.status_code == 202
        assert body.keys() == {"job_id", "status", "estimated_records", "estimated_completion"}
        assert (body["status"], body["estimated_records"]) == ("pending", 1_000)
        assert in_minutes(-1) < dt.datetime.fromisoformat(body["estimated_completion"]) < in_minutes(60)
        assert response.headers["location"] == f"{PUBLIC_PATH}/api/export/{body['job_id']}"
        assert int(response.headers["retry-after"]) >= 1
        assert await list_actions(database) == ["export:requested"]
        queued = await resources.queue._redis.zscore(QUEUE_NAME, f"export:{body['job_id']}:0")
        assert queued is not None

    @pytest.mark.parametrize(
        "prefer",
        ["respond-async", "Respond-Async", "handling=lenient, respond-async; wait=10", 'x="\\", y", respond-async;z="'],
    )
    async def test_small_one_on_request(self, create: Create, database: Connection, prefer: str) -> None:
        response = await create(await create_user(database), headers={"Prefer": prefer})
        assert (response.status_code, response.json()["status"]) == (202, "pending")
        assert response.headers["preference-applied"] == "respond-async"

    @pytest.mark.parametrize(
        "prefer",
        [
            "return=minimal, respond-asynchronous",
            "wait=10;respond-async",
            'x="a, respond-async, b"',
            'x="\\", respond-async, "',
            'x="a, respond-async',
        ],
    )
    async def test_other_preferences_are_ignored(self, create: Create, database: Connection, prefer: str) -> None:
        response = await create(await create_user(database), headers={"Prefer": prefer})
        assert response.status_code == 201
        assert "preference-applied" not in response.headers


class TestLimits:
    @pytest.mark.parametrize(("records", "status"), [(1, 201), (999, 201), (1_000, 202)])
    async def test_from_a_thousand_on_it_is_queued(
        self, create: Create, database: Connection, records: int, status: int
    ) -> None:
        response = await create(await create_user_with(database, records))
        assert response.status_code == status

    async def test_a_hundred_thousand_and_not_one_more(self, create: Create, database: Connection) -> None:
        allowed = await create(await create_user_with(database, 100_000))
        assert (allowed.status_code, allowed.json()["estimated_records"]) == (202, 100_000)
        read_too_large(await create(await create_user_with(database, 100_001)), limit=100_000)

    async def test_a_refused_one_leaves_nothing(self, create: Create, database: Connection) -> None:
        await create(await create_user_with(database, 100_001))
        assert await count_exports(database) == 0


class TestSmallCap:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, small_export_records=10, max_export_records=20)

    @pytest.mark.parametrize(("records", "status"), [(9, 201), (10, 202), (20, 202)])
    async def test_up_to_the_cap(self, create: Create, database: Connection, records: int, status: int) -> None:
        assert (await create(await create_user_with(database, records))).status_code == status

    @pytest.mark.parametrize("rows", [{"activity": 20}, {"content": 20}, {"activity": 20, "content": 20}])
    async def test_over_the_cap(self, create: Create, database: Connection, rows: dict[str, int]) -> None:
        read_too_large(await create(await create_user(database, **rows)), limit=20)
        assert await count_exports(database) == 0

    async def test_one_user_leaves_the_others_their_connections(
        self, create: Create, database: Connection, resources: Resources
    ) -> None:
        """No rate limits what is refused, and each has its records counted."""
        user_id = await create_user_with(database, 21)
        responses = await asyncio.gather(*(create(user_id) for _ in range(50)))
        assert {response.status_code for response in responses} == {422}
        assert resources.source.get_size() == 1


def read_too_large(response: httpx.Response, *, limit: int) -> None:
    problem = read_problem(response, 422, "record_count", "limit", "suggestion", "ranges", "too_large")
    assert problem["detail"] == "Export too large, please filter data"
    assert (problem["record_count"], problem["limit"]) == (f"more than {limit}", limit)
    assert "date range (from and to)" in problem["suggestion"]


class TestOneAtATime:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """A hundred requests may have to wait for eight connections on a busy machine."""
        return msgspec.structs.replace(settings, acquire_timeout_seconds=60)

    @pytest.mark.parametrize("status", ["pending", "processing"])
    async def test_second_is_refused(self, create: Create, database: Connection, status: str) -> None:
        user_id = await create_user(database)
        running = (await create(user_id, headers=ASYNC)).json()
        await database.execute(
            "UPDATE carryout.export_jobs SET status = 'processing', attempt = 1, lease_expires_at = now() + '1 minute'"
            " WHERE $1 = 'processing'",
            status,
        )
        problem = read_problem(await create(user_id), 409, "job_id", "estimated_completion")
        assert problem["detail"] == "Export already in progress"
        assert problem["job_id"] == running["job_id"]
        assert dt.datetime.fromisoformat(problem["estimated_completion"]) > in_minutes(-1)
        assert await count_exports(database) == 1

    async def test_another_user_is_not_concerned(self, create: Create, database: Connection) -> None:
        await create(await create_user(database), headers=ASYNC)
        assert (await create(await create_user(database), headers=ASYNC)).status_code == 202

    @pytest.mark.parametrize("_round", range(3))
    async def test_a_hundred_at_once_make_one(self, create: Create, database: Connection, _round: int) -> None:
        user_id = await create_user_with(database, 1_000)
        responses = await asyncio.gather(*(create(user_id) for _ in range(100)))
        assert Counter(response.status_code for response in responses) == {202: 1, 409: 99}
        (made,) = await database.fetch("SELECT id FROM carryout.export_jobs")
        assert {response.json()["job_id"] for response in responses} == {str(made["id"])}
        for response in responses:
            if response.status_code == 409:
                read_problem(response, 409, "job_id", "estimated_completion")
        assert await list_actions(database) == ["export:requested"]


class TestIdempotencyKey:
    async def test_a_queued_one_is_answered_again(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        headers = {"Idempotency-Key": "key-1", **ASYNC}
        first, again = await create(user_id, headers=headers), await create(user_id, headers=headers)
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["job_id"] == again.json()["job_id"]
        assert await list_actions(database) == ["export:requested"]

    async def test_a_completed_one_is_answered_again(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        headers = {"Idempotency-Key": "key-1"}
        first, again = await create(user_id, headers=headers), await create(user_id, headers=headers)
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json()

    async def test_no_link_to_a_file_that_is_gone(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        await create(user_id, headers={"Idempotency-Key": "key-1"})
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now()")
        again = await create(user_id, headers={"Idempotency-Key": "key-1"})
        assert again.json()["download_url"] is None

    async def test_another_body_is_refused(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        first = await create(user_id, CSV, {"Idempotency-Key": "key-1"})
        problem = read_problem(await create(user_id, JSON, {"Idempotency-Key": "key-1"}), 422, "job_id")
        assert problem["job_id"] == first.json()["job_id"]

    async def test_many_at_once_make_one(self, create: Create, database: Connection) -> None:
        for made in range(1, 6):
            user_id = await create_user_with(database, 500)
            headers = {"Idempotency-Key": "key-1"}
            responses = await asyncio.gather(*(create(user_id, headers=headers) for _ in range(100)))
            assert {response.status_code for response in responses} <= {201, 202}
            assert len({response.json()["job_id"] for response in responses}) == 1
            assert await count_exports(database) == made

    async def test_is_each_users_own(self, create: Create, database: Connection) -> None:
        responses = [await create(await create_user(database), headers={"Idempotency-Key": "key-1"}) for _ in range(2)]
        assert [response.status_code for response in responses] == [201, 201]
        assert await count_exports(database) == 2

    async def test_is_forgotten_after_a_day(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        first = await create(user_id, CSV, {"Idempotency-Key": "key-1"})
        await database.execute("UPDATE carryout.export_jobs SET created_at = now() - interval '24 hours'")
        second = await create(user_id, JSON, {"Idempotency-Key": "key-1"})
        assert second.status_code == 201
        assert second.json()["job_id"] != first.json()["job_id"]


class TestRate:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, exports_per_hour=2)

    async def test_one_too_many(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        accepted = [(await create(user_id)).status_code for _ in range(2)]
        refused = await create(user_id)
        assert accepted == [201, 201]
        assert read_problem(refused, 429)["detail"] == "At most 2 exports an hour"
        assert 3_500 < int(refused.headers["retry-after"]) <= 3_600
        assert await count_exports(database) == 2

    async def test_cancelled_before_its_work_began(
        self, create: Create, api: httpx.AsyncClient, token: Token, database: Connection
    ) -> None:
        user_id = await create_user(database)
        for _ in range(3):
            accepted = await create(user_id, headers=ASYNC)
            assert accepted.status_code == 202
            path = f"/api/export/{accepted.json()['job_id']}"
            assert (await api.delete(path, headers=bearer(token(user_id)))).status_code == 204

    async def test_ends_with_the_hour(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        for _ in range(2):
            await create(user_id)
        await database.execute("UPDATE carryout.export_jobs SET created_at = created_at - interval '1 hour'")
        assert (await create(user_id)).status_code == 201

    async def test_counts_accepted_ones_only(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        headers = {"Idempotency-Key": "key-1"}
        answers = [await create(user_id, headers=headers) for _ in range(3)]
        answers += [await create(user_id, {"format": "pdf"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201] * 3 + [422] * 3
        assert (await create(user_id)).status_code == 201

    async def test_another_user_is_not_concerned(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        for _ in range(3):
            await create(user_id)
        assert (await create(await create_user(database))).status_code == 201


class TestKeptFiles:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, kept_files=2)

    async def test_one_too_many(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        assert [(await create(user_id)).status_code for _ in range(2)] == [201, 201]
        await database.execute(
            """UPDATE carryout.export_jobs SET expires_at = now() + interval '100 seconds'
            WHERE id = (SELECT id FROM carryout.export_jobs ORDER BY created_at LIMIT 1)"""
        )
        refused = await create(user_id)
        detail = "At most 2 files are kept for you: delete one, or wait until the next one expires"
        assert read_problem(refused, 429)["detail"] == detail
        assert 0 < int(refused.headers["retry-after"]) <= 100
        assert await count_exports(database) == 2
        assert (await create(await create_user(database))).status_code == 201

    @pytest.mark.parametrize("ending", ["deleted", "expired"])
    async def test_one_less(
        self, create: Create, api: httpx.AsyncClient, database: Connection, token: Token, ending: str
    ) -> None:
        user_id = await create_user(database)
        paths = [(await create(user_id)).headers["location"] for _ in range(2)]
        if ending == "deleted":
            assert (await api.delete(paths[0], headers=bearer(token(user_id)))).status_code == 204
        else:
            await database.execute(
                """UPDATE carryout.export_jobs SET expires_at = now()
                WHERE id = (SELECT id FROM carryout.export_jobs LIMIT 1)"""
            )
        assert [(await create(user_id)).status_code for _ in range(2)] == [201, 429]


class TestAsync:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, max_export_records=5_000)

    async def test_does_not_wait_for_a_slow_count(
        self, create: Create, database: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(requests, "ASYNC_COUNT_SECONDS", 0.5)
        user_id = await create_user_with(database, 3)
        async with connect(database_url) as other, other.transaction():
            await other.execute("LOCK TABLE public.content")
            response = await create(user_id, headers=ASYNC)
        assert (response.status_code, response.json()["estimated_records"]) == (202, 5_000)

    async def test_refuses_what_is_too_large(self, create: Create, database: Connection) -> None:
        response = await create(await create_user_with(database, 5_001), headers=ASYNC)
        assert (response.status_code, response.json()["detail"]) == (422, "Export too large, please filter data")
        assert response.json().keys() >= {"ranges", "limit"}
        read_problem(await create(UNKNOWN_ID, headers=ASYNC), 404)
        assert await count_exports(database) == 0


class TestAudit:
    @pytest.mark.parametrize("headers", [{}, ASYNC])
    async def test_no_export_without_its_event(
        self, create: Create, database: Connection, headers: dict[str, str]
    ) -> None:
        user_id = await create_user(database)
        await refuse_audit(database, "export:requested")
        problem = read_problem(await create(user_id, headers=headers), 500)
        assert "refused" not in problem["detail"]
        assert await count_exports(database) == 0

    async def test_a_full_disk_is_an_outage(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        await refuse_audit(database, "export:requested", code="53100")
        response = await create(user_id)
        assert read_problem(response, 503)["detail"] == AWAY
        assert response.headers["retry-after"]
        assert await count_exports(database) == 0

    async def test_nothing_is_completed_without_its_event(self, create: Create, database: Connection) -> None:
        await refuse_audit(database, "export:completed")
        response = await create(await create_user(database))
        assert (response.status_code, response.json()["status"]) == (202, "pending")
        assert await list_actions(database) == ["export:requested", "export:started", "export:retried"]

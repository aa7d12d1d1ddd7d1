"""Exports of a part of the data: sections and ranges of time, as asked for, stored, shown and streamed."""

import csv
import datetime as dt
import io
import json
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest

from service.resources import Resources
from service.settings import Settings
from tests.api.conftest import JSON, UNKNOWN_ID, Create
from tests.api.problems import bearer, read_problem
from tests.api.test_create_export import read_file
from tests.conftest import Token
from tests.support.factories import Connection, create_user

ADD_ACTIVITY = "INSERT INTO public.activity (user_id, kind, occurred_at) SELECT $1, 'login', unnest($2::timestamptz[])"
IN_2025 = {"from": "2025-01-01", "to": "2026-01-01"}


async def add_activity(database: Connection, user_id: UUID, *times: str) -> None:
    await database.execute(ADD_ACTIVITY, user_id, [dt.datetime.fromisoformat(time) for time in times])


@pytest.fixture
async def ada(database: Connection) -> UUID:
    """A user with activity around the year 2025, and three notes of 2026."""
    user_id = await create_user(database, content=3)
    times = ("2024-12-31T23:59:59.999999Z", "2025-01-01T00:00Z", "2025-12-31T23:59:59.999999Z", "2026-01-01T00:00Z")
    await add_activity(database, user_id, *times)
    return user_id


class TestDocument:
    async def test_range_is_half_open(self, create: Create, ada: UUID, resources: Resources) -> None:
        response = await create(ada, {**JSON, **IN_2025})
        assert (response.status_code, response.json()["record_count"]) == (201, 3)
        document = json.loads(await read_file(resources, response.json()["job_id"]))
        assert [row["occurred_at"] for row in document["activity"]] == [
            "2025-01-01T00:00:00Z",
            "2025-12-31T23:59:59.999999Z",
        ]
        assert document["content"] == []

    async def test_says_what_was_selected(self, create: Create, ada: UUID, resources: Resources) -> None:
        response = await create(ada, {**JSON, "sections": ["activity"], "from": "2025-01-01T01:00:00+01:00"})
        document = json.loads(await read_file(resources, response.json()["job_id"]))
        assert list(document) == ["exported_at", "filter", "user", "activity"]
        assert document["filter"] == {
            "sections": ["activity"],
            "from": "2025-01-01",
            "to": None,
            "since": None,
            "unfiltered": [],
        }

    async def test_whole_document_has_no_filter(self, create: Create, ada: UUID, resources: Resources) -> None:
        response = await create(ada, JSON)
        assert "filter" not in json.loads(await read_file(resources, response.json()["job_id"]))

    async def test_csv_has_the_columns_of_its_sections(self, create: Create, ada: UUID, resources: Resources) -> None:
        response = await create(ada, {"format": "csv", "sections": ["content"]})
        text = (await read_file(resources, response.json()["job_id"])).decode()
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        assert [name for name in header if name.startswith("activity")] == []
        assert len(rows) == 4

    async def test_ndjson_says_it_last(self, create: Create, ada: UUID, resources: Resources) -> None:
        response = await create(ada, {"format": "ndjson", **IN_2025})
        *_, last = (await read_file(resources, response.json()["job_id"])).splitlines()
        assert json.loads(last)["records"] == 3
        assert json.loads(last)["filter"]["to"] == "2026-01-01"

    async def test_profile_alone(self, create: Create, ada: UUID) -> None:
        assert (await create(ada, {**JSON, "sections": ["user"]})).json()["record_count"] == 1

    async def test_queued_one_has_it_in_its_row(self, create: Create, ada: UUID, database: Connection) -> None:
        body = {**JSON, "sections": ["content", "activity"], **IN_2025}
        response = await create(ada, body, {"Prefer": "respond-async"})
        assert response.json()["estimated_records"] == 3
        row = await database.fetchrow("SELECT sections, range_start, range_end FROM carryout.export_jobs")
        assert row is not None
        assert row["sections"] == ["activity", "content"]
        assert (row["range_start"].year, row["range_end"].year) == (2025, 2026)

    async def test_view_shows_it(self, create: Create, ada: UUID, api: httpx.AsyncClient, token: Token) -> None:
        job_id = (await create(ada, {**JSON, **IN_2025})).json()["job_id"]
        shown = (await api.get(f"/api/export/{job_id}", headers=bearer(token(ada)))).json()
        assert shown["filter"] == {"sections": None, **IN_2025, "since": None}

    async def test_stream_is_the_same_document(
        self, create: Create, ada: UUID, api: httpx.AsyncClient, token: Token, resources: Resources
    ) -> None:
        job_id = (await create(ada, {**JSON, **IN_2025, "sections": ["activity", "content"]})).json()["job_id"]
        stored = json.loads(await read_file(resources, job_id))
        query = "format=json&from=2025-01-01&to=2026-01-01&sections=content,activity"
        streamed = (await api.get(f"/api/export/stream?{query}", headers=bearer(token(ada)))).json()
        assert streamed | {"exported_at": ""} == stored | {"exported_at": ""}

    async def test_key_stands_for_every_field(self, create: Create, ada: UUID) -> None:
        key = {"Idempotency-Key": "one"}
        first = await create(ada, {**JSON, **IN_2025}, key)
        again = await create(ada, {**JSON, "from": "2025-01-01T00:00:00Z", "to": "2026-01-01"}, key)
        other = await create(ada, {**JSON, "from": "2025-01-02", "to": "2026-01-01"}, key)
        assert again.json()["job_id"] == first.json()["job_id"]
        assert read_problem(other, 422, "job_id")["type"].endswith("idempotency-conflict")


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"sections": ["orders"]}, "Unknown section orders: the sections are user, activity, content"),
            ({"sections": [""]}, 'Unknown section "": the sections are user, activity, content'),
            ({"sections": ["activity", "activity"]}, "more than once"),
            ({"sections": []}, "must name at least one of user, activity, content"),
            ({"sections": "activity"}, "Expected `array | null`"),
            ({"from": "2025-02-30"}, "2025-02-30 is not a day and time of the calendar"),
            ({"from": "2025-01-01T25:00:00Z"}, "not a day and time of the calendar"),
            ({"from": "2025-01-01T10:00:00"}, "a time with its zone"),
            ({"from": "2025-01-01 Europe/Paris"}, "a time with its zone"),
            ({"to": "0000-01-01"}, "in the years 0001 to 9999"),
            ({"to": "99999-01-01"}, "in the years 0001 to 9999"),
            ({"to": "0001-01-01T00:00:00+01:00"}, "also in UTC"),
            ({"to": "٢٠٢٥-01-01"}, "must be a date"),
            ({"from": 2025}, "Expected `str | null`"),
            ({"from": "2025-01-01", "to": "2025-01-01"}, "from must be before to"),
            ({"from": "2026-01-01", "to": "2025-01-01"}, "from must be before to"),
            ({"since": "yesterday"}, "since must be the job_id of a completed export of yours, which is a UUID"),
            ({"since": str(UNKNOWN_ID)}, "since must be the job_id of a completed export of yours"),
            ({"since": str(UNKNOWN_ID), "from": "2025-01-01"}, "exclude each other"),
            ({"bom": True}, "bom is for csv only"),
            ({"guard": "none"}, "guard is for csv only"),
            ({"guard": "off"}, "Invalid enum value 'off' - at `$.guard`"),
        ],
    )
    async def test_says_what_would_be_right(
        self, create: Create, database: Connection, fields: dict[str, Any], said: str
    ) -> None:
        problem = read_problem(await create(await create_user(database), {**JSON, **fields}), 422)
        assert said in problem["detail"]

    async def test_file_for_machines_has_no_guard(
        self, create: Create, resources: Resources, database: Connection
    ) -> None:
        user_id = await create_user(database)
        await database.execute("UPDATE public.users SET name = '=1+1' WHERE id = $1", user_id)
        made = await create(user_id, {"format": "csv", "guard": "none"})
        assert b",=1+1," in await read_file(resources, made.json()["job_id"])

    async def test_stream_refuses_alike(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        headers = bearer(token(await create_user(database)))
        problem = read_problem(await api.get("/api/export/stream?format=csv&sections=orders", headers=headers), 422)
        assert "Unknown section orders" in problem["detail"]
        problem = read_problem(await api.get("/api/export/stream?format=csv&since=1", headers=headers), 422)
        assert "which is a UUID" in problem["detail"]


class TestRanges:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, max_export_records=1_000)

    @pytest.fixture
    async def user_id(self, database: Connection) -> UUID:
        """A user with 2,500 rows over four years."""
        user_id = await create_user(database)
        await database.execute(
            "INSERT INTO public.activity (user_id, kind, occurred_at) "
            "SELECT $1, 'login', timestamptz '2022-01-01 00:00Z' + n * interval '14 hours' "
            "FROM generate_series(1, 2500) AS n",
            user_id,
        )
        return user_id

    async def test_all_of_them_hold_all_rows_once(
        self, create: Create, database: Connection, resources: Resources, user_id: UUID
    ) -> None:
        refused = await create(user_id, JSON)
        ranges = refused.json()["ranges"]
        assert len(ranges) == 3
        assert (ranges[0]["from"], ranges[-1]["to"]) == (None, None)
        found: list[int] = []
        for one in ranges:
            await add_activity(database, user_id, "2023-05-05T00:00Z")  # late for the earlier ranges
            given = {name: one[name] for name in ("from", "to")}
            response = await create(user_id, {**JSON, **given})
            assert response.status_code == 201
            document = json.loads(await read_file(resources, response.json()["job_id"]))
            found += [row["id"] for row in document["activity"]]
        assert len(set(found)) == len(found)
        known = await database.fetch("SELECT id FROM public.activity ORDER BY id LIMIT 2500")
        assert {row["id"] for row in known} <= set(found)

    async def test_counts_are_those_of_the_documents(self, create: Create, user_id: UUID) -> None:
        for one in (await create(user_id, JSON)).json()["ranges"]:
            made = await create(user_id, {**JSON, "from": one["from"], "to": one["to"]})
            assert made.json()["record_count"] == one["record_count"]

    async def test_lie_within_the_asked_range(self, create: Create, user_id: UUID) -> None:
        ranges = (await create(user_id, {**JSON, "from": "2022-02-03T04:05:06Z", "to": "2025-06-07"})).json()["ranges"]
        assert (ranges[0]["from"], ranges[-1]["to"]) == ("2022-02-03T04:05:06Z", "2025-06-07")


class TestLateRanges:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, max_export_records=1_000, ranges_seconds=0.001)

    async def test_plain_answer_when_time_runs_out(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database, activity=50_000)
        response = await create(user_id, JSON)
        problem = read_problem(response, 422, "record_count", "limit", "suggestion", "ranges")
        assert problem["ranges"] == []
        assert problem["suggestion"].startswith("Ask for a date range")


class TestSince:
    async def test_begins_where_the_earlier_one_may_lack_rows(
        self, create: Create, database: Connection, database_url: str, resources: Resources
    ) -> None:
        user_id = await create_user(database, activity=3)
        writer = await asyncpg.connect(database_url)
        await writer.execute("BEGIN")
        await writer.execute("INSERT INTO public.activity (user_id, kind) VALUES ($1, 'late')", user_id)
        first = await create(user_id, JSON)
        await writer.execute("COMMIT")
        await writer.close()
        second = await create(user_id, {**JSON, "since": first.json()["job_id"]})
        document = json.loads(await read_file(resources, second.json()["job_id"]))
        assert "late" in [row["kind"] for row in document["activity"]]
        row = await database.fetchrow("SELECT changes_from, created_at FROM carryout.export_jobs ORDER BY created_at")
        assert row is not None
        assert dt.datetime.fromisoformat(document["filter"]["from"]) == row["changes_from"] < row["created_at"]
        assert document["filter"]["since"] == first.json()["job_id"]

    async def test_only_an_own_completed_one_that_has_not_expired(self, create: Create, database: Connection) -> None:
        ada, grace = await create_user(database), await create_user(database)
        made = (await create(ada, JSON)).json()["job_id"]
        foreign = read_problem(await create(grace, {**JSON, "since": made}), 422)
        assert "there is none with this id" in foreign["detail"]
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now()")
        expired = read_problem(await create(ada, {**JSON, "since": made}), 422)
        assert "this one is expired or deleted" in expired["detail"]
        queued = (await create(ada, JSON, {"Prefer": "respond-async"})).json()["job_id"]
        pending = read_problem(await create(ada, {**JSON, "since": queued}), 422)
        assert "this one is pending" in pending["detail"]

    async def test_repeated_request_answers_the_same_when_the_earlier_one_has_expired(
        self, create: Create, database: Connection
    ) -> None:
        user_id = await create_user(database)
        body = {**JSON, "since": (await create(user_id, JSON)).json()["job_id"]}
        key = {"Idempotency-Key": "once"}
        made = await create(user_id, body, key)
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now() WHERE id = $1", UUID(body["since"]))
        assert (await create(user_id, body, key)).json()["job_id"] == made.json()["job_id"]
        read_problem(await create(user_id, {**body, "format": "csv"}, key), 422, "job_id")
        read_problem(await create(user_id, body, {"Idempotency-Key": "twice"}), 422)

    async def test_begins_where_the_range_of_the_earlier_one_ended(
        self, create: Create, ada: UUID, resources: Resources
    ) -> None:
        first = (await create(ada, {**JSON, "to": "2025-06-01"})).json()["job_id"]
        second = (await create(ada, {**JSON, "since": first})).json()["job_id"]
        documents = [json.loads(await read_file(resources, job_id)) for job_id in (first, second)]
        assert [len(document["activity"]) for document in documents] == [2, 2]
        assert [len(document["content"]) for document in documents] == [0, 3]
        assert documents[1]["filter"]["from"] == "2025-06-01"

    async def test_a_range_that_ends_in_the_future_hides_nothing_new(
        self, create: Create, ada: UUID, database: Connection
    ) -> None:
        first = (await create(ada, {**JSON, "to": "2999-01-01"})).json()["job_id"]
        second = (await create(ada, {**JSON, "since": first})).json()["job_id"]
        times = "SELECT range_start = (SELECT changes_from FROM carryout.export_jobs WHERE id = $2) FROM"
        assert await database.fetchval(f"{times} carryout.export_jobs WHERE id = $1", UUID(second), UUID(first))

    async def test_one_that_is_older_than_the_feature(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        made = (await create(user_id, JSON)).json()["job_id"]
        await database.execute("UPDATE carryout.export_jobs SET changes_from = NULL")
        old = read_problem(await create(user_id, {**JSON, "since": made}), 422)
        assert "give another one, or from" in old["detail"]

    async def test_needs_a_section_with_a_time(self, create: Create, database: Connection) -> None:
        user_id = await create_user(database)
        made = (await create(user_id, JSON)).json()["job_id"]
        problem = read_problem(await create(user_id, {**JSON, "since": made, "sections": ["user"]}), 422)
        assert "none of these sections has a time" in problem["detail"]


class TestSinceWithoutZone:
    """Times of a clock that is behind UTC, as `now()` and `current_date` give them to a column without a zone."""

    @pytest.fixture(params=["timestamp", "date"])
    async def settings(
        self, settings: Settings, database: Connection, tmp_path: Path, request: pytest.FixtureRequest
    ) -> Settings:
        await database.execute(f"CREATE TABLE public.visits (n int PRIMARY KEY, user_id uuid, at {request.param})")
        await database.execute("GRANT SELECT ON public.visits TO carryout_reader")
        shutil.copy(Path(settings.datasets_dir) / "profile.sql", tmp_path)
        query = "SELECT n, at FROM public.visits WHERE user_id = $1 ORDER BY n"
        (tmp_path / "visits.sql").write_text(f"-- time: at\n{query}\n")
        return msgspec.structs.replace(settings, datasets_dir=str(tmp_path))

    async def test_begins_before_the_day_there(
        self, create: Create, database: Connection, resources: Resources
    ) -> None:
        user_id = await create_user(database)
        first = (await create(user_id, JSON)).json()["job_id"]
        await database.execute("UPDATE carryout.export_jobs SET changes_from = '2026-01-02 03:00Z'")
        add = "INSERT INTO public.visits SELECT n, $1, t AT TIME ZONE 'Etc/GMT+12' FROM unnest($2::timestamptz[])"
        late = dt.datetime(2026, 1, 2, 3, 1, tzinfo=dt.UTC)
        times = [late - dt.timedelta(days=2), late]
        await database.execute(f"{add} WITH ORDINALITY AS t (t, n)", user_id, times)
        second = (await create(user_id, {**JSON, "since": first})).json()["job_id"]
        document = json.loads(await read_file(resources, second))
        assert [row["n"] for row in document["visits"]] == [2]
        assert document["filter"]["from"] == "2026-01-01"  # so that ranges of a refusal begin there, too

"""What becomes of an export whose attempt fails: failed, or tried again when, and for how many failures."""

import dataclasses
import uuid

import asyncpg
import msgspec
import pytest

from service import exporting, requesting
from service.audit import Actor
from service.bootstrap import Resources
from service.database import open_pool
from service.exports import MAX_ATTEMPTS
from tests.factories import Connection, create_user_with, list_actions
from worker.running import run_export


async def ask(resources: Resources, database: Connection) -> uuid.UUID:
    user_id = await create_user_with(database, 3)
    request = requesting.ExportRequest(user_id, "csv", Actor("user", str(user_id)), respond_async=True)
    export, _ = await requesting.request_export(resources, request)
    return export.id


async def run_without_source(resources: Resources, job_id: uuid.UUID) -> None:
    async with open_pool("postgresql://127.0.0.1:1/app", size=1, application_name="nobody") as nowhere:
        await run_export(dataclasses.replace(resources, source=nowhere), job_id)


async def read(database: Connection) -> asyncpg.Record:
    row = await database.fetchrow("SELECT *, run_after - now() AS waits FROM carryout.export_jobs")
    assert row
    return row


async def test_a_failure_is_tried_again_ever_later(resources: Resources, database: Connection) -> None:
    job_id = await ask(resources, database)
    await database.execute("DROP TABLE public.content")
    waits = []
    for _ in range(MAX_ATTEMPTS - 1):
        await run_export(resources, job_id)
        waits.append(round((await read(database))["waits"].total_seconds() / 10) * 10)
        await database.execute("UPDATE carryout.export_jobs SET run_after = now()")
    assert waits == [10, 60]
    await run_export(resources, job_id)
    assert (await read(database))["error_message"] == exporting.FAILED_MESSAGE


@pytest.mark.parametrize(("attempts", "wait_seconds"), [(1, 10), (3, 30), (7, 60)])
async def test_an_outage_costs_no_try(
    resources: Resources, database: Connection, attempts: int, wait_seconds: int
) -> None:
    job_id = await ask(resources, database)
    await database.execute(
        "UPDATE carryout.export_jobs SET attempt = $1, created_at = now() - interval '23 hours'", attempts - 1
    )
    await run_without_source(resources, job_id)
    row = await read(database)
    assert (row["status"], row["attempt"], row["failures"]) == ("pending", attempts, 0)
    assert round(row["waits"].total_seconds() / 10) * 10 == wait_seconds
    assert row["error_cause"].startswith("OutageError: ")


async def test_an_outage_of_a_day_is_a_failure(resources: Resources, database: Connection) -> None:
    job_id = await ask(resources, database)
    await database.execute("UPDATE carryout.export_jobs SET created_at = now() - interval '24 hours'")
    await run_without_source(resources, job_id)
    row = await read(database)
    assert (row["status"], row["failures"]) == ("pending", 1)


@pytest.mark.parametrize("reason", ["No such user", "Export too large, please filter data"])
async def test_what_no_second_attempt_would_mend_fails_at_once(
    resources: Resources, database: Connection, reason: str
) -> None:
    job_id = await ask(resources, database)
    settings = resources.settings
    if reason == "No such user":
        await database.execute("DELETE FROM public.users")
    else:
        settings = msgspec.structs.replace(settings, small_export_records=1, max_export_records=2)
    await run_export(dataclasses.replace(resources, settings=settings), job_id)
    row = await read(database)
    assert (row["status"], row["failures"], row["error_message"]) == ("failed", 1, reason)
    assert (await list_actions(database))[-2:] == ["export:started", "export:failed"]

"""An export whose attempt fails is retried with a backoff, or fails for good."""

import dataclasses
import uuid

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from service.backends.database import open_pool
from service.backends.storage import open_storage
from service.bookkeeping.exports import MAX_ATTEMPTS
from service.exports import attempts
from service.resources import Resources
from service.telemetry.logs import describe_foreseen
from tests.backends.test_s3 import ScriptedS3, at
from tests.support.exports import start_export
from tests.support.factories import Connection, create_user_with, list_actions
from worker import orphans
from worker.running import run_export


async def ask(resources: Resources, database: Connection) -> uuid.UUID:
    user_id = await create_user_with(database, 3)
    return (await start_export(resources, user_id)).id


async def run_without_source(resources: Resources, job_id: uuid.UUID) -> None:
    async with open_pool("postgresql://127.0.0.1:1/app", size=1, application_name="unreachable") as nowhere:
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
    assert (await read(database))["error_message"] == attempts.FAILED_MESSAGE


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("DROP TABLE public.content", 'relation "public.content" does not exist (42P01)'),
        ("ALTER TABLE public.content RENAME title TO titles", 'column "title" does not exist (42703)'),  # with a hint
        ("REVOKE ALL ON public.content FROM carryout_reader", "permission denied for table content (42501)"),
    ],
)
async def test_the_cause_names_the_table_and_the_code(
    resources: Resources, database: Connection, change: str, cause: str
) -> None:
    job_id = await ask(resources, database)
    await database.execute(change)
    with capture_logs() as events:
        await run_export(resources, job_id)
    assert (await read(database))["error_cause"] == f"DocumentError: The application's data can't be read: {cause}"
    facts = describe_foreseen(events[-1]["exc_info"])
    assert (facts["code"], facts["detail"]) == (cause[-6:-1], f"The application's data can't be read: {cause}")


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
async def test_a_permanent_failure_is_not_retried(resources: Resources, database: Connection, reason: str) -> None:
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


async def test_a_storage_whose_lists_never_end_holds_no_worker(
    resources: Resources, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt fails, and what it left is looked for only so long."""
    monkeypatch.setattr(orphans, "CLEAN_UP_SECONDS", 1.0)
    job_id = await ask(resources, database)
    await database.execute("DROP TABLE public.content")
    async with ScriptedS3().open() as scripted:
        scripted.is_endless = True
        async with open_storage(at(resources.settings, scripted.url)) as storage:
            await run_export(dataclasses.replace(resources, storage=storage), job_id)
    assert (await read(database))["status"] == "pending"
    assert len(scripted.asked) > 2

"""The operators' commands about events: what is listed, and what is posted again."""

from typing import Any

import msgspec
import pytest

from devstack.stack import Stack
from service.bookkeeping.audit import SYSTEM
from service.resources import Resources
from tests.conftest import PUBLIC_URL
from tests.sql.databases import database_environ
from tests.support import processes
from tests.support.factories import Connection
from tests.support.processes import Ended, Run
from tests.webhooks.test_sending import complete

NOTHING = "nothing to post again: no such event failed, or waits\n"
URL = "https://receiver.example.org"


@pytest.fixture
def run(stack: Stack, database_url: str) -> Run:
    async def ended(*arguments: str) -> Ended:
        given = database_environ(stack, database_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
        return await processes.run(stack.environ | given, "events", *arguments)

    return ended


async def show(run: Run, *arguments: str) -> list[dict[str, Any]]:
    ended = await run("list", "--json", *arguments)
    assert (ended.status, ended.err) == (0, "")
    return [msgspec.json.decode(line) for line in ended.out.splitlines()]


async def fail(database: Connection, *, hours: int = 0) -> None:
    await database.execute(
        "UPDATE carryout.export_events SET state = 'failed', attempts = 9, last_error = 'The receiver answered 500',"
        " ended_at = now() - make_interval(hours => $1) WHERE state = 'pending'",
        hours,
    )


async def test_events_are_listed_newest_first(run: Run, resources: Resources, database: Connection) -> None:
    await resources.events.note_receiver(database, URL)
    first, second = [await complete(resources, database) for _ in range(2)]
    await resources.exports.record_download(database, first, SYSTEM, outcome="whole")
    assert [(event["job_id"], event["kind"]) for event in await show(run)] == [
        (str(first.id), "downloaded"),
        (str(second.id), "completed"),
        (str(first.id), "completed"),
    ]
    (event,) = await show(run, "--job", str(second.id), "--state", "pending", "--since", "1h", "--limit", "5")
    assert event["user_id"] == str(second.user_id)
    assert (event["attempts"], event["last_answer"], event["ended_at"]) == (0, None, None)
    assert await show(run, "--state", "failed") == []
    header, *lines = (await run("list")).table
    assert header[:5] == ["event", "export", "kind", "state", "attempts"]
    assert len(lines) == 3


async def test_what_failed_is_posted_again(run: Run, resources: Resources, database: Connection) -> None:
    await resources.events.note_receiver(database, URL)
    await complete(resources, database)
    await fail(database, hours=48)
    export = await complete(resources, database)
    await fail(database)
    assert (await run("resend", "--failed-since", "1h")).out.startswith("events to post again: 1 ")
    (event,) = await show(run, "--state", "pending")
    assert (event["job_id"], event["attempts"]) == (str(export.id), 9)
    assert (await run("resend", "--failed-since", "1h")).out == NOTHING


async def test_a_receiver_that_was_gone_is_told_of_and_tried_again(
    run: Run, resources: Resources, database: Connection
) -> None:
    await resources.events.note_receiver(database, URL)
    export = await complete(resources, database)
    await resources.events.note_gone(database, URL)
    assert (await run("list")).err == ("The receiver answered 410: nothing is posted until `carryout events resend`.\n")
    await run("resend", str(export.id))
    assert (await run("list")).err == ""


async def test_an_export_is_shown_with_its_webhooks(
    stack: Stack, database_url: str, resources: Resources, database: Connection
) -> None:
    await resources.events.note_receiver(database, URL)
    export = await complete(resources, database)
    given = stack.environ | database_environ(stack, database_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
    ended = await processes.run(given, "exports", "show", "--json", str(export.id))
    (webhook,) = msgspec.json.decode(ended.out)["webhooks"]
    assert (webhook["kind"], webhook["state"], webhook["attempts"]) == ("completed", "pending", 0)


@pytest.mark.parametrize("arguments", [(), ("00000000-0000-0000-0000-000000000000", "--failed-since", "1h")])
async def test_one_of_both_must_be_given(run: Run, arguments: tuple[str, ...]) -> None:
    ended = await run("resend", *arguments)
    assert ended.status == 2
    assert "Give either JOB_ID or --failed-since." in ended.err

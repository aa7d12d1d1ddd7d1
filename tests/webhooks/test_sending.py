"""Events from the change to the receiver: which there are, in which order, how often, and by which signature."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec
import pytest
import structlog
from standardwebhooks import Webhook, WebhookVerificationError

from devstack.stack import Stack
from service.backends import webhook
from service.backends.webhook import Receiver as Poster
from service.backends.webhook import open_receiver as open_poster
from service.bookkeeping.audit import SYSTEM
from service.bookkeeping.exports import Export, FileFacts
from service.resources import Resources
from service.settings import Settings
from service.webhooks.sending import send_due_events
from tests.conftest import PUBLIC_URL
from tests.sql.databases import database_environ
from tests.support.certificates import create_authority, server_context
from tests.support.exports import insert_export
from tests.support.factories import Connection, create_user
from tests.support.processes import open_worker, run
from tests.support.receiver import SECRET, Received, Receiver, open_receiver
from tests.support.waiting import until

OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDvyHZBAzqjqo="
WEEK_SECONDS = 604_800


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with open_receiver() as opened:
        yield opened


@pytest.fixture
def settings(settings: Settings, receiver: Receiver) -> Settings:
    return msgspec.structs.replace(
        settings, webhook_url=receiver.url, webhook_secrets=(SECRET, OTHER_SECRET), webhook_allow_private=True
    )


@pytest.fixture
async def poster(resources: Resources, database: Connection, settings: Settings) -> AsyncIterator[Poster]:
    """As a worker opens it."""
    await resources.events.note_receiver(database, settings.webhook_url)
    async with open_poster(settings) as opened:
        yield opened


async def complete(resources: Resources, database: Connection, user_id: UUID | None = None) -> Export:
    user_id = user_id or await create_user(database)
    async with database.transaction():
        export = await insert_export(resources.exports, database, user_id=user_id, queued=False)
        file = FileFacts(f"s3://carryout/exports/{export.id}/1.csv", 12, 2_048, b"\x5f" * 32)
        return await resources.exports.complete(database, export, file, ttl_seconds=WEEK_SECONDS)


async def end(resources: Resources, export: Export) -> None:
    async with resources.transaction() as connection:
        await resources.exports.end(connection, export.id, SYSTEM, message="", cause="by the user")


async def rows(database: Connection) -> list[asyncpg.Record]:
    return await database.fetch("SELECT * FROM carryout.export_events ORDER BY id")


async def make_due(database: Connection) -> None:
    await database.execute("UPDATE carryout.export_events SET next_attempt_at = now() WHERE state = 'pending'")


def kinds(requests: list[Received]) -> list[str]:
    return [msgspec.json.decode(request.body)["type"] for request in requests]


async def test_a_completed_export_is_told(
    resources: Resources, database: Connection, poster: Poster, receiver: Receiver
) -> None:
    export = await complete(resources, database)
    assert await send_due_events(resources, poster, limit=10) == 1
    assert await send_due_events(resources, poster, limit=10) == 0

    (request,) = receiver.requests
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", request.headers)
    event = msgspec.json.decode(request.body)
    assert event["type"] == "export.completed"
    assert event["data"].pop("created_at") <= event["data"].pop("completed_at") < event["data"].pop("expires_at")
    assert event["data"] == {
        "job_id": str(export.id),
        "user_id": str(export.user_id),
        "format": "csv",
        "status": "completed",
        "record_count": 12,
        "size_bytes": 2_048,
    }
    (row,) = await rows(database)
    assert (row["state"], row["attempts"], row["last_error"]) == ("sent", 1, None)
    assert row["webhook_id"] == request.headers["webhook-id"]


async def test_each_change_has_its_event_and_they_come_in_order(
    resources: Resources, database: Connection, poster: Poster, receiver: Receiver
) -> None:
    export = await complete(resources, database)
    await resources.exports.record_download(database, export, SYSTEM, outcome="whole")
    await resources.exports.end(database, export.id, SYSTEM, message="", cause="by the user")
    expired = await complete(resources, database)
    await resources.exports.expire(database, expired)
    failed = await insert_export(resources.exports, database, user_id=await create_user(database), queued=False)
    await resources.exports.fail(database, failed, message="The data could not be read", cause="DocumentError")

    assert await send_due_events(resources, poster, limit=10) == 3
    assert await send_due_events(resources, poster, limit=10) == 2
    assert await send_due_events(resources, poster, limit=10) == 1

    def of(job: Export) -> list[str]:
        return kinds([request for request in receiver.requests if str(job.id).encode() in request.body])

    assert of(export) == ["export.completed", "export.downloaded", "export.deleted"]
    assert of(expired) == ["export.completed", "export.expired"]
    assert of(failed) == ["export.failed"]


async def test_a_change_that_is_rolled_back_has_none(
    resources: Resources, database: Connection, poster: Poster, receiver: Receiver
) -> None:
    transaction = database.transaction()
    await transaction.start()
    await complete(resources, database)
    assert len(await rows(database)) == 1
    await transaction.rollback()
    assert await send_due_events(resources, poster, limit=10) == 0
    assert receiver.requests == []


async def test_changes_at_one_moment_are_told_in_the_order_of_their_commits(
    resources: Resources, database: Connection, poster: Poster, receiver: Receiver
) -> None:
    export = await complete(resources, database)
    async with database.transaction():
        await resources.exports.record_download(database, export, SYSTEM, outcome="whole")
        deleting = asyncio.create_task(end(resources, export))
        await until(lambda: _is_done_or_waits(deleting, database))
        while await send_due_events(resources, poster, limit=10):
            pass
    await deleting
    while await send_due_events(resources, poster, limit=10):
        pass
    assert kinds(receiver.requests) == ["export.completed", "export.downloaded", "export.deleted"]


async def test_without_a_receiver_there_are_no_events(resources: Resources, database: Connection) -> None:
    await complete(resources, database)
    assert await rows(database) == []
    await resources.events.note_receiver(database, "https://receiver.example.org")
    await complete(resources, database)
    await resources.events.note_receiver(database, "")
    await complete(resources, database)
    assert len(await rows(database)) == 1


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (500, "The receiver answered 500"),
        (401, "The receiver answered 401"),
        (302, "The receiver answered 302"),
        (None, "The receiver closed the connection without an answer"),
    ],
)
async def test_what_is_not_accepted_is_sent_again(  # noqa: PLR0913, PLR0917 (fixtures)
    resources: Resources,
    database: Connection,
    poster: Poster,
    receiver: Receiver,
    status: int | None,
    cause: str,
) -> None:
    export = await complete(resources, database)
    await resources.exports.record_download(database, export, SYSTEM, outcome="whole")
    receiver.answer = lambda _: status
    with structlog.testing.capture_logs() as logs:
        assert await send_due_events(resources, poster, limit=10) == 1
    assert await send_due_events(resources, poster, limit=10) == 0  # the second event waits for the first
    first, second = await rows(database)
    assert (first["state"], first["attempts"], first["last_error"]) == ("pending", 1, cause)
    assert (second["state"], second["attempts"]) == ("pending", 0)
    (line,) = logs
    assert (line["event"], f"The receiver {line['cause']}") == ("event_attempted", cause)

    receiver.answer = lambda _: 200
    await make_due(database)
    assert await send_due_events(resources, poster, limit=10) == 1
    assert await send_due_events(resources, poster, limit=10) == 1
    accepted = [request for request in receiver.requests if request.status == 200]
    assert kinds(accepted) == ["export.completed", "export.downloaded"]
    assert receiver.requests[0].body == accepted[0].body
    assert receiver.requests[0].headers["webhook-id"] == accepted[0].headers["webhook-id"]


async def test_a_slow_receiver_is_tried_again(
    resources: Resources,
    database: Connection,
    settings: Settings,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.2)
    await resources.events.note_receiver(database, settings.webhook_url)
    await complete(resources, database)
    receiver.answer = lambda _: 0
    async with open_poster(settings) as poster:
        await send_due_events(resources, poster, limit=10)
    (row,) = await rows(database)
    assert (row["state"], row["last_error"]) == ("pending", "The receiver didn't answer in time")


async def test_a_receiver_that_is_gone_gets_nothing_until_an_operator_resends(
    resources: Resources, database: Connection, poster: Poster, receiver: Receiver
) -> None:
    await complete(resources, database)
    receiver.answer = lambda _: 410
    assert await send_due_events(resources, poster, limit=10) == 1
    await complete(resources, database)
    await make_due(database)
    assert await send_due_events(resources, poster, limit=10) == 0
    rendered, _ = await resources.metrics.render(resources.database, "")
    assert b"carryout_webhook_receiver_gone 1.0" in rendered
    await resources.events.note_receiver(database, resources.settings.webhook_url)  # the worker starts again
    assert await send_due_events(resources, poster, limit=10) == 0

    receiver.answer = lambda _: 204
    await resources.events.resend_failed(database, since_seconds=60)
    assert await send_due_events(resources, poster, limit=10) == 2
    assert {row["state"] for row in await rows(database)} == {"sent"}


async def test_another_receiver_is_not_gone(resources: Resources, database: Connection, poster: Poster) -> None:
    await resources.events.note_gone(database, resources.settings.webhook_url)
    assert await resources.events.is_receiver_gone(database)
    await resources.events.note_receiver(database, "https://receiver.example.org")
    assert not await resources.events.is_receiver_gone(database)
    await resources.events.note_gone(database, resources.settings.webhook_url)  # a worker that still had the former
    assert not await resources.events.is_receiver_gone(database)
    assert poster


async def test_after_three_days_an_event_is_given_up(
    resources: Resources, database: Connection, poster: Poster, receiver: Receiver
) -> None:
    await complete(resources, database)
    receiver.answer = lambda _: 500
    await database.execute("UPDATE carryout.export_events SET created_at = now() - interval '72 hours'")
    await send_due_events(resources, poster, limit=10)
    (row,) = await rows(database)
    assert (row["state"], row["last_error"]) == ("failed", "The receiver answered 500")


async def test_an_event_of_a_lost_worker_is_sent_by_another(
    resources: Resources, database: Connection, poster: Poster, receiver: Receiver
) -> None:
    await complete(resources, database)
    receiver.answer = lambda _: 0
    sending = asyncio.create_task(send_due_events(resources, poster, limit=10))
    await receiver.hanging.wait()
    await database.execute("UPDATE carryout.export_events SET lease_expires_at = now()")
    receiver.answer = lambda _: 204
    assert await send_due_events(resources, poster, limit=10) == 1
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    (row,) = await rows(database)
    assert (row["state"], row["attempts"]) == ("sent", 2)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_workers_and_a_bad_receiver_lose_no_event_and_keep_each_exports_order(
    resources: Resources, database: Connection, poster: Poster, receiver: Receiver
) -> None:
    """Each event is accepted at least once; of one export, the first acceptances are in order."""
    choose = random.Random(20261129)  # noqa: S311 (a repeatable choice)
    receiver.answer = lambda _: choose.choice([204, 204, 500, None, 302])
    exports = [await complete(resources, database) for _ in range(30)]
    for export in exports:
        await resources.exports.record_download(database, export, SYSTEM, outcome="whole")
        await resources.exports.end(database, export.id, SYSTEM, message="")
    while await database.fetchval("SELECT EXISTS (SELECT FROM carryout.export_events WHERE state <> 'sent')"):
        await make_due(database)
        await asyncio.gather(*(send_due_events(resources, poster, limit=7) for _ in range(3)))

    for export in exports:
        of_export = [request for request in receiver.requests if str(export.id).encode() in request.body]
        accepted = [request for request in of_export if request.status == 204]
        assert list(dict.fromkeys(kinds(accepted))) == ["export.completed", "export.downloaded", "export.deleted"]
        for request in accepted:
            Webhook(SECRET).verify(request.body, request.headers)


class TestPrivateAddresses:
    @pytest.fixture
    def settings(self, settings: Settings, receiver: Receiver) -> Settings:
        url = receiver.url.replace("http://127.0.0.1", "https://localhost")
        return msgspec.structs.replace(settings, webhook_url=url, webhook_allow_private=False)

    async def test_a_name_that_leads_inside_is_not_connected_to(
        self, resources: Resources, database: Connection, poster: Poster, receiver: Receiver
    ) -> None:
        await complete(resources, database)
        await send_due_events(resources, poster, limit=10)
        (row,) = await rows(database)
        assert row["last_error"] == "The receiver has a private address, and CARRYOUT_WEBHOOK_ALLOW_PRIVATE is off"
        assert receiver.requests == []


async def test_a_receiver_of_a_private_authority(
    resources: Resources, database: Connection, settings: Settings, tmp_path: Path
) -> None:
    authority = create_authority(tmp_path / "ca.pem")
    await resources.events.note_receiver(database, "https://localhost")
    await complete(resources, database)
    async with open_receiver(server_context(authority.issue(tmp_path / "receiver.pem"))) as receiver:
        unknown = msgspec.structs.replace(settings, webhook_url=receiver.url)
        async with open_poster(unknown) as poster:
            await send_due_events(resources, poster, limit=10)
        (row,) = await rows(database)
        assert row["last_error"].startswith("The receiver can't be reached: its certificate is of an unknown authority")
        await make_due(database)
        async with open_poster(msgspec.structs.replace(unknown, ca_file=str(tmp_path / "ca.pem"))) as poster:
            await send_due_events(resources, poster, limit=10)
        assert kinds(receiver.requests) == ["export.completed"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::6810:84e5", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address: str, *, public: bool) -> None:
    assert webhook.is_public(address) is public


async def test_a_killed_worker_and_a_restarted_receiver_lose_no_event(
    resources: Resources, database: Connection, stack: Stack, database_url: str, tmp_path: Path
) -> None:
    environ = stack.environ | database_environ(stack, database_url)
    environ |= {"CARRYOUT_PUBLIC_URL": PUBLIC_URL, "CARRYOUT_WEBHOOK_ALLOW_PRIVATE": "true"}
    async with open_receiver() as first:
        environ |= {"CARRYOUT_WEBHOOK_URL": first.url, "CARRYOUT_WEBHOOK_SECRETS": SECRET}
        async with open_worker(environ, tmp_path):
            exports = [await complete(resources, database)]
            await until(lambda: _all_are(database, "sent"))
            first.answer = lambda _: 0
            exports.append(await complete(resources, database))
            await first.hanging.wait()
            os.kill(int((tmp_path / "worker.pid").read_text().split()[0]), signal.SIGKILL)
    async with open_receiver() as second:
        await database.execute("UPDATE carryout.export_events SET lease_expires_at = now() WHERE state = 'sending'")
        async with open_worker(environ | {"CARRYOUT_WEBHOOK_URL": second.url}, tmp_path):
            await until(lambda: _all_are(database, "sent"))
    log = (tmp_path / "worker.log").read_text()
    assert SECRET not in log
    assert first.url not in log
    for export, receiver in zip(exports, (first, second), strict=True):
        assert any(str(export.id).encode() in request.body for request in receiver.requests)


async def test_a_worker_that_loses_postgresql_at_its_start_says_so(
    stack: Stack, database: Connection, database_url: str
) -> None:
    environ = stack.environ | database_environ(stack, database_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
    async with database.transaction():
        await database.execute("LOCK TABLE carryout.webhook")
        starting = asyncio.create_task(run(environ, "worker"))
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        await until(lambda: database.fetchval(terminate))
    ended = await starting
    assert (ended.status, ended.err) == (2, "carryout: PostgreSQL went away (CARRYOUT_DATABASE_URL)\n")


async def _is_done_or_waits(change: "asyncio.Task[None]", database: Connection) -> bool:
    """Whether it has ended, or waits for a row that this session has changed."""
    blocked = "SELECT EXISTS (SELECT FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
    return change.done() or bool(await database.fetchval(blocked))


async def _all_are(database: Connection, state: str) -> bool:
    found = {row["state"] for row in await rows(database)}
    return found == {state}

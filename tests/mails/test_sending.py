"""Mails from the row to the mailbox: who gets them, how often, and what is recorded."""

import asyncio
import dataclasses
from contextlib import suppress

import asyncpg
import msgspec
import pytest
import structlog

from service.backends import smtp as mailer_module
from service.bookkeeping import outbox
from service.bookkeeping.exports import FileFacts
from service.bookkeeping.mails import Notification
from service.bookkeeping.outbox import EntryState
from service.documents.datasets import Dataset
from service.errors import EntrySupersededError
from service.mails.sending import send_due_mails
from service.resources import Resources
from service.settings import Settings
from tests.support.exports import insert_export
from tests.support.factories import Connection, create_user, list_audit
from tests.support.smtp import DROP, HANG, SmtpServer

WEEK_SECONDS = 604_800


@pytest.fixture
def settings(settings: Settings, smtp: SmtpServer) -> Settings:
    return msgspec.structs.replace(settings, smtp_url=smtp.url)


async def create_ready(resources: Resources, database: Connection, *, email: str = "ada@example.org") -> Notification:
    """A completed export of a user with this address, and its mail, which is due."""
    user_id = await create_user(database)
    await database.execute("UPDATE public.users SET email = $2 WHERE id = $1", user_id, email)
    export = await insert_export(resources.exports, database, user_id=user_id, queued=False)
    file = FileFacts(f"s3://carryout/exports/{export.id}/1.csv", 1, 2_048, b"\x5f" * 32)
    await resources.exports.complete(database, export, file, ttl_seconds=WEEK_SECONDS)
    return await resources.notifications.create(database, job_id=export.id, kind="ready")


async def create_failed(resources: Resources, database: Connection, message: str) -> Notification:
    user_id = await create_user(database)
    export = await insert_export(resources.exports, database, user_id=user_id, queued=False)
    await resources.exports.fail(database, export, message=message, cause="DocumentError")
    return await resources.notifications.create(database, job_id=export.id, kind="failed")


async def find(database: Connection, notification: Notification) -> asyncpg.Record:
    row = await database.fetchrow("SELECT * FROM carryout.export_notifications WHERE id = $1", notification.id)
    assert row
    return row


async def make_due(database: Connection) -> None:
    await database.execute("UPDATE carryout.export_notifications SET next_attempt_at = now() WHERE state = 'pending'")


async def lose_lease(database: Connection) -> None:
    await database.execute("UPDATE carryout.export_notifications SET lease_expires_at = now() WHERE state = 'sending'")


async def outcomes(database: Connection) -> list[tuple[str, str]]:
    events = [(event["action"], event["outcome"]) for event in await list_audit(database)]
    return [event for event in events if event[0] == "export:emailed"]


async def assert_skipped(database: Connection, smtp: SmtpServer, notification: Notification, cause: str) -> None:
    row = await find(database, notification)
    assert (row["state"], row["last_error"]) == ("skipped", cause)
    assert smtp.commands == []


async def test_a_mail_is_sent_once(resources: Resources, database: Connection, smtp: SmtpServer) -> None:
    wanted = await create_ready(resources, database)

    assert await send_due_mails(resources, limit=10) == 1
    assert await send_due_mails(resources, limit=10) == 0

    row = await find(database, wanted)
    assert (row["state"], row["attempts"], row["last_error"]) == ("sent", 1, None)
    assert await outcomes(database) == [("export:emailed", "sent")]
    assert [mail.recipients for mail in smtp.mails] == [["RCPT TO:<ada@example.org>"]]
    assert smtp.mails[0].message["Message-ID"] == wanted.message_id
    assert wanted.message_id.endswith("@example.com>")


async def test_the_link_in_the_mail_is_the_exports(
    resources: Resources, database: Connection, smtp: SmtpServer
) -> None:
    wanted = await create_ready(resources, database)
    await send_due_mails(resources, limit=10)

    export = await resources.exports.find(database, wanted.job_id)
    assert export
    assert export.expires_at
    link = resources.links.sign(export.id, export.expires_at)
    text = smtp.mails[0].message.get_body(("plain",))
    assert text
    assert f"\r\n{resources.settings.public_url}/api/export/{export.id}/download?{link}\r\n" in text.get_content()


async def test_a_failure_is_announced(resources: Resources, database: Connection, smtp: SmtpServer) -> None:
    await create_failed(resources, database, "The data could not be read")

    await send_due_mails(resources, limit=10)

    assert smtp.mails[0].message["Subject"] == "Your data export failed"
    assert b"The data could not be read" in smtp.mails[0].content


async def test_it_goes_to_the_address_of_this_moment(
    resources: Resources, database: Connection, smtp: SmtpServer
) -> None:
    await create_ready(resources, database, email="old@example.org")
    await database.execute("UPDATE public.users SET email = 'new@example.org'")

    await send_due_mails(resources, limit=10)

    assert [mail.recipients for mail in smtp.mails] == [["RCPT TO:<new@example.org>"]]


async def test_workers_at_once_send_one_mail(resources: Resources, database: Connection, smtp: SmtpServer) -> None:
    for n in range(5):
        await create_ready(resources, database, email=f"user{n}@example.org")

    await asyncio.gather(*(send_due_mails(resources, limit=3) for _ in range(4)))
    await send_due_mails(resources, limit=10)

    assert sorted(mail.recipients for mail in smtp.mails) == [[f"RCPT TO:<user{n}@example.org>"] for n in range(5)]


async def test_a_worker_does_not_wait_for_another_workers_claim(resources: Resources, database: Connection) -> None:
    await create_ready(resources, database)

    async with database.transaction(), resources.database.acquire() as other, other.transaction():
        await other.execute("SET LOCAL lock_timeout = '1s'")
        assert await resources.notifications.claim_due(database, limit=1)
        assert await resources.notifications.claim_due(other, limit=10) == []


async def test_the_longest_due_comes_first(resources: Resources, database: Connection) -> None:
    mails = [await create_ready(resources, database, email=f"user{n}@example.org") for n in range(3)]
    for minutes, mail in zip((2, 3, 1), mails, strict=True):
        due = (
            "UPDATE carryout.export_notifications SET next_attempt_at = now() - make_interval(mins => $2) WHERE id = $1"
        )
        await database.execute(due, mail.id, minutes)

    claimed = [await resources.notifications.claim_due(database, limit=1) for _ in mails]

    assert [mail.id for batch in claimed for mail in batch] == [mails[1].id, mails[0].id, mails[2].id]


# A worker is lost


async def test_a_worker_lost_before_the_mail_left_it_to_another(
    resources: Resources, database: Connection, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await create_ready(resources, database)
    smtp.replies["RCPT"] = HANG
    await _lose_worker(resources, smtp, monkeypatch)

    assert await send_due_mails(resources, limit=10) == 0
    smtp.replies.clear()
    await lose_lease(database)
    assert await send_due_mails(resources, limit=10) == 1

    row = await find(database, wanted)
    assert (row["state"], row["attempts"]) == ("sent", 2)
    assert len(smtp.mails) == 1


async def test_a_worker_lost_inside_the_mail_leaves_it_ambiguous(
    resources: Resources, database: Connection, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await create_ready(resources, database)
    smtp.replies["MESSAGE"] = HANG
    await _lose_worker(resources, smtp, monkeypatch)

    smtp.replies.clear()
    await lose_lease(database)
    await send_due_mails(resources, limit=1)
    assert await send_due_mails(resources, limit=10) == 0

    assert (await find(database, wanted))["state"] == "ambiguous"
    assert await outcomes(database) == [("export:emailed", "ambiguous: its worker was lost")]
    assert smtp.commands.count("DATA") == 1


async def _lose_worker(resources: Resources, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut it off where the server hangs: nothing is tidied up, as after SIGKILL."""
    monkeypatch.setattr(outbox, "STOP_SECONDS", 0)
    worker = asyncio.create_task(send_due_mails(resources, limit=1))
    await smtp.hanging.wait()
    worker.cancel()
    with suppress(asyncio.CancelledError):
        await worker


async def test_a_worker_that_lost_its_claim_sends_nothing(
    resources: Resources, database: Connection, smtp: SmtpServer
) -> None:
    wanted = await create_ready(resources, database)
    smtp.replies["RCPT"] = HANG
    late = asyncio.create_task(send_due_mails(resources, limit=1))
    await smtp.hanging.wait()
    await lose_lease(database)
    smtp.replies.clear()
    await send_due_mails(resources, limit=10)
    smtp.go_on.set()
    await late

    assert smtp.commands.count("DATA") == len(smtp.mails) == 1
    row = await find(database, wanted)
    assert (row["state"], row["attempts"]) == ("sent", 2)


async def test_an_expired_claim_may_not_begin(resources: Resources, database: Connection) -> None:
    await create_ready(resources, database)
    [claimed] = await resources.notifications.claim_due(database, limit=1)
    await lose_lease(database)

    with pytest.raises(EntrySupersededError):
        await resources.notifications.begin_data(database, claimed)


async def test_a_stopping_worker_hears_the_answer(resources: Resources, database: Connection, smtp: SmtpServer) -> None:
    wanted = await create_ready(resources, database)
    smtp.replies["MESSAGE"] = HANG
    sending = asyncio.create_task(send_due_mails(resources, limit=10))
    await smtp.hanging.wait()

    sending.cancel()
    await asyncio.sleep(0)
    smtp.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await sending

    assert (await find(database, wanted))["state"] == "sent"


# The server refuses, or goes silent


@pytest.mark.parametrize("reply", [DROP, HANG])
async def test_a_doubtful_mail_is_never_sent_again(
    resources: Resources, database: Connection, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch, reply: str
) -> None:
    monkeypatch.setattr(mailer_module, "CONVERSATION_SECONDS", 4.0)
    wanted = await create_ready(resources, database)
    smtp.replies["MESSAGE"] = reply

    await send_due_mails(resources, limit=10)
    smtp.replies.clear()
    await send_due_mails(resources, limit=10)

    assert (await find(database, wanted))["state"] == "ambiguous"
    assert [event for event, _ in await outcomes(database)] == ["export:emailed"]
    assert smtp.commands.count("DATA") == 1


async def test_a_refused_mail_has_failed(resources: Resources, database: Connection, smtp: SmtpServer) -> None:
    wanted = await create_ready(resources, database)
    smtp.replies["RCPT"] = "550 5.1.1 no such user"

    await send_due_mails(resources, limit=10)
    await send_due_mails(resources, limit=10)

    assert (await find(database, wanted))["state"] == "failed"
    assert await outcomes(database) == [("export:emailed", "failed: RCPT answered 550 5.1.1")]
    assert smtp.commands[-1] == "QUIT"


async def test_a_refusal_of_us_is_an_outage(resources: Resources, database: Connection, smtp: SmtpServer) -> None:
    wanted = await create_ready(resources, database)
    smtp.replies["RCPT"] = "554 5.7.1 <ada@example.org>: Relay access denied"
    await send_due_mails(resources, limit=10)
    row = await find(database, wanted)
    smtp.replies.clear()
    await make_due(database)
    await send_due_mails(resources, limit=10)

    cause = "RCPT answered 554 5.7.1: [address]: Relay access denied"
    assert (row["state"], row["last_error"]) == ("pending", cause)
    assert await outcomes(database) == [("export:emailed", "sent")]


@pytest.mark.parametrize("email", [" ada..x@example.org\t", ".ada@example.org"])
async def test_an_address_in_use_gets_the_mail(
    resources: Resources, database: Connection, smtp: SmtpServer, email: str
) -> None:
    await create_ready(resources, database, email=email)

    await send_due_mails(resources, limit=10)

    local = email.strip().partition("@")[0]
    assert [mail.recipients for mail in smtp.mails] == [[f'RCPT TO:<"{local}"@example.org>']]


@pytest.mark.parametrize("step", ["RCPT", "DATA", "MESSAGE"])
async def test_a_postponed_mail_waits_and_is_sent(
    resources: Resources, database: Connection, smtp: SmtpServer, step: str
) -> None:
    wanted = await create_ready(resources, database)
    smtp.replies[step] = "451 later"
    await send_due_mails(resources, limit=10)
    row = await find(database, wanted)
    smtp.replies.clear()

    assert (row["state"], row["data_started_at"], row["last_error"].endswith("answered 451")) == ("pending", None, True)
    assert await send_due_mails(resources, limit=10) == 0
    await make_due(database)
    assert await send_due_mails(resources, limit=10) == 1
    assert [mail.message["Message-ID"] for mail in smtp.mails] == [wanted.message_id]
    assert await outcomes(database) == [("export:emailed", "sent")]


async def test_waits_grow(resources: Resources, database: Connection) -> None:
    await create_ready(resources, database)
    waits = []

    async with database.transaction():  # in which now() stands still
        for _ in range(6):
            await make_due(database)
            [claimed] = await resources.notifications.claim_due(database, limit=1)
            retried = await resources.notifications.retry(database, claimed, cause="451")
            waits.append((retried.next_attempt_at - await database.fetchval("SELECT now()")).total_seconds())

    assert waits == [30, 120, 600, 3_600, 14_400, 14_400]


async def test_after_a_day_it_has_failed(resources: Resources, database: Connection, smtp: SmtpServer) -> None:
    wanted = await create_ready(resources, database)
    await database.execute("UPDATE carryout.export_notifications SET created_at = now() - interval '24 hours'")
    smtp.replies["MAIL"] = "451 later"

    await send_due_mails(resources, limit=10)

    assert (await find(database, wanted))["state"] == "failed"
    assert await outcomes(database) == [("export:emailed", "failed: MAIL answered 451: later")]


async def test_a_mail_that_kills_workers_has_failed_after_a_day(
    resources: Resources, database: Connection, smtp: SmtpServer
) -> None:
    wanted = await create_ready(resources, database)
    await resources.notifications.claim_due(database, limit=1)
    await lose_lease(database)
    await database.execute("UPDATE carryout.export_notifications SET created_at = now() - interval '24 hours'")

    assert await send_due_mails(resources, limit=10) == 0
    assert (await find(database, wanted))["state"] == "failed"
    assert await outcomes(database) == [("export:emailed", "failed: its worker was lost")]


# No recipient, or nothing to announce


@pytest.mark.parametrize(
    "email",
    [
        "",
        "a@x.example, b@y.example",
        "ada@example.org\r\nBcc: eve@example.org",
        "ada@example.org>\r\nRCPT TO:<eve@example.org",
        "Ada <ada@example.org>",
        "x" * 255 + "@example.org",
    ],
)
async def test_a_bad_address_gets_no_mail(
    resources: Resources, database: Connection, smtp: SmtpServer, email: str
) -> None:
    wanted = await create_ready(resources, database, email=email)

    await send_due_mails(resources, limit=10)

    cause = "the application's address for this user is not one valid address"
    await assert_skipped(database, smtp, wanted, cause)
    assert await outcomes(database) == [("export:emailed", f"skipped: {cause}")]


async def test_an_erased_user_gets_no_mail(resources: Resources, database: Connection, smtp: SmtpServer) -> None:
    wanted = await create_ready(resources, database)
    await database.execute("DELETE FROM public.users")

    await send_due_mails(resources, limit=10)

    await assert_skipped(database, smtp, wanted, "the application has no address for this user")


async def test_a_profile_without_addresses_means_no_mails(
    resources: Resources, database: Connection, smtp: SmtpServer
) -> None:
    wanted = await create_ready(resources, database)
    profile = resources.datasets[0]
    columns = tuple(column for column in profile.columns if column.name != "email")
    bare = Dataset(profile.name, "SELECT id FROM public.users WHERE id = $1\n", columns, profile.tables)

    await send_due_mails(dataclasses.replace(resources, datasets=(bare,)), limit=10)

    await assert_skipped(database, smtp, wanted, "the application has no address for this user")


@pytest.mark.parametrize(
    "change", ["expires_at = now()", "expires_at = now() - interval '1 day', file_deleted_at = now()"]
)
async def test_a_link_that_has_ended_is_not_announced(
    resources: Resources, database: Connection, smtp: SmtpServer, change: str
) -> None:
    wanted = await create_ready(resources, database)
    await database.execute(f"UPDATE carryout.export_jobs SET {change}")

    await send_due_mails(resources, limit=10)

    await assert_skipped(database, smtp, wanted, "the mail is out of date")


async def test_an_unreadable_source_is_tried_again(
    resources: Resources, database: Connection, smtp: SmtpServer
) -> None:
    wanted = await create_ready(resources, database)
    await database.execute("ALTER TABLE public.users RENAME TO people")
    await send_due_mails(resources, limit=10)
    row = await find(database, wanted)
    await database.execute("ALTER TABLE public.people RENAME TO users")
    await make_due(database)
    await send_due_mails(resources, limit=10)

    assert (row["state"], row["last_error"]) == ("pending", "reading the user's address failed: UndefinedTableError")
    assert len(smtp.mails) == 1


async def test_an_address_that_row_level_security_hides_is_tried_again(
    resources: Resources, database: Connection, smtp: SmtpServer
) -> None:
    """Without an error, the user would look erased, and the mail would be skipped."""
    wanted = await create_ready(resources, database)
    await database.execute("ALTER TABLE public.users ENABLE ROW LEVEL SECURITY")

    await send_due_mails(resources, limit=10)

    row = await find(database, wanted)
    assert (row["state"], smtp.mails) == ("pending", [])
    assert row["last_error"] == "reading the user's address failed: InsufficientPrivilegeError"


async def test_a_user_of_an_infinite_age_gets_the_mail(
    resources: Resources, database: Connection, smtp: SmtpServer
) -> None:
    wanted = await create_ready(resources, database)
    await database.execute("UPDATE public.users SET created_at = 'infinity'")

    await send_due_mails(resources, limit=10)

    assert (await find(database, wanted))["state"] == "sent"


async def test_a_stuck_source_holds_up_no_mails(
    resources: Resources, database: Connection, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LEASE_SECONDS", 0.5)
    wanted = await create_ready(resources, database)
    async with database.transaction():
        await database.execute("LOCK TABLE public.users")
        with structlog.testing.capture_logs() as logs:
            assert await send_due_mails(resources, limit=10) == 1
    monkeypatch.undo()
    await lose_lease(database)
    await send_due_mails(resources, limit=10)

    row = await find(database, wanted)
    assert (row["state"], row["attempts"], len(smtp.mails)) == ("sent", 2, 1)
    assert [(line["event"], line["cause"]) for line in logs] == [("mail_attempt_failed", "its lease ran out")]


# Logs and records


async def test_one_broken_attempt_stops_no_other(resources: Resources, database: Connection, smtp: SmtpServer) -> None:
    broken, fine = [await create_ready(resources, database, email=f"{name}@example.org") for name in ("eve", "ada")]
    await database.execute(
        "ALTER TABLE carryout.export_notifications ADD CHECK (id <> $1 OR data_started_at IS NULL)".replace(
            "$1", str(broken.id)
        )
    )

    with structlog.testing.capture_logs() as logs:
        assert await send_due_mails(resources, limit=10) == 2

    assert (await find(database, broken))["state"] == "sending"
    assert (await find(database, fine))["state"] == "sent"
    assert "mail_attempt_failed" in [line["event"] for line in logs]


@pytest.mark.parametrize("reply", ["250 ok", "451 <ada@example.org>", "550 <ada@example.org>", DROP])
async def test_logs_and_records_hold_no_address_and_no_link(
    resources: Resources, database: Connection, smtp: SmtpServer, reply: str
) -> None:
    wanted = await create_ready(resources, database)
    smtp.replies["RCPT"] = reply

    with structlog.testing.capture_logs() as logs:
        await send_due_mails(resources, limit=10)

    row = await find(database, wanted)
    written = f"{logs} {row['last_error']} {[tuple(event) for event in await list_audit(database)]}"
    assert [line["event"] for line in logs] == ["mail_attempted"]
    assert "example.org" not in written
    assert "signature" not in written


async def test_the_database_knows_which_states_are_possible(resources: Resources, database: Connection) -> None:
    wanted = await create_ready(resources, database)
    [claimed] = await resources.notifications.claim_due(database, limit=1)

    with pytest.raises(asyncpg.CheckViolationError):  # sent, but never begun
        await resources.notifications.end(database, claimed, EntryState.SENT)
    with pytest.raises(asyncpg.UniqueViolationError):
        await resources.notifications.create(database, job_id=wanted.job_id, kind="ready")

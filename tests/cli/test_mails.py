"""The operators' commands about mails: what is listed, what is sent again, and what would be sent."""

from collections.abc import Awaitable, Callable
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from devstack.stack import Stack
from languages.choice import LANGUAGES
from service.bookkeeping.mails import Notification
from service.mails.sending import send_due_mails
from service.resources import Resources
from service.settings import Settings
from tests.branding.test_processes import brand_environ
from tests.conftest import PUBLIC_URL
from tests.mails.test_sending import create_ready, find, lose_lease, make_due
from tests.sql.databases import database_environ
from tests.support import processes
from tests.support.factories import Connection, list_audit, refuse_audit
from tests.support.processes import Ended, Run
from tests.support.smtp import DROP, SmtpServer
from tests.test_settings import REQUIRED

NOTHING = "nothing to resend: each such mail was sent, or is due\n"
Attempt = Callable[..., Awaitable[Notification]]
UNKNOWN = "550 5.1.1 unknown"


@pytest.fixture
def settings(settings: Settings, smtp: SmtpServer) -> Settings:
    return msgspec.structs.replace(settings, smtp_url=smtp.url)


@pytest.fixture
def run(stack: Stack, database_url: str) -> Run:
    async def ended(*arguments: str) -> Ended:
        urls = database_environ(stack, database_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
        return await processes.run(stack.environ | urls, "mails", *arguments)

    return ended


async def show(run: Run, *arguments: str) -> list[dict[str, Any]]:
    ended = await run("list", "--json", *arguments)
    assert (ended.status, ended.err) == (0, "")
    return [msgspec.json.decode(line) for line in ended.out.splitlines()]


@pytest.fixture
def attempt(resources: Resources, database: Connection, smtp: SmtpServer) -> Attempt:
    """A mail that was attempted once, with these replies of the server."""

    async def attempted(email: str = "ada@example.org", **replies: str) -> Notification:
        wanted = await create_ready(resources, database, email=email)
        smtp.replies = replies
        await send_due_mails(resources, limit=10)
        smtp.replies = {}
        return wanted

    return attempted


async def resent(database: Connection) -> list[str]:
    return [str(event["job_id"]) for event in await list_audit(database) if event["action"] == "export:mail_resent"]


class TestList:
    async def test_table(self, run: Run, attempt: Attempt) -> None:
        waiting = await attempt(RCPT="554 5.7.1 <ada@example.org>: Relay access denied")
        failed = await attempt(RCPT=UNKNOWN, email="bob@example.org")

        header, first, second = (await run("list")).table

        assert header == [
            "export",
            "user",
            "kind",
            "state",
            "attempts",
            "wanted",
            "next attempt",
            "ended",
            "last reply",
        ]
        assert [first[0], *first[2:5]] == [str(failed.job_id), "ready", "failed", "1"]
        assert (first[6], first[8]) == ("-", "RCPT answered 550 5.1.1")
        assert [second[0], *second[2:5]] == [str(waiting.job_id), "ready", "pending", "1"]
        assert second[7:] == ["-", "RCPT answered 554 5.7.1: [address]: Relay access denied"]

    async def test_json(self, run: Run, attempt: Attempt) -> None:
        assert await show(run) == []
        wanted = await attempt(MAIL="530 5.7.0 Must issue a STARTTLS command first")
        (mail,) = await show(run)
        assert mail.pop("next_attempt_at") > mail.pop("created_at") >= mail.pop("export_created_at")
        assert len(mail.pop("user_id")) == 36
        assert mail == {
            "job_id": str(wanted.job_id),
            "kind": "ready",
            "state": "pending",
            "attempts": 1,
            "ended_at": None,
            "refused": True,
            "last_reply": "MAIL answered 530 5.7.0: Must issue a STARTTLS command first",
        }

    async def test_addresses_are_shown_if_asked_for(self, run: Run, attempt: Attempt) -> None:
        await attempt(RCPT=UNKNOWN, email=" ada..x@example.org")
        plain = await run("list")
        asked = await run("list", "--addresses")
        (mail,) = await show(run, "--addresses")
        assert (plain.status, asked.status, asked.err) == (0, 0, "")
        assert "example.org" not in plain.out
        assert asked.table[0][-1] == "address"
        assert asked.table[1][-1] == mail["address"].strip() == "ada..x@example.org"

    async def test_an_erased_user_has_no_address(self, run: Run, database: Connection, attempt: Attempt) -> None:
        await attempt(RCPT=UNKNOWN)
        await database.execute("DELETE FROM public.users")
        (mail,) = await show(run, "--addresses")
        assert mail["address"] is None

    async def test_filters(self, run: Run, database: Connection, attempt: Attempt) -> None:
        old = await attempt()
        await database.execute("UPDATE carryout.export_notifications SET created_at = now() - interval '2 days'")
        new = await attempt(RCPT=UNKNOWN, email="bob@example.org")
        user = (await show(run, "--state", "sent"))[0]["user_id"]
        for arguments, wanted in (
            (("--state", "failed"), [new]),
            (("--since", "24h"), [new]),
            (("--user", user), [old]),
            (("--limit", "1"), [new]),
            (("--state", "skipped"), []),
        ):
            assert [mail["job_id"] for mail in await show(run, *arguments)] == [str(mail.job_id) for mail in wanted]


class TestResend:
    async def test_a_failed_mail_is_sent(
        self, run: Run, resources: Resources, database: Connection, smtp: SmtpServer, attempt: Attempt
    ) -> None:
        wanted = await attempt(RCPT=UNKNOWN)

        ended = await run("resend", str(wanted.job_id))
        again = await run("resend", str(wanted.job_id))
        await send_due_mails(resources, limit=10)
        last = await run("resend", str(wanted.job_id))

        assert (ended.status, ended.out) == (0, "mails to send again: 1 (a worker does it within seconds)\n")
        assert [(each.status, each.out, each.err) for each in (again, last)] == [(0, NOTHING, "")] * 2
        row = await find(database, wanted)
        assert (row["state"], row["attempts"], len(smtp.mails)) == ("sent", 2, 1)
        assert smtp.mails[0].message["Message-ID"] == wanted.message_id
        assert await resent(database) == [str(wanted.job_id)]

    @pytest.mark.parametrize(
        ("replies", "email"),
        [({"MESSAGE": DROP}, "ada@example.org"), ({}, "no address")],
        ids=["ambiguous", "skipped"],
    )
    async def test_other_ends_only_by_name(  # noqa: PLR0913, PLR0917 (fixtures and parameters)
        self,
        run: Run,
        resources: Resources,
        database: Connection,
        replies: dict[str, str],
        email: str,
        attempt: Attempt,
    ) -> None:
        wanted = await attempt(email=email, **replies)
        await database.execute("UPDATE public.users SET email = 'mended@example.org'")

        assert (await run("resend", "--failed-since", "1h")).out == NOTHING
        await run("resend", str(wanted.job_id))
        await send_due_mails(resources, limit=10)

        assert (await find(database, wanted))["state"] == "sent"

    async def test_all_that_failed_lately(self, run: Run, database: Connection, attempt: Attempt) -> None:
        old, new, sent = [
            await attempt(email=f"{n}@example.org", **({"RCPT": UNKNOWN} if n < 2 else {})) for n in range(3)
        ]
        await database.execute(
            "UPDATE carryout.export_notifications SET ended_at = now() - interval '2 days' WHERE id = $1", old.id
        )

        ended = await run("resend", "--failed-since", "24h")

        assert ended.out.startswith("mails to send again: 1 ")
        assert [(await find(database, mail))["state"] for mail in (old, new, sent)] == ["failed", "pending", "sent"]
        assert await resent(database) == [str(new.job_id)]

    async def test_what_waits_is_tried_at_once(
        self, run: Run, resources: Resources, database: Connection, attempt: Attempt
    ) -> None:
        refused = await attempt(RCPT="554 5.7.1 Relay access denied")
        postponed = await attempt(RCPT="451 4.3.0 later", email="bob@example.org")

        assert (await run("resend", "--failed-since", "1h")).out.startswith("mails to send again: 2 ")
        assert (await run("resend", "--failed-since", "1h")).out == NOTHING
        await send_due_mails(resources, limit=10)
        assert [(await find(database, mail))["state"] for mail in (refused, postponed)] == ["sent", "sent"]

    async def test_the_day_of_retries_begins_again(
        self, run: Run, resources: Resources, database: Connection, smtp: SmtpServer, attempt: Attempt
    ) -> None:
        wanted = await attempt(RCPT=UNKNOWN)
        await database.execute(
            "UPDATE carryout.export_notifications SET attempts = 9, created_at = now() - interval '3 days'"
        )
        await run("resend", str(wanted.job_id))
        smtp.replies = {"MAIL": "451 later"}
        await send_due_mails(resources, limit=10)
        row = await find(database, wanted)

        assert (row["state"], row["attempts"]) == ("pending", 10)
        assert (row["next_attempt_at"] - row["resent_at"]).total_seconds() < 60

    async def test_a_lost_worker_leaves_a_resent_mail_to_another(
        self, run: Run, resources: Resources, database: Connection, attempt: Attempt
    ) -> None:
        wanted = await attempt(RCPT=UNKNOWN)
        await database.execute("UPDATE carryout.export_notifications SET created_at = now() - interval '3 days'")
        await run("resend", str(wanted.job_id))
        await resources.notifications.claim_due(database, limit=1)
        await lose_lease(database)
        await send_due_mails(resources, limit=10)

        assert (await find(database, wanted))["state"] == "sent"

    async def test_without_its_audit_event_nothing_is_resent(
        self, run: Run, database: Connection, attempt: Attempt
    ) -> None:
        wanted = await attempt(RCPT=UNKNOWN)
        await refuse_audit(database, "export:mail_resent")

        assert (await run("resend", str(wanted.job_id))).status != 0
        assert (await find(database, wanted))["state"] == "failed"

    @pytest.mark.parametrize(
        ("arguments", "status", "sentence"),
        [
            ((), 2, "Give either JOB_ID or --failed-since."),
            (("018f0000-0000-7000-8000-000000000000", "--failed-since", "1h"), 2, "Give either"),
            (("018f0000-0000-7000-8000-000000000000",), 1, "carryout: Export not found\n"),
        ],
        ids=["neither", "both", "unknown"],
    )
    async def test_wrong_arguments(self, run: Run, arguments: tuple[str, ...], status: int, sentence: str) -> None:
        ended = await run("resend", *arguments)
        assert (ended.status, ended.out) == (status, "")
        assert sentence in ended.err


async def test_mails_that_are_refused_are_counted(
    resources: Resources, database: Connection, smtp: SmtpServer, attempt: Attempt
) -> None:
    async def count() -> float:
        text, _ = await resources.metrics.render(resources.database, "")
        (line,) = [line for line in text.decode().splitlines() if line.startswith("carryout_mails_refused ")]
        return float(line.split()[1])

    assert await count() == 0
    await attempt(RCPT="554 5.7.1 Relay access denied")
    assert await count() == 1
    await make_due(database)
    smtp.replies = {"RCPT": "451 4.3.0 later"}
    await send_due_mails(resources, limit=10)
    assert await count() == 0


async def test_preview_writes_what_would_be_sent(run: Run, tmp_path: Path) -> None:
    ended = await run("preview", "--language", "de", "--output", str(tmp_path / "mails"))
    assert (ended.status, ended.err) == (0, "")
    files = {path.name: path for path in (tmp_path / "mails").iterdir()}
    assert sorted(files) == ["failed.de.eml", "failed.de.html", "ready.de.eml", "ready.de.html"]
    assert ended.out.splitlines() == [str(files[name]) for name in ("ready.de.eml", "failed.de.eml")]
    mail = BytesParser(policy=policy.default).parsebytes(files["ready.de.eml"].read_bytes())
    assert mail["Subject"] == "Ihr Datenexport ist bereit"
    assert "Der Link funktioniert bis zum <strong>8. März 2026" in files["ready.de.html"].read_text()


async def test_preview_is_in_the_operator_s_name(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = brand_environ(tmp_path / "own")
    ended = await processes.run(REQUIRED | own, "mails", "preview", "--language", "en", "--output", tmp_path / "mails")
    assert (ended.status, ended.err) == (0, "")
    mail = BytesParser(policy=policy.default).parsebytes((tmp_path / "mails" / "ready.en.eml").read_bytes())
    assert mail["Subject"] == "Your files from Acme & Sons"
    assert "data:image/png;base64," in (tmp_path / "mails" / "ready.en.html").read_text()
    (tmp_path / "own" / "templates" / "ready.txt").write_text("{{ usr }}")
    ended = await processes.run(REQUIRED | own, "mails", "preview", "--output", tmp_path / "mails")
    assert (ended.status, ended.err) == (2, "carryout: CARRYOUT_TEMPLATES_DIR: ready.txt, line 1: 'usr' is undefined\n")


async def test_preview_writes_every_language(run: Run, tmp_path: Path) -> None:
    ended = await run("preview", "--output", str(tmp_path))
    assert len(ended.out.splitlines()) == len(list(tmp_path.glob("*.eml"))) == 2 * len(LANGUAGES)

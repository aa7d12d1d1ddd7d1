"""Mails through a real Postfix, as its administrators set it up."""

import uuid
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec
import pytest

from devstack.stack import Stack
from service.backends.failures import OTHER_NAME, UNTRUSTED
from service.backends.smtp import Mailer
from service.backends.smtp_replies import Delivery, Outcome
from service.mails.messages import compose
from service.mails.samples import READY
from service.mails.sending import send_due_mails
from service.resources import open_resources
from service.settings import Settings
from tests.compat.dovecot import OPAQUE_TOKEN, PASSWORD, USER, create_login_token
from tests.compat.postfix import Postfix
from tests.faults.world import open_world
from tests.mails.test_sending import create_ready, find, make_due
from tests.support.factories import Connection
from tests.support.mails import ADA, MAIL_FROM


class Sender(NamedTuple):
    """The settings beside CARRYOUT_SMTP_URL."""

    ehlo_name: str = "exports.example.com"
    ca_file: str = ""
    token_file: str = ""


async def send(url: str, recipient: str = ADA, sender: Sender | None = None) -> tuple[Delivery, str]:
    """The delivery and the mail's Message-ID."""

    async def nothing() -> None:
        pass

    mailer = Mailer(url, MAIL_FROM, **(sender or Sender())._asdict())
    message_id = f"<{uuid.uuid4()}@example.com>"
    message = compose("ready", sender=mailer.sender, recipient=recipient, message_id=message_id, facts=READY)
    return await mailer.send(message, recipient, before_data=nothing), message_id


@pytest.mark.parametrize("way", ["plain", "denying", "strict", "ancient"])
async def test_a_mail_is_delivered(postfix: Postfix, way: str) -> None:
    delivery, message_id = await send(postfix.url(way))

    assert delivery == Delivery(Outcome.SENT)
    mail = await postfix.delivered("ada", message_id)
    assert (mail["To"], mail["From"]) == (ADA, MAIL_FROM)
    text = mail.get_body(("plain",))
    assert text
    assert str(READY["url"]) in text.get_content()


@pytest.mark.parametrize(("address", "mailbox"), [('"ada..x"@example.org', "dots"), ("jürgen@example.org", "utf8")])
async def test_uncommon_addresses_are_delivered(postfix: Postfix, address: str, mailbox: str) -> None:
    delivery, message_id = await send(postfix.url("plain"), address)

    assert delivery == Delivery(Outcome.SENT)
    mail = await postfix.delivered(mailbox, message_id)
    assert mail["To"] == address.replace('"', "")  # as email shows it


@pytest.mark.parametrize(("scheme", "way"), [("smtp", "encrypted"), ("smtps", "wrapped")])
async def test_a_mail_is_delivered_by_tls(postfix: Postfix, scheme: str, way: str) -> None:
    delivery, message_id = await send(f"{scheme}://localhost:{postfix.ports[way]}", sender=trusting(postfix))

    assert delivery == Delivery(Outcome.SENT)
    await postfix.delivered("ada", message_id)


def trusting(postfix: Postfix, token_file: str = "") -> Sender:
    return Sender(ca_file=str(postfix.authority), token_file=token_file)


@pytest.mark.parametrize(
    ("scheme", "way", "words"),
    [
        ("smtp", "encrypted", UNTRUSTED),
        ("smtps", "wrapped", UNTRUSTED),
        ("smtp", "other", OTHER_NAME),
        ("smtp", "expired", "can't be reached: its certificate has expired"),
    ],
)
async def test_a_wrong_certificate_gets_no_mail(postfix: Postfix, scheme: str, way: str, words: str) -> None:
    sender = None if words == UNTRUSTED else trusting(postfix)
    delivery, _ = await send(f"{scheme}://user:password@localhost:{postfix.ports[way]}", sender=sender)

    assert delivery == Delivery(Outcome.RETRY, f"the server {words}")


class TestLogin:
    async def test_by_password(self, postfix: Postfix) -> None:
        delivery, message_id = await send(f"smtp://{LOGIN}@{host(postfix)}", sender=trusting(postfix))

        assert delivery == Delivery(Outcome.SENT)
        received = str((await postfix.delivered("ada", message_id))["Received"])
        assert f"(Authenticated sender: {USER})" in received
        assert " with ESMTPSA " in received

    async def test_by_token(self, postfix: Postfix, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(create_login_token())
        delivery, message_id = await send(
            f"smtp://{quote(USER)}@{host(postfix)}", sender=trusting(postfix, str(tmp_path / "token"))
        )

        assert delivery == Delivery(Outcome.SENT)
        assert f"(Authenticated sender: {USER})" in str((await postfix.delivered("ada", message_id))["Received"])

    async def test_by_a_token_that_its_issuer_is_asked_about(self, postfix: Postfix, tmp_path: Path) -> None:
        """This server offers XOAUTH2 alone."""
        (tmp_path / "token").write_text(OPAQUE_TOKEN)
        delivery, message_id = await send(
            f"smtp://{quote(USER)}@{host(postfix, 'xoauth2')}", sender=trusting(postfix, str(tmp_path / "token"))
        )

        assert delivery == Delivery(Outcome.SENT)
        assert f"(Authenticated sender: {USER})" in str((await postfix.delivered("ada", message_id))["Received"])

    @pytest.mark.parametrize(("user", "token"), [(USER, "ya29.of-another"), ("ada@example.com", OPAQUE_TOKEN)])
    async def test_a_token_that_its_issuer_does_not_know(
        self, postfix: Postfix, tmp_path: Path, user: str, token: str
    ) -> None:
        (tmp_path / "token").write_text(token)
        delivery, _ = await send(
            f"smtp://{quote(user)}@{host(postfix, 'xoauth2')}", sender=trusting(postfix, str(tmp_path / "token"))
        )

        assert delivery.outcome is Outcome.REFUSED
        assert (delivery.cause or "").startswith("AUTH answered 535 5.7.8: Error: authentication failed: ")

    async def test_a_refused_token_is_an_operator_s_matter(self, postfix: Postfix, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(create_login_token(seconds=-60))
        delivery, _ = await send(
            f"smtp://{quote(USER)}@{host(postfix)}", sender=trusting(postfix, str(tmp_path / "token"))
        )

        assert delivery.outcome is Outcome.REFUSED
        assert (delivery.cause or "").startswith("AUTH answered 535 5.7.8: Error: authentication failed: ")

    async def test_a_wrong_password_is_mended_by_an_operator(
        self, postfix: Postfix, settings: Settings, database: Connection
    ) -> None:
        """Until then the mail waits, and the alert's gauge tells of it."""
        settings = msgspec.structs.replace(settings, ca_file=str(postfix.authority))
        wrong = msgspec.structs.replace(settings, smtp_url=f"smtp://{quote(USER)}:wrong@{host(postfix)}")
        async with open_resources(wrong) as resources:
            wanted = await create_ready(resources, database)
            await send_due_mails(resources, limit=10)
            refused = await find(database, wanted)
        assert (refused["state"], refused["refused"]) == ("pending", True)
        assert refused["last_error"].startswith("AUTH answered 535 5.7.8: Error: authentication failed: ")
        assert "wrong" not in refused["last_error"]

        right = msgspec.structs.replace(settings, smtp_url=f"smtp://{LOGIN}@{host(postfix)}")
        await make_due(database)
        async with open_resources(right) as resources:
            await send_due_mails(resources, limit=10)
        assert (await find(database, wanted))["state"] == "sent"

    async def test_no_password_without_tls(self, postfix: Postfix) -> None:
        """This server offers no login before TLS."""
        delivery, _ = await send(f"smtp://{LOGIN}@{host(postfix)}?starttls=never")

        assert delivery.outcome is Outcome.RETRY
        assert delivery.cause == (
            "the server lacks what CARRYOUT_SMTP_URL asks for: The SMTP AUTH extension is not supported by this "
            "server. "
            "Try connecting via TLS (or STARTTLS)."
        )

    async def test_none_where_one_is_demanded(self, postfix: Postfix) -> None:
        """As Postfix's submission service is set up: its reply names the recipient."""
        delivery, _ = await send(f"smtp://{host(postfix)}", sender=trusting(postfix))

        cause = "RCPT answered 554 5.7.1: [address]: Recipient address rejected: Access denied"
        assert delivery == Delivery(Outcome.REFUSED, cause)


LOGIN = f"{quote(USER)}:{quote(PASSWORD)}"


def host(postfix: Postfix, way: str = "login") -> str:
    return f"localhost:{postfix.ports[way]}"


@pytest.mark.parametrize(
    ("way", "recipient", "cause"),
    [
        ("denying", "x@elsewhere.example", "RCPT answered 554 5.7.1: [address]: Relay access denied"),
        ("plain", "x@elsewhere.example", "RCPT answered 454 4.7.1: [address]: Relay access denied"),
        ("encrypted", ADA, "MAIL answered 530 5.7.0: Must issue a STARTTLS command first"),
        ("closed", ADA, "RCPT answered 554 5.7.1: <localhost[127.0.0.1]>: Client host rejected: Access denied"),
        ("owning", ADA, "RCPT answered 554 5.7.1: [address]: Sender address rejected: Access denied"),
        ("small", ADA, "the message answered 552 5.3.4: Error: message file too big"),
    ],
)
async def test_refusals_of_us(postfix: Postfix, way: str, recipient: str, cause: str) -> None:
    delivery, _ = await send(postfix.url(way), recipient)

    assert delivery == Delivery(Outcome.REFUSED, cause)


@pytest.mark.parametrize("name", ["localhost", "worker-1"])
async def test_a_refusal_of_our_name(postfix: Postfix, name: str) -> None:
    delivery, _ = await send(postfix.url("strict"), sender=Sender(name))

    cause = f"RCPT answered 504 5.5.2: <{name}>: Helo command rejected: need fully-qualified hostname"
    assert delivery == Delivery(Outcome.REFUSED, cause)


async def test_a_server_without_tls_gets_no_mail(postfix: Postfix) -> None:
    delivery, _ = await send(f"smtp://localhost:{postfix.ports['denying']}")

    assert delivery.outcome is Outcome.RETRY
    assert "STARTTLS" in (delivery.cause or "")


@pytest.mark.parametrize(
    ("way", "recipient", "cause"),
    [
        ("plain", "bob@example.org", "RCPT answered 550 5.1.1"),
        ("ancient", "bob@example.org", "RCPT answered 550 5.1.1"),
        ("reading", ADA, "the message answered 550 5.7.1"),
    ],
)
async def test_refusals_of_a_recipient_or_a_message(postfix: Postfix, way: str, recipient: str, cause: str) -> None:
    delivery, _ = await send(postfix.url(way), recipient)

    assert delivery == Delivery(Outcome.FAILED, cause)


async def test_a_greylisted_mail_is_delivered_by_a_later_attempt(
    postfix: Postfix, settings: Settings, database: Connection
) -> None:
    settings = msgspec.structs.replace(settings, smtp_url=postfix.url("greylisting"))
    async with open_resources(settings) as resources:
        wanted = await create_ready(resources, database)
        await send_due_mails(resources, limit=10)
        first = await find(database, wanted)
        await make_due(database)
        await send_due_mails(resources, limit=10)

    assert (first["state"], first["refused"], first["last_error"]) == ("pending", False, "RCPT answered 450 4.7.1")
    assert (await find(database, wanted))["state"] == "sent"
    await postfix.delivered("ada", wanted.message_id)


async def test_a_worker_sends_an_exports_mail_by_tls(stack: Stack, postfix: Postfix, tmp_path: Path) -> None:
    environ = {
        "CARRYOUT_SMTP_URL": f"smtp://localhost:{postfix.ports['encrypted']}",
        "CARRYOUT_PUBLIC_URL": "https://exports.example.com",
        "CARRYOUT_CA_FILE": str(postfix.authority),
    }
    async with open_world(stack, tmp_path, **environ) as world:
        user_id = await world.create_user(records=4)
        async with world.database() as connection:
            await connection.execute("UPDATE public.users SET email = ' ada..x@example.org'")
        export = await world.ask(user_id)
        await world.start_worker()
        async with world.database() as connection:

            async def is_sent() -> bool:
                query = "SELECT message_id FROM carryout.export_notifications WHERE job_id = $1 AND state = 'sent'"
                return await connection.fetchval(query, export.id) is not None

            await world.until(is_sent, "the mail to be sent")
            message_id = await connection.fetchval("SELECT message_id FROM carryout.export_notifications")
    mail = await postfix.delivered("dots", message_id)

    received = str(mail["Received"])
    assert received.startswith("from exports.example.com (localhost [127.0.0.1])")
    assert " with ESMTPS " in received

"""What mails say, and how conversations with a real mail server end."""

import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from uuid import UUID

import pytest

from service import mailer as mailer_module
from service.errors import ConfigurationError
from service.mailer import Delivery, Mailer, MailServer, Outcome, is_address, parse_mail_from, parse_smtp_url
from tests.certificates import write_certificate
from tests.smtp import DROP, HANG, SmtpServer, open_smtp_server

MAIL_FROM = "Carryout <exports@example.com>"
MESSAGE_ID = "<7d9b8d62-0d5a-4d27-8f07-2a9f0ed7a1c4@example.com>"
ADA = "ada@example.org"
LACKS = "the server lacks what CARRYOUT_SMTP_URL asks for:"
READY: dict[str, object] = {
    "created_at": datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
    "expires_at": datetime(2026, 3, 8, 9, 31, 59, tzinfo=UTC),
    "format": "csv",
    "records": 54_321,
    "size_bytes": 12_345_678,
    "sha256": "5f" * 32,
    "url": f"https://exports.example.com/api/export/{UUID(int=1)}/download?expires=1772962319&signature={'s' * 43}",
}
FAILED: dict[str, object] = {
    "created_at": READY["created_at"],
    "format": "json",
    "job_id": UUID(int=1),
    "error_message": "The data could not be read",
}


@pytest.fixture
async def server() -> AsyncIterator[SmtpServer]:
    async with open_smtp_server() as smtp:
        yield smtp


async def nothing() -> None:
    pass


def ready_mail(mailer: Mailer, recipient: str = ADA) -> EmailMessage:
    return mailer.compose("ready", recipient=recipient, message_id=MESSAGE_ID, facts=READY)


async def send(url: str, recipient: str = ADA) -> Delivery:
    mailer = Mailer(url, MAIL_FROM)
    return await mailer.send(ready_mail(mailer, recipient), recipient, before_data=nothing)


def parts(message: EmailMessage) -> tuple[str, str]:
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text
    assert html
    return text.get_content(), html.get_content()


async def test_an_accepted_mail_went_to_one_recipient(server: SmtpServer) -> None:
    delivery = await send(server.url)

    assert delivery == Delivery(Outcome.SENT)
    assert [mail.recipients for mail in server.mails] == [[f"RCPT TO:<{ADA}>"]]
    assert server.commands[1] == "MAIL FROM:<exports@example.com>"


async def test_a_mail_arrives_as_it_was_written(server: SmtpServer) -> None:
    mailer = Mailer(server.url, MAIL_FROM)
    message = mailer.compose(
        "failed", recipient=ADA, message_id=MESSAGE_ID, facts=FAILED | {"error_message": ".\n..\n.x"}
    )

    await mailer.send(message, ADA, before_data=nothing)

    assert server.mails[0].content == message.as_bytes()
    assert b"\r\n.\r\n..\r\n.x\r\n" in server.mails[0].content


@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "MESSAGE"])
async def test_a_passing_refusal_is_tried_again(server: SmtpServer, step: str) -> None:
    server.replies[step] = "451 4.3.0 not now"

    assert (await send(server.url)).outcome is Outcome.RETRY
    assert server.mails == []


async def test_a_busy_server_is_tried_again(server: SmtpServer) -> None:
    server.replies["CONNECT"] = "421 busy"

    assert await send(server.url) == Delivery(Outcome.RETRY, "connecting answered 421")


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "MESSAGE"])
async def test_a_refusal_of_the_mail_is_final(server: SmtpServer, step: str) -> None:
    server.replies[step] = "550 5.1.1 no"

    assert (await send(server.url)).outcome is Outcome.FAILED


@pytest.mark.parametrize("step", ["CONNECT", "AUTH"])
async def test_a_refusal_of_us_can_be_mended(step: str) -> None:
    async with open_smtp_server(extensions=["AUTH PLAIN"]) as server:
        server.replies[step] = "535 5.7.8 who are you?"

        delivery = await send(f"smtp://user:wrong@localhost:{server.port}?starttls=never")

    assert delivery == Delivery(Outcome.RETRY, "connecting answered 535 5.7.8")


@pytest.mark.parametrize(
    "answer",
    [
        "530 5.7.0 authentication required",
        "530 log in first",
        "535 5.7.8 who are you?",
        "538 5.7.11 not in the clear",
        "550 5.7.1 not your sender",
        "550-5.7.26 not your sender,\r\n550 5.7.26 says its domain",
        "553 5.7.1 not your sender",
        "553 5.1.8 no such domain",
    ],
)
async def test_a_refusal_of_the_sender_can_be_mended(server: SmtpServer, answer: str) -> None:
    server.replies["MAIL"] = answer

    assert (await send(server.url)).outcome is Outcome.RETRY


@pytest.mark.parametrize("step", ["RCPT", "DATA", "MESSAGE"])
async def test_a_policy_against_the_mail_is_final(server: SmtpServer, step: str) -> None:
    server.replies[step] = "550 5.7.1 no"

    assert (await send(server.url)).outcome is Outcome.FAILED


async def test_causes_keep_codes_and_no_words(server: SmtpServer) -> None:
    server.replies["RCPT"] = f"550 5.1.1 <{ADA}>: unknown"

    assert (await send(server.url)).cause == "RCPT answered 550 5.1.1"


@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"])
async def test_a_connection_lost_before_the_message_is_harmless(server: SmtpServer, step: str) -> None:
    server.replies[step] = DROP

    assert (await send(server.url)).outcome is Outcome.RETRY


@pytest.mark.parametrize("reply", [DROP, "what?", "354 and then?"])
async def test_after_the_message_only_a_clear_answer_counts(server: SmtpServer, reply: str) -> None:
    server.replies["MESSAGE"] = reply

    assert (await send(server.url)).outcome is Outcome.AMBIGUOUS


async def test_a_refused_connection_is_tried_again() -> None:
    async with open_smtp_server() as server:
        url = server.url

    assert await send(url) == Delivery(Outcome.RETRY, "the server can't be reached: nothing listens there")


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        ("CONNECT", Outcome.RETRY),
        ("RCPT", Outcome.RETRY),
        ("DATA", Outcome.RETRY),
        ("MESSAGE", Outcome.AMBIGUOUS),
    ],
)
@pytest.mark.parametrize("limit", ["OPERATION_SECONDS", "CONVERSATION_SECONDS"])
async def test_a_silent_server_is_left(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch, step: str, outcome: Outcome, limit: str
) -> None:
    monkeypatch.setattr(mailer_module, "CONVERSATION_SECONDS", 1.0)
    monkeypatch.setattr(mailer_module, limit, 0.3)
    server.replies[step] = HANG

    assert (await send(server.url)).outcome is outcome
    assert server.mails == []


async def test_nothing_of_the_mail_is_sent_if_it_may_not_be(server: SmtpServer) -> None:
    class TakenError(Exception):
        pass

    async def refuse() -> None:
        raise TakenError

    mailer = Mailer(server.url, MAIL_FROM)
    with pytest.raises(TakenError):
        await mailer.send(ready_mail(mailer), ADA, before_data=refuse)

    assert "DATA" not in server.commands


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls") / "localhost.pem")


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


@pytest.mark.usefixtures("trusted")
async def test_starttls_comes_before_the_password(tls: ssl.SSLContext) -> None:
    async with open_smtp_server(extensions=["STARTTLS", "AUTH PLAIN"], tls=tls) as server:
        delivery = await send(f"smtp://us%40er:p%3Aa%2Fss@localhost:{server.port}")

    assert delivery.outcome is Outcome.SENT
    verbs = [command.partition(" ")[0] for command in server.commands]
    assert verbs[:6] == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT"]
    assert base64.b64decode(server.commands[3].removeprefix("AUTH PLAIN ")) == b"\0us@er\0p:a/ss"


async def test_no_mail_without_starttls() -> None:
    async with open_smtp_server(extensions=["AUTH PLAIN"]) as server:
        delivery = await send(f"smtp://user:password@localhost:{server.port}")

    assert delivery == Delivery(Outcome.RETRY, f"{LACKS} SMTP STARTTLS extension not supported by server.")
    assert [command.partition(" ")[0] for command in server.commands] == ["EHLO"]


@pytest.mark.usefixtures("trusted")
async def test_a_server_that_takes_no_password_is_named_as_the_cause(tls: ssl.SSLContext) -> None:
    async with open_smtp_server(extensions=["STARTTLS"], tls=tls) as server:
        delivery = await send(f"smtp://user:password@localhost:{server.port}")

    assert delivery == Delivery(Outcome.RETRY, f"{LACKS} The SMTP AUTH extension is not supported by this server.")


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_no_mail_to_a_server_nobody_vouches_for(tls: ssl.SSLContext, scheme: str) -> None:
    async with open_smtp_server(extensions=["STARTTLS"], tls=tls, smtps=scheme == "smtps") as server:
        delivery = await send(f"{scheme}://user:password@localhost:{server.port}")

    assert delivery == Delivery(Outcome.RETRY, "the server can't be reached: its certificate can't be verified")
    assert not [command for command in server.commands if command.startswith(("AUTH", "MAIL"))]


@pytest.mark.usefixtures("trusted")
async def test_smtps(tls: ssl.SSLContext) -> None:
    async with open_smtp_server(tls=tls, smtps=True) as server:
        assert (await send(f"smtps://localhost:{server.port}")).outcome is Outcome.SENT


# Addresses


async def test_international_addresses_need_a_server_that_takes_them(server: SmtpServer) -> None:
    delivery = await send(server.url, "jürgen@example.org")

    assert delivery == Delivery(Outcome.FAILED, "the server lacks SMTPUTF8")
    assert not [command for command in server.commands if command.startswith("MAIL")]


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("ann@müller.example", "ann@xn--mller-kva.example"),
        ("ann@MÜLLER.example", "ann@xn--mller-kva.example"),
        ("ann@faß.example", "ann@xn--fa-hia.example"),  # another domain than fass.example
        ("ann@उदाहरण.example", "ann@xn--p1b6ci4b4b3a.example"),
    ],
)
async def test_international_domains_need_no_special_server(server: SmtpServer, address: str, sent: str) -> None:
    assert (await send(server.url, address)).outcome is Outcome.SENT
    assert server.mails[0].recipients == [f"RCPT TO:<{sent}>"]
    assert server.mails[0].message["To"] == sent


@pytest.mark.parametrize("address", ["jürgen@müller.example", "पता@उदाहरण.example", "ann@ü-.example"])
async def test_international_addresses_arrive_unchanged(address: str) -> None:
    async with open_smtp_server(extensions=["SMTPUTF8", "8BITMIME"]) as server:
        delivery = await send(server.url, address)

    assert delivery.outcome is Outcome.SENT
    assert server.mails[0].recipients == [f"RCPT TO:<{address}>"]
    assert f"\r\nTo: {address}\r\n".encode() in server.mails[0].content


@pytest.mark.parametrize(
    "address",
    [
        "a@b",
        "o'brien+exports@example.org",
        "x" * 64 + "@" + ".".join(["y" * 61] * 3) + ".abc",
        "UPPER.lower_1@sub-domain.example.org",
    ],
)
async def test_addresses_that_arrive(server: SmtpServer, address: str) -> None:
    assert is_address(address)
    assert (await send(server.url, address)).outcome is Outcome.SENT
    assert server.mails[0].recipients == [f"RCPT TO:<{address}>"]
    assert server.mails[0].message["To"] == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "a@x.org, b@y.org",
        "a@x.org,b@y.org",
        "a@x.org;b@y.org",
        "a@x.org b@y.org",
        "Ada <ada@example.org>",
        "<ada@example.org>",
        "ada@example.org (Ada)",
        '"a b"@example.org',
        '"a@x.org, b"@example.org',
        " ada@example.org",
        "ada@example.org\n",
        "ada@example.org\r\nBcc: eve@example.org",
        "ada\r\nRCPT TO:<eve@example.org>@example.org",
        "ada@exam\0ple.org",
        "ada@example.org\u2028",
        "ada\u202e@example.org",
        "a\u00a0b@example.org",
        "ada@eve@example.org",
        "ada@example..org",
        ".ada@example.org",
        "ada.@example.org",
        "a..b@example.org",
        "ada@-example.org",
        "ada@example.org.",
        "ada@[192.0.2.1]",
        "ada@" + "x" * 64 + ".org",
        "x" * 65 + "@example.org",
        "ü" * 33 + "@example.org",
        "a@" + ".".join(["y" * 50] * 5),
        "ada%eve@example.org>",
        "undisclosed: ada@example.org;",
    ],
)
def test_what_is_not_one_address(text: str) -> None:
    assert not is_address(text)


# Settings


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example.org", MailServer("mail.example.org", 587, False, True, None, None)),
        ("smtp://mail?starttls=never", MailServer("mail", 25, False, False, None, None)),
        ("smtp://u%40x:p%2F%3A%25@mail:2525", MailServer("mail", 2525, False, True, "u@x", "p/:%")),
        ("smtps://[2001:db8::1]/", MailServer("2001:db8::1", 465, True, False, None, None)),
    ],
)
def test_mail_servers(url: str, server: MailServer) -> None:
    assert parse_smtp_url(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "smtp://",
        "smtp://:25",
        "smtp://mail:port",
        "smtp://mail:99999",
        "smtp://[mail",
        "smtp://mail?starttls=no",
        "smtp://mail?starttls=never&x=y",
        "smtps://mail?starttls=never",
        "smtp://mail/path",
        "smtp://user:pass#word@mail",
    ],
)
def test_wrong_mail_servers_are_named_without_their_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="CARRYOUT_SMTP_URL") as error:
        Mailer(url, MAIL_FROM)

    assert "pass#word" not in error.value.detail


@pytest.mark.parametrize(
    ("text", "name"),
    [("a@example.org", ""), ("Carryout <a@example.org>", "Carryout"), ('"Foo, Inc" <a@example.org>', "Foo, Inc")],
)
def test_senders(text: str, name: str) -> None:
    sender = parse_mail_from(text)

    assert (sender.display_name, sender.addr_spec) == (name, "a@example.org")


@pytest.mark.parametrize(
    "text",
    [
        "Carryout",
        "a@x, b@y",
        "Foo, Inc <a@x>",
        "A <a@x> <b@y>",
        "A <a@x>\r\nBcc: b@y",
        "jürgen@example.org",
        "G: a@x, b@y;",
    ],
)
def test_wrong_senders_are_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="CARRYOUT_MAIL_FROM"):
        Mailer("smtp://mail", text)


# Content


@pytest.fixture
def mailer() -> Mailer:
    return Mailer("smtp://localhost", MAIL_FROM)


def test_both_parts_tell_the_same(mailer: Mailer) -> None:
    text, html = parts(ready_mail(mailer))

    for fact in ("8 March 2026 at 09:31", "UTC", "CSV", "54,321", "12.3 MB", "5f" * 32, "This wasn't you?"):
        assert fact in text
        assert fact.replace("'", "&#39;") in html or fact in html
    assert f"\n{READY['url']}\n" in text
    assert f'href="{READY["url"]}"'.replace("&", "&amp;") in html


def test_headers(mailer: Mailer) -> None:
    message = ready_mail(mailer)

    assert message["From"] == MAIL_FROM
    assert message["To"] == ADA
    assert message["Subject"] == "Your data export is ready"
    assert message["Message-ID"] == MESSAGE_ID
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "All"
    assert message["Date"].datetime.utcoffset() == timedelta(0)


def test_links_stay_in_one_piece(mailer: Mailer) -> None:
    assert str(READY["url"]).encode() in ready_mail(mailer).as_bytes()


def test_html_shows_hostile_text_as_text(mailer: Mailer) -> None:
    hostile = "<script>alert(1)</script> \" onmouseover=' & {{ 7*7 }}"
    message = mailer.compose("failed", recipient=ADA, message_id=MESSAGE_ID, facts=FAILED | {"error_message": hostile})

    text, html = parts(message)

    assert hostile in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &#34; onmouseover=&#39; &amp; {{ 7*7 }}" in html
    assert "<script" not in html


@pytest.mark.parametrize(("kind", "facts"), [("ready", READY), ("failed", FAILED)])
def test_nothing_is_fetched_to_show_a_mail(mailer: Mailer, kind: str, facts: Mapping[str, object]) -> None:
    _, html = parts(mailer.compose(kind, recipient=ADA, message_id=MESSAGE_ID, facts=facts))

    assert not [word for word in ("<img", "src=", "url(", "@import", "<link", "<script") if word in html]

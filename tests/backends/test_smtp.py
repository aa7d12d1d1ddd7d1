"""Conversations with a real mail server, addresses, and the settings for mail."""

import asyncio
import base64
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import aiosmtplib
import pytest

from service.backends import smtp as mailer_module
from service.backends.failures import UNTRUSTED
from service.backends.smtp import Mailer, MailServer, parse_smtp_url
from service.backends.smtp_replies import Delivery, Outcome
from service.errors import ConfigurationError
from service.mails.messages import compose
from service.mails.samples import FAILED
from tests.support.certificates import write_certificate
from tests.support.mails import ADA, MAIL_FROM, MESSAGE_ID, create_mailer, ready_mail
from tests.support.smtp import DROP, HANG, SmtpServer, open_smtp_server

LACKS = "the server lacks what CARRYOUT_SMTP_URL asks for:"


@pytest.fixture
async def server() -> AsyncIterator[SmtpServer]:
    async with open_smtp_server() as smtp:
        yield smtp


async def nothing() -> None:
    pass


async def send(url: str, recipient: str = ADA) -> Delivery:
    mailer = create_mailer(url)
    return await mailer.send(ready_mail(mailer, recipient), recipient, before_data=nothing)


async def test_an_accepted_mail_went_to_one_recipient(server: SmtpServer) -> None:
    delivery = await send(server.url)

    assert delivery == Delivery(Outcome.SENT)
    assert [mail.recipients for mail in server.mails] == [[f"RCPT TO:<{ADA}>"]]
    assert server.commands[1] == "MAIL FROM:<exports@example.com>"


async def test_a_mail_arrives_as_it_was_written(server: SmtpServer) -> None:
    mailer = create_mailer(server.url)
    message = compose(
        "failed",
        sender=mailer.sender,
        recipient=ADA,
        message_id=MESSAGE_ID,
        facts=FAILED | {"error_message": ".\n..\n.x"},
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

    assert await send(server.url) == Delivery(Outcome.RETRY, "connecting answered 421: busy")


@pytest.mark.parametrize("step", ["RCPT", "DATA", "MESSAGE"])
async def test_a_refusal_of_the_recipient_is_final_and_keeps_no_words(server: SmtpServer, step: str) -> None:
    server.replies[step] = f"550 5.1.1 <{ADA}>: no such user"

    step = "the message" if step == "MESSAGE" else step
    assert await send(server.url) == Delivery(Outcome.FAILED, f"{step} answered 550 5.1.1")


@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "AUTH", "MAIL"])
async def test_before_a_recipient_is_named_every_refusal_is_of_us(step: str) -> None:
    async with open_smtp_server(extensions=["AUTH PLAIN"]) as server:
        server.replies[step] = "550 5.1.1 who are you?"

        delivery = await send(f"smtp://user:wrong@localhost:{server.port}?starttls=never")

    step = "connecting" if step == "CONNECT" else step
    assert delivery == Delivery(Outcome.REFUSED, f"{step} answered 550 5.1.1: who are you?")


async def test_starttls_that_fails_is_its_own_step(tls: ssl.SSLContext) -> None:
    async with open_smtp_server(extensions=["STARTTLS"], tls=tls) as server:
        server.replies["STARTTLS"] = "454 4.7.0 TLS not available due to local problem"

        delivery = await send(f"smtp://localhost:{server.port}")

    cause = "STARTTLS answered 454 4.7.0: TLS not available due to local problem"
    assert delivery == Delivery(Outcome.REFUSED, cause)


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
@pytest.mark.slow
async def test_a_silent_server_is_left(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch, step: str, outcome: Outcome, limit: str
) -> None:
    monkeypatch.setattr(mailer_module, "CONVERSATION_SECONDS", 4.0)
    # The conversation's limit has to outlast the steps before, also on a busy machine.
    monkeypatch.setattr(mailer_module, limit, 2.0 if step == "MESSAGE" else 0.3)
    server.replies[step] = HANG

    assert (await send(server.url)).outcome is outcome
    assert server.mails == []


async def test_an_address_that_never_answers_is_passed_by(server: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind an IPv6 route that leads nowhere: connecting hangs where a server's queue is full."""
    with socket.socket() as deaf, ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(deaf.getsockname())
        stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        found: list[tuple[object, ...]] = [(*stream, deaf.getsockname()), (*stream, ("127.0.0.1", server.port))]

        async def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
            return found

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        assert (await send(server.url)).outcome is Outcome.SENT


async def test_nothing_of_the_mail_is_sent_if_it_may_not_be(server: SmtpServer) -> None:
    class TakenError(Exception):
        pass

    async def refuse() -> None:
        raise TakenError

    mailer = create_mailer(server.url)
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
async def test_no_mail_to_a_server_with_an_untrusted_certificate(tls: ssl.SSLContext, scheme: str) -> None:
    async with open_smtp_server(extensions=["STARTTLS"], tls=tls, smtps=scheme == "smtps") as server:
        delivery = await send(f"{scheme}://user:password@localhost:{server.port}")

    assert delivery == Delivery(Outcome.RETRY, f"the server {UNTRUSTED}")
    assert not [command for command in server.commands if command.startswith(("AUTH", "MAIL"))]


@pytest.mark.usefixtures("trusted")
async def test_smtps(tls: ssl.SSLContext) -> None:
    async with open_smtp_server(tls=tls, smtps=True) as server:
        assert (await send(f"smtps://localhost:{server.port}")).outcome is Outcome.SENT


@pytest.mark.parametrize(
    ("port", "tls", "error", "hint"),
    [
        (465, False, TimeoutError(), "(port 465 mostly speaks TLS from the first byte: smtps://)"),
        (587, True, ssl.SSLError(), "(port 587 mostly speaks STARTTLS: smtp://)"),
    ],
)
def test_a_scheme_that_hardly_fits_the_port_is_named(port: int, tls: bool, error: OSError, hint: str) -> None:  # noqa: FBT001 (a parameter)
    server = MailServer("mail", port, tls, not tls, None, None)
    conversation = mailer_module._Conversation(aiosmtplib.SMTP(), server, None, "a@example.com", ADA)

    assert (conversation.broken(error).cause or "").endswith(hint)


# EHLO and AUTH


async def test_ehlo_gives_our_name(server: SmtpServer) -> None:
    await send(server.url)

    assert server.commands[0] == "EHLO exports.example.com"


@pytest.mark.parametrize("name", ["localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]", "carryout_worker-0.internal"])
async def test_names_for_ehlo(server: SmtpServer, name: str) -> None:
    mailer = Mailer(server.url, MAIL_FROM, ehlo_name=name)
    await mailer.send(ready_mail(mailer), ADA, before_data=nothing)

    assert server.commands[0] == f"EHLO {name}"


@pytest.mark.parametrize("name", ["", "a b", "a\r\nRCPT", "-x", "192.0.2.1]", "müller.example"])
def test_wrong_names_for_ehlo_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_SMTP_EHLO_NAME"):
        Mailer("smtp://mail", MAIL_FROM, ehlo_name=name)


@pytest.mark.parametrize("reply", ["500 what?", "502 5.5.1 not implemented"])
async def test_a_server_without_ehlo_gets_helo(server: SmtpServer, reply: str) -> None:
    server.replies["EHLO"] = reply

    assert (await send(server.url)).outcome is Outcome.SENT
    assert server.commands[:2] == ["EHLO exports.example.com", "HELO exports.example.com"]


async def test_an_answer_that_closes_the_connection_is_kept(server: SmtpServer) -> None:
    """Google's relay, to the name localhost."""
    server.replies["EHLO"] = "421 4.7.0 Try again later, closing connection. (EHLO) x22-1 - gsmtp"

    delivery = await send(server.url)

    cause = "EHLO answered 421 4.7.0: Try again later, closing connection. (EHLO) x22-1 - gsmtp"
    assert delivery == Delivery(Outcome.REFUSED, cause)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("ya29.first-token\n")
    return path


async def send_by_token(server: SmtpServer, token_file: Path, *, user: str = "me%40example.org") -> Delivery:
    mailer = create_mailer(f"smtp://{user}@localhost:{server.port}?starttls=never", token_file=str(token_file))
    return await mailer.send(ready_mail(mailer), ADA, before_data=nothing)


@pytest.mark.parametrize(
    ("offered", "mechanism", "response"),
    [
        ("XOAUTH2", "XOAUTH2", b"user=me@example.org\1auth=Bearer ya29.first-token\1\1"),
        ("PLAIN XOAUTH2 OAUTHBEARER", "OAUTHBEARER", b"n,a=me@example.org,\1auth=Bearer ya29.first-token\1\1"),
    ],
)
async def test_a_token_is_presented(token_file: Path, offered: str, mechanism: str, response: bytes) -> None:
    async with open_smtp_server(extensions=[f"AUTH {offered}"]) as server:
        assert (await send_by_token(server, token_file)).outcome is Outcome.SENT

    assert server.commands[1] == f"AUTH {mechanism} {base64.b64encode(response).decode()}"


async def test_each_mail_reads_the_token_anew(token_file: Path) -> None:
    async with open_smtp_server(extensions=["AUTH OAUTHBEARER"]) as server:
        mailer = create_mailer(f"smtp://me@localhost:{server.port}?starttls=never", token_file=str(token_file))
        token_file.write_text("second")
        await mailer.send(ready_mail(mailer), ADA, before_data=nothing)
        token_file.unlink()
        delivery = await mailer.send(ready_mail(mailer), ADA, before_data=nothing)

    assert b"Bearer second" in base64.b64decode(server.commands[1].split()[2])
    cause = f"CARRYOUT_SMTP_OAUTH_TOKEN_FILE: {token_file} can't be read: No such file or directory"
    assert delivery == Delivery(Outcome.REFUSED, cause)


@pytest.mark.parametrize(("offered", "acknowledged"), [("XOAUTH2", ""), ("OAUTHBEARER", "AQ==")])
async def test_a_refused_token_is_told_with_the_servers_words(
    token_file: Path, offered: str, acknowledged: str
) -> None:
    async with open_smtp_server(extensions=[f"AUTH {offered}"]) as server:
        server.replies["AUTH"] = "334 eyJzdGF0dXMiOiI0MDEifQ=="
        server.replies["RESPONSE"] = "535 5.7.3 Authentication unsuccessful"
        delivery = await send_by_token(server, token_file)

    assert delivery == Delivery(Outcome.REFUSED, "AUTH answered 535 5.7.3: Authentication unsuccessful")
    assert server.commands[2] == acknowledged


async def test_a_server_that_takes_no_token_gets_none(token_file: Path) -> None:
    async with open_smtp_server(extensions=["AUTH PLAIN LOGIN"]) as server:
        delivery = await send_by_token(server, token_file)

    assert delivery == Delivery(Outcome.RETRY, f"{LACKS} AUTH OAUTHBEARER or XOAUTH2")
    assert [command.partition(" ")[0] for command in server.commands] == ["EHLO"]


@pytest.mark.parametrize("url", ["smtp://mail", "smtp://user:password@mail"])
def test_a_token_needs_a_user_and_no_password(token_file: Path, url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_SMTP_OAUTH_TOKEN_FILE needs a user and no password"):
        create_mailer(url, token_file=str(token_file))


@pytest.mark.parametrize("content", [b"", b"two tokens", b"a\r\nb", b"\xff", b'{"access_token":"x"}'])
def test_a_file_without_a_token_is_named_and_not_shown(token_file: Path, content: bytes) -> None:
    token_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_SMTP_OAUTH_TOKEN_FILE: /") as error:
        create_mailer("smtp://user@mail", token_file=str(token_file))

    assert "two" not in error.value.detail


async def test_passwords_fall_back_to_a_mechanism_that_works() -> None:
    """Relays offer CRAM-MD5, and keep no secret to check it with."""
    async with open_smtp_server(extensions=["AUTH CRAM-MD5 LOGIN PLAIN"]) as server:
        server.replies["AUTH"] = "504 5.7.4 unrecognized"
        await send(f"smtp://user:password@localhost:{server.port}?starttls=never")

    assert [command.split()[1] for command in server.commands[1:]] == ["CRAM-MD5", "PLAIN", "LOGIN"]


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
    ("address", "extensions"),
    [('"ada..x"@example.org', []), ('".ada"@example.org', []), ('"jü..x"@müller.example', ["SMTPUTF8", "8BITMIME"])],
)
async def test_quoted_addresses_arrive(address: str, extensions: list[str]) -> None:
    async with open_smtp_server(extensions=extensions) as server:
        delivery = await send(server.url, address)

    assert delivery.outcome is Outcome.SENT
    assert server.mails[0].recipients == [f"RCPT TO:<{address}>"]
    assert f"\r\nTo: {address}\r\n".encode() in server.mails[0].content


# Settings


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example.org", MailServer("mail.example.org", 587, False, True, None, None)),
        ("smtp://mail?starttls=never", MailServer("mail", 25, False, False, None, None)),
        ("smtp://u%40x:p%2F%3A%25@mail:2525", MailServer("mail", 2525, False, True, "u@x", "p/:%")),
        ("smtps://[2001:db8::1]/", MailServer("2001:db8::1", 465, True, False, None, None)),
        ("SMTP://user@mail", MailServer("mail", 587, False, True, "user", None)),
        ("smtp://AKIA:a/b+c=@mail:587", MailServer("mail", 587, False, True, "AKIA", "a/b+c=")),
        ("smtps://me@example.org:a?b#c@mail", MailServer("mail", 465, True, False, "me@example.org", "a?b#c")),
        ("smtp://u:p@ss:w[rd@mail?starttls=never", MailServer("mail", 25, False, False, "u", "p@ss:w[rd")),
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
        "smtp://user:pass#word",
        "smtp://user:pass@word/mail",
        "smtp://user:pass%40word@ma il",
        "ftp://mail",
    ],
)
def test_wrong_mail_servers_are_named_without_their_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="CARRYOUT_SMTP_URL") as error:
        create_mailer(url)

    assert "word" not in error.value.detail.replace("password", "")

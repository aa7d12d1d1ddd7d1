"""Replies of real mail servers, and every code in every step: whose fault each is."""

from collections.abc import AsyncIterator

import pytest

from service.backends.smtp_replies import Delivery, Outcome, Step, clean_words, judge
from tests.support.mails import ADA, create_mailer, ready_mail
from tests.support.smtp import ENDLESS, SmtpServer, open_smtp_server

OURS, MAILS, LATER = Outcome.REFUSED, Outcome.FAILED, Outcome.RETRY
# Steps of the scripted server, with their names in a cause.
STEPS = {
    "CONNECT": "connecting",
    "EHLO": "EHLO",
    "MAIL": "MAIL",
    "RCPT": "RCPT",
    "DATA": "DATA",
    "MESSAGE": "the message",
}
BEFORE_RECIPIENT = ("CONNECT", "EHLO", "MAIL")

# Answers of servers, and whose fault each is. Postfix tells of a client, its name and its sender at RCPT.
TOLD = [
    # Postfix
    ("RCPT", f"554 5.7.1 <{ADA}>: Relay access denied", OURS),
    ("RCPT", f"454 4.7.1 <{ADA}>: Relay access denied", OURS),
    ("RCPT", "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname", OURS),
    ("RCPT", "450 4.7.1 <worker-1>: Helo command rejected: Host not found", OURS),
    ("RCPT", "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied", OURS),
    ("RCPT", "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]", OURS),
    ("RCPT", "530 5.7.1 Authentication required", OURS),
    ("RCPT", "553 5.7.1 <exports@example.com>: Sender address rejected: not owned by user ops@example.com", OURS),
    ("RCPT", "550 5.1.8 <exports@example.com>: Sender address rejected: Domain not found", OURS),
    ("RCPT", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", OURS),
    ("MAIL", "530 5.7.0 Must issue a STARTTLS command first", OURS),
    ("MAIL", "552 5.3.4 Message size exceeds fixed limit", OURS),
    ("MESSAGE", "552 5.3.4 Error: message file too big", OURS),
    ("DATA", "554 5.7.1 <DATA>: Data command rejected: only 10 messages per day", OURS),
    ("RCPT", f"550 5.1.1 <{ADA}>: Recipient address rejected: User unknown in virtual mailbox table", MAILS),
    ("RCPT", f"504 5.5.2 <{ADA}>: Recipient address rejected: need fully-qualified address", MAILS),
    ("RCPT", f"554 5.7.1 <{ADA}>: Recipient address rejected: Access denied", MAILS),
    ("RCPT", f"450 4.2.0 <{ADA}>: Recipient address rejected: Greylisted, see http://postgrey.example/help", LATER),
    ("RCPT", "450 4.7.1 Client host rejected: Greylisting in action, please come back later", LATER),
    ("RCPT", "452 4.3.1 Insufficient system storage", LATER),
    # Amazon SES
    (
        "MESSAGE",
        f"554 Message rejected: Email address is not verified. These identities failed the check in US-EAST-1: {ADA}",
        OURS,
    ),
    ("MESSAGE", "454 Throttling failure: Maximum sending rate exceeded.", OURS),
    ("MESSAGE", "454 Throttling failure: Daily message quota exceeded.", OURS),
    ("MESSAGE", "554 Message rejected: Sending paused for this account.", OURS),
    ("MESSAGE", "554 Message rejected: Address blacklisted.", MAILS),
    # Exchange Online, Exchange
    ("MESSAGE", "554 5.2.252 SendAsDenied; ops@example.com not allowed to send as exports@example.com", OURS),
    (
        "MESSAGE",
        "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process",
        OURS,
    ),
    ("MESSAGE", "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", OURS),
    ("MESSAGE", "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending", LATER),
    ("RCPT", "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain", OURS),
    ("RCPT", "550 5.7.1 Unable to relay", OURS),
    ("DATA", "530 5.7.1 Client was not authenticated", OURS),
    ("MESSAGE", "550 5.7.60 SMTP; Client does not have permissions to send as this sender", OURS),
    ("MAIL", "530 5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL FROM", OURS),
    ("RCPT", "550 5.4.1 Recipient address rejected: Access denied.", MAILS),
    ("RCPT", "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required", MAILS),
    ("RCPT", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", MAILS),
    # Google
    (
        "MESSAGE",
        "550-5.4.5 Daily user sending limit exceeded. For more information on Gmail\r\n550 5.4.5 sending limits",
        OURS,
    ),
    ("MESSAGE", "550 5.7.26 Unauthenticated email from example.com is not accepted due to domain's DMARC", OURS),
    ("MESSAGE", "550-5.7.1 Unauthenticated email from example.com is not accepted\r\n550 5.7.1 policy", OURS),
    ("RCPT", "550 5.7.1 Invalid credentials for relay [192.0.2.1]. The IP address you've registered", OURS),
    ("EHLO", "421 4.7.0 Try again later, closing connection. (EHLO) v5-20 - gsmtp", OURS),
    ("MESSAGE", "550 5.7.1 Our system has detected that this message is likely unsolicited mail", MAILS),
    ("MESSAGE", "552 5.7.0 This message was blocked because its content presents a potential security issue", MAILS),
    ("RCPT", "550 5.2.1 The email account that you tried to reach is disabled", MAILS),
    ("RCPT", "552 5.2.2 The email account that you tried to reach is over quota", MAILS),
    # Others
    ("MESSAGE", "550 The from address does not match a verified Sender Identity. Mail cannot be sent", OURS),
    ("MESSAGE", "554 Sandbox subdomains are for test purposes only. Please add your own domain", OURS),
    ("DATA", "421 Domain sandbox1.mailgun.org is not allowed to send: Please activate your account", OURS),
    ("MESSAGE", "550 The 'From' address you supplied is not a Sender Signature on your account.", OURS),
    ("RCPT", "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", OURS),
    ("MESSAGE", "553 Relaying disallowed as exports@example.com", OURS),
    ("RCPT", "550 relay not permitted!", OURS),
    ("RCPT", "550 sorry, no mailbox here by that name. (#5.1.1)", MAILS),
    ("RCPT", "550 #5.1.0 Address rejected.", MAILS),
    ("RCPT", "550 5.1.1 ada... User unknown", MAILS),
    ("RCPT", f"553 5.1.3 <{ADA}>... Invalid route address", MAILS),
    ("MESSAGE", "554 delivery error: dd This user doesn't have an account here", MAILS),
    ("MESSAGE", "550 5.7.1 Message rejected as spam by content filtering", MAILS),
    ("MESSAGE", "554 5.6.0 Message contains bare newlines", MAILS),
]


class Conversations:
    """One server and one mailer for all of them."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self._mailer = create_mailer(server.url)

    async def hold(self, **replies: str) -> Delivery:
        async def nothing() -> None:
            pass

        self._server.replies = replies
        self._server.mails.clear()
        delivery = await self._mailer.send(ready_mail(self._mailer), ADA, before_data=nothing)
        assert delivery.outcome is not Outcome.SENT or len(self._server.mails) == 1
        return delivery


@pytest.fixture(scope="module")
async def conversations() -> AsyncIterator[Conversations]:
    async with open_smtp_server() as server:
        yield Conversations(server)


@pytest.mark.parametrize(("step", "reply", "outcome"), TOLD)
async def test_what_servers_say(conversations: Conversations, step: str, reply: str, outcome: Outcome) -> None:
    delivery = await conversations.hold(**{step: reply})

    cause = delivery.cause or ""
    assert delivery.outcome is outcome, cause
    assert cause.startswith(f"{STEPS[step]} answered {reply[:3]}")
    assert (": " in cause) == (outcome is OURS or step in BEFORE_RECIPIENT)
    assert "@" not in cause


# Without an enhanced code, and without a word that tells.
PLAIN = {
    **dict.fromkeys((421, 450, 451, 452, 454, 455), dict.fromkeys(STEPS, LATER)),
    **dict.fromkeys((500, 502, 503, 504, 521, 555), dict.fromkeys(STEPS, OURS)),
    **dict.fromkeys((530, 534, 535, 538), dict.fromkeys(STEPS, OURS)),
    554: dict.fromkeys(STEPS, OURS) | {"MESSAGE": MAILS},
    **dict.fromkeys((501, 550, 551, 552, 553, 556), dict.fromkeys(STEPS, OURS) | {"RCPT": MAILS, "MESSAGE": MAILS}),
}
# An enhanced code decides, not the code before it.
ENHANCED = {
    "5.1.1": MAILS,
    "5.1.8": OURS,
    "5.2.2": MAILS,
    "5.3.4": OURS,
    "5.4.4": MAILS,
    "5.4.5": OURS,
    "5.6.1": MAILS,
    "5.7.8": OURS,
    "5.7.17": MAILS,
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("code", PLAIN)
async def test_every_code_in_every_step(conversations: Conversations, step: str, code: int) -> None:
    delivery = await conversations.hold(**{step: f"{code} no", "HELO": f"{code} no"})

    assert delivery.outcome is PLAIN[code][step]


@pytest.mark.parametrize("step", ["RCPT", "DATA", "MESSAGE"])
@pytest.mark.parametrize("code", [501, 550, 552, 553, 554])
@pytest.mark.parametrize("enhanced", ENHANCED)
def test_an_enhanced_code_decides(step: str, code: int, enhanced: str) -> None:
    delivery = judge(Step(STEPS[step]), code, f"{enhanced} no such relay access denied", recipient=ADA)

    assert delivery.outcome is ENHANCED[enhanced]


GARBAGE = ["", "999 what?", "2", "what is this?", "-50 x", "\udcff\udc80", "250-\udcff\r\n999 \udcff", "\0\0", "199 x"]


@pytest.mark.parametrize(
    ("step", "reply"),
    [("CONNECT", "250"), ("DATA", "250"), *((step, reply) for step in STEPS for reply in GARBAGE)],
)
async def test_garbage_is_no_answer(conversations: Conversations, step: str, reply: str) -> None:
    delivery = await conversations.hold(**{step: reply})

    assert delivery.outcome is (Outcome.AMBIGUOUS if step == "MESSAGE" else LATER)
    assert (delivery.cause or "").isascii()


@pytest.mark.parametrize("step", STEPS)
async def test_an_endless_answer_is_left(conversations: Conversations, step: str) -> None:
    delivery = await conversations.hold(**{step: ENDLESS})

    outcome = Outcome.AMBIGUOUS if step == "MESSAGE" else LATER
    assert delivery == Delivery(outcome, f"{STEPS[step]} was answered by no SMTP reply")


@pytest.mark.parametrize("step", STEPS)
async def test_a_421_asks_to_come_back(conversations: Conversations, step: str) -> None:
    assert (await conversations.hold(**{step: "421 4.3.2 shutting down"})).outcome is LATER


async def test_a_reply_of_many_lines_is_one(conversations: Conversations) -> None:
    delivery = await conversations.hold(MESSAGE="250-first\r\n250-\r\n250-2.0.0 third\r\n250 queued")

    assert delivery.outcome is Outcome.SENT


# The server's words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"5.7.1 <{ADA}>: Relay access denied", "[address]: Relay access denied"),
        ("5.4.5 Daily limit\n5.4.5 exceeded", "Daily limit exceeded"),
        ("5.7.1 ada: relay denied for example.org", "[address]: relay denied for [address]"),
        (
            '"ada..x"@example.org <"a b"@x.org> ADA@EXAMPLE.ORG ada=40x%40y.org',
            "[address] [address] [address] [address]",
        ),
        ("see https://x.org/help?user=5&x=ada", "see https://x.org/help[...]"),
        ("url https://x.org/d?expires=1&signature=abc", "url https://x.org/d[...]"),
        ("part expires=1&signature=abc", "part [...]"),
        (f"id {'a1' * 10} SendAsDeniedExceptionMapiException", "id [...] SendAsDeniedExceptionMapiException"),
        ("se\udce9 \x1b[31mred \u202e \x00", r"se\udce9 \x1b[31mred \u202e \x00"),
        ("x " * 5_000, ("x " * 1_000).strip()),
        ("y" * 5_000, ""),
        ("word " * 399 + "abc ada@example.org", "word " * 399 + "abc"),
        ("", ""),
        (" :; ", ""),
    ],
)
def test_words_are_cleaned(text: str, words: str) -> None:
    cleaned = clean_words(text, ADA)

    assert cleaned == words
    assert cleaned.isascii()
    assert cleaned.isprintable()


def test_words_that_are_not_shown_decide_too() -> None:
    delivery = judge(Step.RCPT, 550, "5.7.1 " + "We are sorry. " * 30 + "Relay access denied", recipient=ADA)

    assert delivery.outcome is OURS
    assert len(delivery.cause or "") < 250


def test_a_quoted_name_is_removed_too() -> None:
    assert clean_words("ada..x has left", '"ada..x"@example.org') == "[address] has left"

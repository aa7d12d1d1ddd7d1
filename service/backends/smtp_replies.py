"""The meaning of a mail server's replies: whose fault a refusal is, and which of the server's words may be shown.

A refusal of *us* (our relay, name, login, sender, quota) is an outage: an operator can end it, and until then each mail
meets it. Only a refusal of the recipient or the message is final.
"""

import re
from enum import StrEnum
from typing import Final

import msgspec

from guard.text import printable


class Outcome(StrEnum):
    """`RETRY`: the server certainly hasn't accepted the mail. `REFUSED`: nor will it, until an operator changes
    something. `AMBIGUOUS`: it may have accepted it. `SKIPPED`: not attempted.
    """

    SENT = "sent"
    RETRY = "retry"
    REFUSED = "refused"
    FAILED = "failed"
    AMBIGUOUS = "ambiguous"
    SKIPPED = "skipped"


class Delivery(msgspec.Struct, frozen=True):
    """`cause` says where and how it went wrong, without an address, and without words about a recipient."""

    outcome: Outcome
    cause: str | None = None


class Step(StrEnum):
    CONNECT = "connecting"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    MESSAGE = "the message"


class Fault(StrEnum):
    OURS = "ours"
    MAILS = "the recipient's or the message's"


BEFORE_RECIPIENT: Final = frozenset({Step.CONNECT, Step.EHLO, Step.STARTTLS, Step.AUTH, Step.MAIL})
MAX_WORDS: Final = 200  # in a cause
MAX_TEXT: Final = 2_000  # of a reply, which may have 32 KiB

# RFC 3463, at the beginning, or where qmail and Cisco write it: `(#5.7.1)`. Never an IP address.
ENHANCED_CODE: Final = re.compile(r"(?:^|[(#])([245]\.\d{1,3}\.\d{1,3})\b(?!\.\d)")
LEADING_CODE: Final = re.compile(r"^[245]\.\d{1,3}\.\d{1,3}\b\s*", re.MULTILINE)
# Subject and detail of the enhanced codes that decide alone. The other details of a subject, 0 among them, are said of
# both: Postfix says 7.1 of a relay, a client, a sender and a recipient.
RECIPIENT_CODES: Final = frozenset(
    """1.1 1.2 1.3 1.4 1.6 1.9 1.10 2.1 2.2 2.3 2.4 4.4 7.2 7.7 7.17 7.18
    7.124 7.129 7.133 7.134 7.136""".split()  # noqa: SIM905 (a list would be one code a line)
)  # the last line is Exchange's: a mailbox or a group that takes no mail from outside
OUR_CODES: Final = frozenset({"1.7", "1.8", "3.1", "3.2", "3.3", "3.4", "3.5", "4.3", "4.5", "5.3", "5.5", "5.6"})
LEAST_POLICY_DETAIL: Final = 3  # from X.7.3 on, a policy is about encryption, a login, the sender's domain or address
# As 4XX: a server that is full, stopping or has too many connections; and what lasts all the same.
BUSY_SUBJECT: Final = "3"
LASTING_SUBJECTS: Final = frozenset({"1", "7"})
# RFC 4954: there must be a login, a stronger, a right or an encrypted one.
LOGIN_CODES: Final = frozenset({530, 534, 535, 538})
# Replies to RCPT that without an enhanced code are about the address (RFC 5321, 4.2.2, and RFC 7504).
ADDRESS_CODES: Final = frozenset({501, 550, 551, 552, 553, 556})
# The server didn't understand us, or takes no mail at all (521).
PROTOCOL_CODES: Final = frozenset({500, 502, 503, 504, 521, 555})

OUR_PHRASES: Final = (
    r"\brelay(ing)? (access )?(is )?(denied|prohibited|disallowed|not (permitted|allowed))",
    r"\b(unable to|to|not|no|for) relay\b|\bnot relay(ed|ing)\b|\brcpthosts\b",
    r"\b(helo|ehlo)\b|\bclient (host|address|was not|does not have|ip)\b|\bunauthori[sz]ed ip\b",
    r"\bsender (address|identity|signature|id\b|domain|is not|verif|not |rejected|denied)|\bunverified sender",
    r"\bsend as\b|\bsendasdenied|\bnot (allowed|permitted|authori[sz]ed) to send\b|\bdomain name:",
    r"\bfrom['\"]? (address|header|domain)\b|\bnot verified\b|\bsandbox\b|\btest purposes\b|\bactivate\b",
    r"\bauthenticat\w+ (is )?(required|needed|failed|unsuccessful|credentials)|\bcredentials\b",
    r"\b(un|not )authenticated\b|\bauthenticate\b|\bauth (required|first)\b|\blog ?in first\b",
    r"\bstarttls\b|\btls\b|\bencrypt(ion|ed)\b",
    r"\b(sending|submission|relay|rate|daily|hourly|monthly|smtp|outbound) (\w+ ){0,3}(limit|quota|rate)",
    r"\bsubmissionquota|\b(messages|e?mails|recipients) per (second|minute|hour|day|month)\b",
    r"\bsending (activity|paused|suspended|rate)|\bcredits?\b|\byour account\b",
    r"\btoo many (messages|e?mails|conn)",
    r"\bblocked using\b|(?<!address )\b(black|block|deny) ?list|\b(dnsbl|rbl|spamhaus|sorbs|spamcop|barracuda)",
    r"\breputation\b|\breverse (dns|host|lookup)|\b(ptr|rdns)\b|\bbanned\b|\b(spf|dkim|dmarc)\b",
    # Our mails are all alike, and of a few KiB: too large is a limit that all of them meet.
    r"\bmessage (\w+ ){0,3}(size|too (large|big))\b|\btoo large\b",
)
OUR_WORDS: Final = re.compile("|".join(OUR_PHRASES), re.IGNORECASE)
MAILS_WORDS: Final = re.compile(
    r"\brecipient\b|\buser (unknown|not|doesn|is over)|\bunknown (user|recipient|mailbox|local)|\bno such\b"
    r"|\bdoes( not|n't) (exist|have)|\bmailbox\b|\bover ?quota\b|\binvalid (address|user)"
    r"|\bspam\b|\bunsolicited\b|\bvirus\b|\bmalware\b|\bphish",
    re.IGNORECASE,
)
# Postfix's submission service says no more than that to clients without a login, and of their recipients.
DENIED: Final = re.compile(r"\baccess denied\b", re.IGNORECASE)
# A server that makes every new client wait also says things about the client (RFC 6647).
GREYLISTED: Final = re.compile(r"gr[ea]y\s?-?list", re.IGNORECASE)

ADDRESS_IN_TEXT: Final = re.compile(r'<[^<>]*(?:@|%40)[^<>]*>|"[^"]*"@\S+|\S*(?:@|%40)\S*', re.IGNORECASE)
QUERY: Final = re.compile(r"(?<=\S)\?\S+|\b(?:signature|expires)=\S*")
OPAQUE: Final = re.compile(r"(?=[\w-]*\d)[A-Za-z0-9_-]{20,}")


def judge(step: Step, code: int, text: str, *, recipient: str, login_unused: bool = False) -> Delivery:
    """The outcome for the mail after the reply `code` with `text` in this step.

    `login_unused`: the server offers a login, and CARRYOUT_SMTP_URL has no user.
    """
    found = ENHANCED_CODE.search(text)
    enhanced = found[1] if found else ""
    kind = code // 100
    if (kind, step) == (2, Step.MESSAGE):
        return Delivery(Outcome.SENT)
    words = clean_words(text, recipient)
    cause = f"{step} answered {code} {enhanced}".rstrip() if code > 0 else f"{step} was answered by no SMTP reply"
    if kind not in {4, 5}:
        return Delivery(Outcome.AMBIGUOUS if step is Step.MESSAGE else Outcome.RETRY, cause)
    fault = find_fault(step, code, enhanced, words)
    if login_unused and (step, enhanced) == (Step.RCPT, "5.7.1") and DENIED.search(words):
        fault = Fault.OURS
    if fault is Fault.OURS or step in BEFORE_RECIPIENT:
        cause = f"{cause}: {words[:MAX_WORDS]}".rstrip(": ")
    if fault is Fault.OURS:
        return Delivery(Outcome.REFUSED, cause)
    return Delivery(Outcome.RETRY if kind == 4 else Outcome.FAILED, cause)  # noqa: PLR2004 (4XX)


def find_fault(step: Step, code: int, enhanced: str, words: str) -> Fault | None:
    """The fault that a 4XX or 5XX reply tells of; None for a 4XX that only asks to come back later.

    The enhanced code decides first. Where it is missing or leaves it open: codes about a login, then the words, then
    what the code mostly means in this step.
    """
    _, subject, detail = enhanced.split(".") if enhanced else ("", "", "")
    if code < 500:  # noqa: PLR2004 (5XX)
        return _find_passing_fault(subject, detail, words)
    if step in BEFORE_RECIPIENT:
        return Fault.OURS
    return (
        _of_enhanced_code(subject, detail)
        or (Fault.OURS if code in LOGIN_CODES else None)
        or _of_words(words)
        or _of_step(step, code, subject)
    )


def clean_words(text: str, recipient: str) -> str:
    """The server's words in a line of ASCII, without addresses, queries of URLs, tokens, or names of the recipient."""
    words = " ".join(_bounded(LEADING_CODE.sub("", text)).split())
    words = ADDRESS_IN_TEXT.sub("[address]", words)
    for name in recipient.replace('"', "").rsplit("@", 1):
        words = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "[address]", words, flags=re.IGNORECASE)
    words = OPAQUE.sub("[...]", QUERY.sub("[...]", words))
    plain = printable(words).encode("ascii", "backslashreplace").decode()
    return plain.strip(" :;,")


def _bounded(text: str) -> str:
    """Without its last word if the text is too long: it may be half an address."""
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT].rpartition(" ")[0]


def _find_passing_fault(subject: str, detail: str, words: str) -> Fault | None:
    if GREYLISTED.search(words) or subject == BUSY_SUBJECT:
        return None
    fault = (_of_enhanced_code(subject, detail) if subject in LASTING_SUBJECTS else None) or _of_words(words)
    return fault if fault is Fault.OURS else None


def _of_enhanced_code(subject: str, detail: str) -> Fault | None:
    code = f"{subject}.{detail}"
    if code in RECIPIENT_CODES or subject == "6":  # 6: the message's content
        return Fault.MAILS
    if code in OUR_CODES or (subject == "7" and int(detail) >= LEAST_POLICY_DETAIL):
        return Fault.OURS
    return None


def _of_words(words: str) -> Fault | None:
    if OUR_WORDS.search(words):
        return Fault.OURS
    return Fault.MAILS if MAILS_WORDS.search(words) else None


def _of_step(step: Step, code: int, subject: str) -> Fault:
    if subject in {"1", "2"}:  # an address, a mailbox
        return Fault.MAILS
    if subject in {"3", "4", "5"} or code in PROTOCOL_CODES:  # a system, the network, the protocol
        return Fault.OURS
    if step is Step.MESSAGE:
        return Fault.MAILS
    return Fault.MAILS if step is Step.RCPT and subject != "7" and code in ADDRESS_CODES else Fault.OURS

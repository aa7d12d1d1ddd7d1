"""Mails: what they say, and one conversation with the mail server that always knows how it ended."""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiosmtplib
import idna
import jinja2
import msgspec

from service.errors import ConfigurationError
from service.unreachable import describe_unreachable

CONVERSATION_SECONDS = 30.0
OPERATION_SECONDS = 10.0
MAILS_DIR = Path(__file__).parent / "mails"
SUBJECTS = {"ready": "Your data export is ready", "failed": "Your data export failed"}
# Lines may be as long as SMTP allows, so that links aren't broken up.
POLICY = policy.SMTP.clone(cte_type="7bit", max_line_length=998)

# RFC 5321's Mailbox, without what real addresses lack: quoted strings and address literals. RFC 6531: not only ASCII.
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a1-\U0010ffff-]+"
LABEL = r"(?!-)[A-Za-z0-9\u00a1-\U0010ffff-]{1,63}(?<!-)"
ADDRESS = re.compile(rf"(?P<local>{ATOM}(?:\.{ATOM})*)@{LABEL}(?:\.{LABEL})*")
MAX_ADDRESS_BYTES = 254
MAX_LOCAL_BYTES = 64
START_INPUT = 354
ENHANCED_CODE = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")  # RFC 3463
LOGIN_CODES = {530, 535, 538}  # RFC 4954: there must be a login, a right one, or an encrypted one
SENDER_CODE = re.compile(r"5\.(?:1\.[78]|7\.\d+)")  # RFC 3463: a bad sender's address; security and policy
DOT_FIRST = re.compile(rb"^\.", re.MULTILINE)


class Outcome(StrEnum):
    """`RETRY`: the server certainly hasn't accepted the mail. `AMBIGUOUS`: it may have. `SKIPPED`: nobody tried."""

    SENT = "sent"
    RETRY = "retry"
    FAILED = "failed"
    AMBIGUOUS = "ambiguous"
    SKIPPED = "skipped"


class Delivery(msgspec.Struct, frozen=True):
    """`cause` says where and how it went wrong, without the server's words: they repeat addresses."""

    outcome: Outcome
    cause: str | None = None


class MailServer(msgspec.Struct, frozen=True):
    host: str
    port: int
    tls: bool
    starttls: bool
    username: str | None
    password: str | None


class Mailer:
    def __init__(self, smtp_url: str, mail_from: str) -> None:
        """Connects to nothing. Raises ConfigurationError if a setting is wrong."""
        self._server = parse_smtp_url(smtp_url)
        self._sender = parse_mail_from(mail_from)
        self._tls_context = ssl.create_default_context()
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(MAILS_DIR),
            autoescape=jinja2.select_autoescape(["html"]),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    @property
    def domain(self) -> str:
        """The sender's, for Message-IDs."""
        return self._sender.domain

    def compose(self, kind: str, *, recipient: str, message_id: str, facts: Mapping[str, object]) -> EmailMessage:
        """The mail `kind` (a name in SUBJECTS) to one valid address, with the facts its templates name."""
        address = _with_ascii_domain(recipient)
        local, _, domain = address.rpartition("@")
        message = EmailMessage(policy=POLICY.clone(utf8=not address.isascii()))
        message["From"] = self._sender
        message["To"] = Address(username=local, domain=domain)
        message["Subject"] = SUBJECTS[kind]
        message["Date"] = datetime.now(UTC)
        message["Message-ID"] = message_id
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notes, please
        message["X-Auto-Response-Suppress"] = "All"  # the same for Exchange
        message.set_content(self._render(f"{kind}.txt", facts))
        message.add_alternative(self._render(f"{kind}.html", facts), subtype="html")
        return message

    async def send(
        self, message: EmailMessage, recipient: str, *, before_data: Callable[[], Awaitable[object]]
    ) -> Delivery:
        """Hand `message` over for this recipient and nobody else, whatever its headers say.

        `before_data` is awaited when the recipient is accepted and nothing of the mail is sent yet; what it raises ends
        the conversation there. No other failure is raised: each is an outcome.
        """
        conversation = _Conversation(self._create_client(), self._sender.addr_spec, _with_ascii_domain(recipient))
        try:
            async with asyncio.timeout(CONVERSATION_SECONDS):
                return await conversation.run(message, before_data)
        except aiosmtplib.SMTPResponseException as error:
            return conversation.judge(error.code, error.message)
        except (aiosmtplib.SMTPException, OSError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            return conversation.broken(error)
        finally:
            conversation.close()

    def _render(self, template: str, facts: Mapping[str, object]) -> str:
        return self._templates.get_template(template).render(facts)

    def _create_client(self) -> aiosmtplib.SMTP:
        server = self._server
        return aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.tls,
            start_tls=server.starttls,
            tls_context=self._tls_context,
            timeout=OPERATION_SECONDS,
        )


class _Step(StrEnum):
    CONNECT = "connecting"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    MESSAGE = "the message"


class _Conversation:
    """aiosmtplib's own `data` doesn't tell a connection lost before the message from one lost after it."""

    def __init__(self, client: aiosmtplib.SMTP, sender: str, recipient: str) -> None:
        self._client = client
        self._sender = sender
        self._recipient = recipient
        self._step = _Step.CONNECT

    async def run(self, message: EmailMessage, before_data: Callable[[], Awaitable[object]]) -> Delivery:
        client = self._client
        await client.connect()
        if client.is_ehlo_or_helo_needed:
            await client.ehlo()
        utf8 = not self._recipient.isascii()
        if utf8 and not client.supports_extension("smtputf8"):
            return Delivery(Outcome.FAILED, "the server lacks SMTPUTF8")
        encoding = "utf-8" if utf8 else "ascii"
        self._step = _Step.MAIL
        await client.mail(self._sender, options=["SMTPUTF8", "BODY=8BITMIME"] if utf8 else [], encoding=encoding)
        self._step = _Step.RCPT
        await client.rcpt(self._recipient, encoding=encoding)
        self._step = _Step.DATA
        await before_data()
        return await self._transfer(message.as_bytes())

    async def _transfer(self, message: bytes) -> Delivery:
        response = await self._client.execute_command(b"DATA")
        protocol = self._client.protocol
        if response.code != START_INPUT or protocol is None:
            return self.judge(response.code, response.message)
        protocol.write(DOT_FIRST.sub(b"..", message) + b".\r\n")
        self._step = _Step.MESSAGE
        # As long as the conversation may last: nothing is worse than not to know.
        response = await protocol.read_response()
        return self.judge(response.code, response.message)

    def judge(self, code: int, text: str) -> Delivery:
        """What a reply means here. A refused greeting, login or sender is about us, not about the mail, and can be
        mended.
        """
        found = ENHANCED_CODE.match(text)
        enhanced = found[0] if found else ""
        cause = f"{self._step} answered {code} {enhanced}".rstrip()
        match code // 100, self._step:
            case 2, _Step.MESSAGE:
                return Delivery(Outcome.SENT)
            case 5, _Step.MAIL if code in LOGIN_CODES or SENDER_CODE.fullmatch(enhanced):
                return Delivery(Outcome.RETRY, cause)
            case 5, _Step.MAIL | _Step.RCPT | _Step.DATA | _Step.MESSAGE:
                return Delivery(Outcome.FAILED, cause)
            case 4, _:
                return Delivery(Outcome.RETRY, cause)
        return self._unknown(cause)

    def broken(self, error: Exception) -> Delivery:
        if self._step is not _Step.CONNECT:
            return self._unknown(f"{self._step} ended in {type(error).__name__}")
        if type(error) is aiosmtplib.SMTPException:  # the library's own words for what a server doesn't offer
            return self._unknown(f"the server lacks what CARRYOUT_SMTP_URL asks for: {error}")
        return self._unknown(f"the server {describe_unreachable(error)}")

    def close(self) -> None:
        """Say goodbye, and don't wait for an answer: how the mail fared must be recorded first."""
        if self._client.protocol is not None:
            with suppress(aiosmtplib.SMTPServerDisconnected):
                self._client.protocol.write(b"QUIT\r\n")
        self._client.close()

    def _unknown(self, cause: str) -> Delivery:
        return Delivery(Outcome.AMBIGUOUS if self._step is _Step.MESSAGE else Outcome.RETRY, cause)


def is_address(text: str) -> bool:
    """Whether `text` is exactly one address: no name, no list, no comment, no white space."""
    match = ADDRESS.fullmatch(text)
    return (
        match is not None
        and text.isprintable()
        and len(text.encode()) <= MAX_ADDRESS_BYTES
        and len(match["local"].encode()) <= MAX_LOCAL_BYTES
    )


def _with_ascii_domain(address: str) -> str:
    """The address as every mail server takes it (RFC 5891), unless its local part needs SMTPUTF8 all the same."""
    local, _, domain = address.rpartition("@")
    if domain.isascii() or not local.isascii():
        return address
    try:
        return f"{local}@{idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError:
        return address


def parse_smtp_url(url: str) -> MailServer:
    """`smtp://user:password@host:587`, `smtp://host?starttls=never`, `smtps://host`; user and password %-decoded."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError("CARRYOUT_SMTP_URL has a wrong host or port") from None
    tls = parts.scheme == "smtps"
    starttls = not tls and parts.query != "starttls=never"
    if parts.query not in ({"", "starttls=never"} if not tls else {""}) or parts.path.strip("/") or parts.fragment:
        raise ConfigurationError(
            "CARRYOUT_SMTP_URL may end in ?starttls=never after smtp://host:port, and in nothing else"
        )
    if not parts.hostname:
        raise ConfigurationError("CARRYOUT_SMTP_URL names no host")
    return MailServer(
        host=parts.hostname,
        port=port or (465 if tls else 587 if starttls else 25),
        tls=tls,
        starttls=starttls,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


def parse_mail_from(text: str) -> Address:
    """`a@example.org` or `Name <a@example.org>`."""
    header = POLICY.header_factory("From", text)
    addresses = header.addresses
    if header.defects or len(addresses) != 1 or not is_address(addresses[0].addr_spec) or not text.isprintable():
        raise ConfigurationError("CARRYOUT_MAIL_FROM must be one address: `a@example.org` or `Name <a@example.org>`")
    if not addresses[0].addr_spec.isascii():
        raise ConfigurationError("CARRYOUT_MAIL_FROM must be ASCII: not every mail server accepts more in addresses")
    sender: Address = addresses[0]
    return sender

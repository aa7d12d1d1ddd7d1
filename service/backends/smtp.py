"""The mail server: one SMTP conversation for each mail, whose outcome is always known."""

import asyncio
import base64
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import unquote

import aiohappyeyeballs
import aiosmtplib
import msgspec

from guard.files import read_trusted
from guard.text import printable
from service.backends.authorities import create_tls_context
from service.backends.failures import NO_ANSWER, NO_TLS, describe_unreachable
from service.backends.mail_addresses import parse_mail_from, with_ascii_domain
from service.backends.smtp_replies import Delivery, Outcome, Step, judge
from service.errors import ConfigurationError

# Servers let new clients wait for the greeting, 20 seconds being usual, and scan a message before they accept it. An
# attempt must end before a claim's lease (bookkeeping.mails) and a worker's longest silence (worker.main).
CONVERSATION_SECONDS = 45.0
OPERATION_SECONDS = 25.0
NEXT_ADDRESS_SECONDS = 0.25  # RFC 8305
START_INPUT = 354
AUTH_CONTINUES = 334
AUTHENTICATED = 235
NO_EHLO = {500, 502}
DOT_FIRST = re.compile(rb"^\.", re.MULTILINE)
URL = re.compile(
    r"(?P<scheme>(?i:smtps?))://(?:(?P<user>[^:]*)(?::(?P<password>.*))?@)?"
    r"(?P<host>[^\s:/?#@\[\]]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?(?P<plain>\?starttls=never)?",
    re.DOTALL,
)
EHLO_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?|\[(?:[0-9.]+|IPv6:[0-9A-Fa-f:.]+)\]")
MAX_PORT = 65_535
SMTPS_PORT = 465
STARTTLS_PORTS = {25, 587}
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750's


class MailServer(msgspec.Struct, frozen=True):
    host: str
    port: int
    tls: bool
    starttls: bool
    username: str | None
    password: str | None


class Mailer:
    def __init__(
        self, smtp_url: str, mail_from: str, *, ehlo_name: str, token_file: str = "", ca_file: str = ""
    ) -> None:
        """Connects to nothing. Raises ConfigurationError if a setting is wrong.

        The file holds an OAuth access token. It is read for each mail, because tokens last an hour or so.
        """
        self._server = parse_smtp_url(smtp_url)
        self.sender = parse_mail_from(mail_from)
        if not EHLO_NAME.fullmatch(ehlo_name):
            raise ConfigurationError("CARRYOUT_SMTP_EHLO_NAME must be a host name, or an IP address in brackets")
        self._ehlo_name = ehlo_name
        self._token_file = Path(token_file) if token_file else None
        if self._token_file:
            if not self._server.username or self._server.password is not None:
                raise ConfigurationError(
                    "CARRYOUT_SMTP_OAUTH_TOKEN_FILE needs a user and no password in CARRYOUT_SMTP_URL: smtp://user@host"
                )
            read_token(self._token_file)
        self._tls_context = create_tls_context(ca_file)

    @property
    def domain(self) -> str:
        """The sender's domain, for Message-IDs."""
        return self.sender.domain

    async def send(
        self, message: EmailMessage, recipient: str, *, before_data: Callable[[], Awaitable[object]]
    ) -> Delivery:
        """Send `message` to this recipient only, regardless of its headers.

        `before_data` is awaited when the recipient is accepted and nothing of the mail is sent yet; what it raises ends
        the conversation there. No other failure is raised: each is an outcome.
        """
        try:
            token = await asyncio.to_thread(read_token, self._token_file) if self._token_file else None
        except ConfigurationError as error:
            return Delivery(Outcome.REFUSED, error.detail)
        conversation = _Conversation(
            self._create_client(), self._server, token, self.sender.addr_spec, with_ascii_domain(recipient)
        )
        try:
            async with asyncio.timeout(CONVERSATION_SECONDS):
                return await conversation.run(message, before_data)
        except aiosmtplib.SMTPResponseException as error:
            return conversation.judge(error.code, error.message)
        except (aiosmtplib.SMTPException, OSError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            return conversation.broken(error)
        finally:
            conversation.close()

    def _create_client(self) -> aiosmtplib.SMTP:
        return aiosmtplib.SMTP(
            hostname=self._server.host,
            local_hostname=self._ehlo_name,
            use_tls=self._server.tls,
            start_tls=False,  # _Conversation does it, as a step of its own
            tls_context=self._tls_context,
            timeout=OPERATION_SECONDS,
        )


class _Conversation:
    """aiosmtplib's own `data` doesn't tell a connection lost before the message from one lost after it, and its own
    `connect` doesn't tell the steps before MAIL apart.
    """

    def __init__(
        self, client: aiosmtplib.SMTP, server: MailServer, token: str | None, sender: str, recipient: str
    ) -> None:
        self._client = client
        self._server = server
        self._token = token
        self._sender = sender
        self._recipient = recipient
        self._step = Step.CONNECT

    async def run(self, message: EmailMessage, before_data: Callable[[], Awaitable[object]]) -> Delivery:
        await self._open()
        client = self._client
        utf8 = not self._recipient.isascii()
        if utf8 and not client.supports_extension("smtputf8"):
            return Delivery(Outcome.FAILED, "the server lacks SMTPUTF8")
        encoding = "utf-8" if utf8 else "ascii"
        self._step = Step.MAIL
        await client.mail(self._sender, options=["SMTPUTF8", "BODY=8BITMIME"] if utf8 else [], encoding=encoding)
        self._step = Step.RCPT
        await client.rcpt(self._recipient, encoding=encoding)
        self._step = Step.DATA
        await before_data()
        return await self._transfer(message.as_bytes())

    async def _open(self) -> None:
        await self._client.connect(sock=await self._dial())
        await self._greet()
        if self._server.starttls:
            self._step = Step.STARTTLS
            await self._client.starttls()
            await self._greet()
        if self._server.username is not None:
            self._step = Step.AUTH
            await self._log_in(self._server.username)

    async def _dial(self) -> socket.socket:
        """A connection to the first of the host's addresses that answers: one behind a dead IPv6 route never does."""
        async with asyncio.timeout(OPERATION_SECONDS):
            addresses = await asyncio.get_running_loop().getaddrinfo(
                self._server.host, self._server.port, type=socket.SOCK_STREAM
            )
            return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS)

    async def _greet(self) -> None:
        self._step = Step.EHLO
        try:
            await self._client.ehlo()
        except aiosmtplib.SMTPHeloError as error:
            if error.code not in NO_EHLO:
                raise
            await self._client.helo()

    async def _log_in(self, username: str) -> None:
        client = self._client
        if self._token is None:
            await client.login(username, self._server.password or "")
        elif "oauthbearer" in client.server_auth_methods:
            await self._present_token(username, self._token)
        elif "xoauth2" in client.server_auth_methods:
            await client.auth_xoauth2(username, self._token)
        else:
            raise aiosmtplib.SMTPException("AUTH OAUTHBEARER or XOAUTH2")

    async def _present_token(self, username: str, token: str) -> None:
        """RFC 7628, which aiosmtplib lacks."""
        name = username.replace("=", "=3D").replace(",", "=2C")
        message = f"n,a={name},\x01auth=Bearer {token}\x01\x01".encode()
        response = await self._client.execute_command(b"AUTH", b"OAUTHBEARER", base64.b64encode(message))
        if response.code == AUTH_CONTINUES:  # an error, which the client acknowledges before the server ends
            response = await self._client.execute_command(base64.b64encode(b"\x01"))
        if response.code != AUTHENTICATED:
            raise aiosmtplib.SMTPAuthenticationError(response.code, response.message)

    async def _transfer(self, message: bytes) -> Delivery:
        response = await self._client.execute_command(b"DATA")
        protocol = self._client.protocol
        if response.code != START_INPUT or protocol is None:
            return self.judge(response.code, response.message)
        protocol.write(DOT_FIRST.sub(b"..", message) + b".\r\n")
        self._step = Step.MESSAGE
        # As long as the conversation may last: nothing is worse than not to know.
        response = await protocol.read_response()
        return self.judge(response.code, response.message)

    def judge(self, code: int, text: str) -> Delivery:
        login_unused = self._server.username is None and self._client.supports_extension("auth")
        return judge(self._step, code, text, recipient=self._recipient, login_unused=login_unused)

    def broken(self, error: Exception) -> Delivery:
        if type(error) is aiosmtplib.SMTPException:  # the library's own words for what a server doesn't offer
            return self._unknown(printable(f"the server lacks what CARRYOUT_SMTP_URL asks for: {error}"))
        if self._step in {Step.CONNECT, Step.EHLO, Step.STARTTLS}:
            words = describe_unreachable(error)
            return self._unknown(f"the server {words}{self._find_hint(words)}")
        return self._unknown(f"{self._step} ended in {type(error).__name__}")

    def _find_hint(self, words: str) -> str:
        """Where the scheme hardly fits the port."""
        server = self._server
        if server.tls and server.port in STARTTLS_PORTS and words == NO_TLS:
            return f" (port {server.port} mostly speaks STARTTLS: smtp://)"
        if not server.tls and server.port == SMTPS_PORT and words == NO_ANSWER:
            return " (port 465 mostly speaks TLS from the first byte: smtps://)"
        return ""

    def close(self) -> None:
        """Say goodbye, and don't wait for an answer: how the mail fared must be recorded first."""
        if self._client.protocol is not None:
            with suppress(aiosmtplib.SMTPServerDisconnected):
                self._client.protocol.write(b"QUIT\r\n")
        self._client.close()

    def _unknown(self, cause: str) -> Delivery:
        return Delivery(Outcome.AMBIGUOUS if self._step is Step.MESSAGE else Outcome.RETRY, cause)


def read_token(path: Path) -> str:
    """Raises ConfigurationError, which an operator can mend without a restart."""
    try:
        token = read_trusted(path).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"CARRYOUT_SMTP_OAUTH_TOKEN_FILE: {path} can't be read: {reason}") from None
    if not TOKEN.fullmatch(token):
        raise ConfigurationError(f"CARRYOUT_SMTP_OAUTH_TOKEN_FILE: {path} must hold one access token, and nothing else")
    return token


def parse_smtp_url(url: str) -> MailServer:
    """`smtp://user:password@host:587`, `smtp://host?starttls=never`, `smtps://host`; user and password %-decoded.

    A host has no @, so the last one ends the password: `/`, `+`, `=` and the like may stand in it as they are.
    """
    match = URL.fullmatch(url)
    tls = match is not None and match["scheme"].lower() == "smtps"
    port = int(match["port"] or 0) if match else 0
    if match is None or port > MAX_PORT or (tls and match["plain"]):
        raise ConfigurationError(
            "CARRYOUT_SMTP_URL must be smtp://user:password@host:port, with ?starttls=never behind it or not, or "
            "smtps://…: percent-encode what is special in a user or password, such as : / ? # @ %"
        )
    starttls = not tls and not match["plain"]
    user, password = match["user"], match["password"]
    return MailServer(
        host=match["host"].strip("[]"),
        port=port or (SMTPS_PORT if tls else 587 if starttls else 25),
        tls=tls,
        starttls=starttls,
        username=unquote(user) if user else None,
        password=unquote(password) if password else None,
    )

"""A mail server that does as it is told, step by step, and remembers what it was told."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage

HANG = "hang"  # until `go_on` is set; then answer as if nothing had been
DROP = "drop"
ENDLESS = "endless"  # lines of one reply, until the client has enough
LOSE = "lose"  # for MESSAGE: accept it, and drop the connection before the answer

_REPLIES = {
    "HELO": "250 test",
    "STARTTLS": "220 go ahead",
    "AUTH": "235 welcome",
    "RESPONSE": "235 welcome",
    "MAIL": "250 ok",
    "RCPT": "250 ok",
    "DATA": "354 go ahead",
    "MESSAGE": "250 accepted",
    "QUIT": "221 bye",
}


@dataclass(frozen=True)
class AcceptedMail:
    recipients: list[str]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed


class SmtpServer:
    """`replies` maps a step (CONNECT, a command, RESPONSE to a
    334, or MESSAGE for its final dot) to a reply, HANG, DROP, ENDLESS or LOSE. In a reply, surrogates are
    bytes that aren't UTF-8. With `passwords`, AUTH PLAIN is refused to a client that has none of them.
    """

    def __init__(self, *, extensions: Sequence[str], tls: ssl.SSLContext | None) -> None:
        self.replies: dict[str, str] = {}
        self.passwords: set[str] = set()
        self.commands: list[str] = []
        self.mails: list[AcceptedMail] = []
        self.hanging = asyncio.Event()
        self.go_on = asyncio.Event()
        self.port = 0
        self._extensions = extensions
        self._tls = tls
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"smtp://localhost:{self.port}?starttls=never"

    def login_url(self, password: str) -> str:
        return f"smtp://carryout:{password}@localhost:{self.port}?starttls=never"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._converse(reader, writer)
        writer.close()

    async def stop(self) -> None:
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients: list[str] = []
        reply = await self._answer(writer, "CONNECT", "220 test")
        while True:
            line = (await reader.readuntil(b"\r\n")).decode().rstrip("\r\n")
            self.commands.append(line)
            command = "RESPONSE" if reply.startswith("334") else line.partition(" ")[0]
            reply = await self._answer(writer, command, self._default(command, line))
            if command == "RCPT":
                recipients.append(line)
            elif command == "STARTTLS" and self._tls:
                await writer.start_tls(self._tls)
            elif command == "DATA" and reply.startswith("354"):
                content = await reader.readuntil(b"\r\n.\r\n")
                mail = AcceptedMail(recipients, _undo_dots(content))
                if self.replies.get("MESSAGE") == LOSE:
                    self.mails.append(mail)
                    return
                reply = await self._answer(writer, "MESSAGE", _REPLIES["MESSAGE"])
                if reply.startswith("250"):
                    self.mails.append(mail)
                recipients = []
            elif command == "QUIT":
                return

    def _default(self, command: str, line: str) -> str:
        if command == "AUTH" and self.passwords and _password_in(line) not in self.passwords:
            return "535 5.7.8 Authentication credentials invalid"
        if command == "EHLO":
            return "\r\n".join(["250-test", *(f"250-{name}" for name in self._extensions), "250 HELP"])
        return _REPLIES[command]

    async def _answer(self, writer: asyncio.StreamWriter, step: str, default: str) -> str:
        reply = self.replies.get(step, default)
        if reply == HANG:
            self.hanging.set()
            await self.go_on.wait()
            reply = default
        if reply == DROP:
            raise ConnectionAbortedError
        while reply == ENDLESS:
            writer.write(b"250-and more\r\n" * 100)
            await writer.drain()
        writer.write(f"{reply}\r\n".encode(errors="surrogateescape"))
        await writer.drain()
        return reply


@asynccontextmanager
async def open_smtp_server(
    *, extensions: Sequence[str] = (), tls: ssl.SSLContext | None = None, smtps: bool = False
) -> AsyncIterator[SmtpServer]:
    """`tls` is the server's certificate, for STARTTLS or, with `smtps`, from the first byte on."""
    smtp = SmtpServer(extensions=extensions, tls=tls)
    server = await asyncio.start_server(smtp.serve, "127.0.0.1", 0, ssl=tls if smtps else None)
    smtp.port = server.sockets[0].getsockname()[1]
    try:
        yield smtp
    finally:
        server.close()
        await smtp.stop()
        await server.wait_closed()


def _password_in(line: str) -> str:
    """The password that `AUTH PLAIN …` presents (RFC 4616)."""
    return base64.b64decode(line.rpartition(" ")[2]).rpartition(b"\0")[2].decode()


def _undo_dots(content: bytes) -> bytes:
    lines = content.removesuffix(b".\r\n").split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b"..") else line for line in lines)

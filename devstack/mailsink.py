"""An SMTP server inside this process; it delivers every mail into one folder."""

import asyncio
import itertools
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakSet

from aiosmtpd.smtp import SMTP, Envelope, Session

from devstack.ports import keep_port
from guard.files import replace_file
from service.errors import ConfigurationError


class MailSink:
    """Each mail becomes one `.eml` file in `folder`, named by its time of arrival.

    The envelope, which may differ from the mail's headers, is added as `X-MailFrom` and `X-RcptTo`.
    """

    def __init__(self, folder: Path, run_dir: Path) -> None:
        self.folder = folder
        self._port = keep_port(run_dir / "smtp.port")
        self._numbers = itertools.count()
        self._server: asyncio.Server | None = None
        self._connections: WeakSet[SMTP] = WeakSet()
        self.url = f"smtp://127.0.0.1:{self._port}?starttls=never"

    async def start(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._open_connection, "127.0.0.1", self._port)
        except OSError as error:
            raise ConfigurationError(f"The mail sink can't listen on port {self._port}: {error.strerror}") from error

    async def stop(self) -> None:
        self.kill()
        if self._server is not None:
            await self._server.wait_closed()

    def kill(self) -> None:
        """Close the port and break every connection."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            if isinstance(connection.transport, asyncio.Transport):
                connection.transport.abort()

    def mails(self) -> list[Path]:
        """The stored mails, oldest first."""
        return sorted(self.folder.glob("*.eml"))

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 (aiosmtpd's)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{next(self._numbers):04}.eml"
        head = f"X-MailFrom: {envelope.mail_from}\r\nX-RcptTo: {', '.join(envelope.rcpt_tos)}\r\n"
        replace_file(self.folder / name, head.encode() + (envelope.original_content or b""))
        return "250 OK"

    def _open_connection(self) -> SMTP:
        connection = SMTP(self, hostname="localhost", enable_SMTPUTF8=True, loop=asyncio.get_running_loop())
        self._connections.add(connection)
        return connection

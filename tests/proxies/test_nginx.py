"""Behind nginx, which speaks HTTP/1.0 or HTTP/1.1 to us: a document that was cut on the way never looks whole."""

import asyncio
import random
import time
from http import HTTPStatus
from pathlib import Path
from uuid import UUID

import httpx
import jwt
import msgspec
import pytest

from service.access.tokens import MAX_TOKEN_CHARACTERS
from service.settings import Settings
from tests.api.problems import bearer
from tests.api.serving import Served
from tests.conftest import PUBLIC_PATH, PUBLIC_URL, Token
from tests.proxies.conftest import Wire, open_nginx
from tests.support.factories import Connection, create_user
from tests.support.operators import create_key, create_users

CUTS = 100
USERS = 3_000
LIST = "/api/v1/users/export"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, download_mode="proxy")


async def _path_and_headers(
    kind: str, api: httpx.AsyncClient, database: Connection, token: Token
) -> tuple[str, dict[str, str]]:
    if kind == "stream":
        await create_users(database, USERS)
        return LIST, {"X-API-Key": await create_key(database), "Accept-Encoding": "identity"}
    user_id = await create_user(database, activity=400, content=400, body_bytes=300)
    created = await api.post("/api/export", json={"format": "csv"}, headers=bearer(token(user_id)))
    return created.json()["download_url"].removeprefix(PUBLIC_URL), {}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("kind", ["stream", "download"])
async def test_every_cut_shows(  # noqa: PLR0913, PLR0917 (fixtures and parameters)
    served: Served,
    api: httpx.AsyncClient,
    database: Connection,
    token: Token,
    tmp_path: Path,
    kind: str,
    version: str,
) -> None:
    path, headers = await _path_and_headers(kind, api, database, token)
    async with (
        Wire(served.url).open() as wire,
        open_nginx(tmp_path, wire.url, version) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
    ):
        direct = await api.get(path, headers=headers)
        whole = await client.get(path, headers=headers)
        assert (whole.status_code, whole.content) == (200, direct.content)
        sent = wire.answered
        assert sent > len(whole.content)
        # The closing chunk, or the last byte of what was announced; the rest at random.
        cuts = [sent - 5 if kind == "stream" else sent - 1]
        cuts += random.Random(version).sample(range(sent - 5), CUTS - 1)  # noqa: S311 (no secret)
        for cut in cuts:
            wire.limit = cut
            status = await _get_cut(client, path, headers)
            assert status in {None, 502}, f"{cut} of {sent} bytes look whole"  # 502: not even the head arrived


async def _get_cut(client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> int | None:
    """The status, or None of an answer that breaks off. A list whose reader is gone counts until its process has seen
    that, so that a key may have too many for a moment.
    """
    while True:
        try:
            answer = await client.get(path, headers=headers)
        except httpx.RemoteProtocolError:
            return None
        if answer.status_code != HTTPStatus.TOO_MANY_REQUESTS:
            return answer.status_code
        await asyncio.sleep(0.05)


async def test_a_path_that_nginx_denies_is_denied_in_every_spelling(served: Served, tmp_path: Path) -> None:
    """Some paths nginx puts into plain form itself, behind a prefix that it takes off. Those are answered."""
    spellings = ["/metrics", "/%6detrics", "//metrics", "/./metrics", "/x/../metrics", "/metrics#x", "/metrics%00"]
    spellings += ["/metrics;x", "/metrics/", "/metrics%2f", "/;/metrics", "/%2fmetrics", "/METRICS", "\\metrics"]
    async with open_nginx(tmp_path, served.url, "1.1") as url:
        statuses = {spelling: await _status(url, spelling) for spelling in [*spellings, "http://x/%6detrics"]}
        assert set(statuses.values()) <= {400, 403, 404}, statuses
        plain = ["/livez", "/readyz?exclude=s3", f"{PUBLIC_PATH}/livez", f"{PUBLIC_PATH}/", f"{PUBLIC_PATH}//%6civez"]
        assert [await _status(url, target) for target in plain] == [200] * len(plain)


async def _status(url: str, target: str) -> int:
    """Written as it is: clients put paths into plain form themselves."""
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


async def test_the_largest_token_passes(settings: Settings, served: Served, tmp_path: Path) -> None:
    claims = {"sub": str(UUID(int=5)), "exp": time.time() + 600, "groups": ["g" * 36] * 290}
    token = jwt.encode(claims, settings.jwt_secret[0])
    assert 15_000 < len(token) < MAX_TOKEN_CHARACTERS
    async with open_nginx(tmp_path, served.url, "1.1") as url, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{url}/api/export", headers=bearer(token))).status_code == 200

"""Behind nginx, which speaks HTTP/1.0 or HTTP/1.1 to us: a document that was cut on the way never looks whole."""

import random
from pathlib import Path

import httpx
import msgspec
import pytest

from service.settings import Settings
from tests.api.problems import bearer
from tests.api.serving import Served
from tests.conftest import PUBLIC_URL, Token
from tests.factories import Connection, create_user
from tests.operators import create_key, create_users
from tests.proxies.conftest import Wire, open_nginx

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
            try:
                answer = await client.get(path, headers=headers)
            except httpx.RemoteProtocolError:
                continue
            assert answer.status_code == 502, f"{cut} of {sent} bytes look whole"  # not even the head arrived

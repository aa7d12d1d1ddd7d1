"""A finished export's file over connections that break, from S3 and through the service."""

import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from yarl import URL

from client.api import Api, Export
from client.console import Console
from client.errors import ChecksumError, RefusedError
from client.exports import download_export
from client.http import follow, open_session, safe_target
from client.outputs import open_output, part_path
from service.resources import Resources
from service.settings import Settings
from tests.api.serving import create_edge, serve
from tests.client.conftest import Doors, MakeExport, OpenApi
from tests.client.cutting import CuttingProxy
from tests.support.factories import Connection, create_user


@pytest.fixture(params=["redirect", "proxy"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(settings: Settings, mode: str) -> Settings:
    return msgspec.structs.replace(settings, download_mode=mode)


@pytest.fixture
def file_door(doors: Doors, mode: str) -> CuttingProxy:
    """The proxy that the file's bytes pass."""
    return doors.storage if mode == "redirect" else doors.api


@pytest.fixture
async def user_id(database: Connection) -> UUID:
    return await create_user(database, content=300, body_bytes=900)


@pytest.fixture
async def export(open_api: OpenApi, user_id: UUID, make_export: MakeExport) -> Export:
    """Made over connections of its own."""
    async with open_api(user_id) as api:
        return await make_export(api)


@pytest.fixture
async def api(open_api: OpenApi, user_id: UUID) -> AsyncIterator[Api]:
    async with open_api(user_id) as opened:
        yield opened


async def download(api: Api, export: Export, path: Path, console: Console) -> bytes:
    """The file, downloaded on top of what is in FILE.part."""
    with open_output(path, force=True, resume=True) as output:
        await download_export(api, export, output, console)
    assert not part_path(path).exists()
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == export.sha256
    return content


async def test_cut_anywhere_it_ends_complete(  # noqa: PLR0913, PLR0917 (fixtures)
    api: Api, export: Export, doors: Doors, file_door: CuttingProxy, console: Console, tmp_path: Path
) -> None:
    at_random = random.Random(7)  # noqa: S311 (the same cuts each time)
    file_door.cuts = [10, 700, *(at_random.randrange(2_000, 40_000) for _ in range(9))]
    await download(api, export, tmp_path / "data.csv", console)
    assert file_door.asked.count(b"\r\nRange: bytes=") >= 3
    assert file_door.asked.count(b'\r\nIf-Range: "') >= 3
    assert b"authorization" not in doors.storage.asked.lower()


async def test_goes_on_with_what_an_earlier_run_left(
    api: Api, export: Export, file_door: CuttingProxy, console: Console, tmp_path: Path
) -> None:
    path = tmp_path / "data.csv"
    whole = await download(api, export, path, console)
    part_path(path).write_bytes(whole[:-1_000])
    assert await download(api, export, path, console) == whole
    assert f"\r\nRange: bytes={len(whole) - 1_000}-\r\n".encode() in file_door.asked


async def test_starts_over_where_that_belongs_to_something_else(
    api: Api, export: Export, console: Console, tmp_path: Path
) -> None:
    for left_bytes in (1_000, 1_000_000):
        part_path(tmp_path / "data.csv").write_bytes(b"x" * left_bytes)
        await download(api, export, tmp_path / "data.csv", console)


async def test_other_bytes_never_become_the_file(
    api: Api, export: Export, resources: Resources, console: Console, tmp_path: Path
) -> None:
    async def other() -> AsyncIterator[bytes]:
        yield b"x" * (export.size_bytes or 0)

    query = "SELECT file_url FROM carryout.export_jobs WHERE id = $1"
    stored: str = await resources.database.fetchval(query, UUID(export.job_id))
    await resources.storage.upload(stored.split("/", 3)[3], other(), content_type="text/csv")
    with pytest.raises(ChecksumError, match="SHA-256"):
        await download(api, export, tmp_path / "data.csv", console)
    assert list(tmp_path.iterdir()) == []


class TestRedirects:
    @pytest.mark.parametrize(
        ("reference", "target"),
        [
            ("/b?x=%2F+%20", "https://a.example/b?x=%2F+%20"),
            ("https://b.example/", "https://b.example/"),
            ("//b.example/", "https://b.example/"),
        ],
    )
    def test_followed_to_the_byte(self, reference: str, target: str) -> None:
        assert str(safe_target(URL("https://a.example/"), reference)) == target

    @pytest.mark.parametrize(
        "reference",
        [
            "http://a.example/",
            "file:///etc/passwd",
            "ftp://a.example/",
            "https://[",
            "https://a.example:99999/",
            "https://a.example:x/",
            "https://xn--a.example/",
            "https://a.example/ HTTP/1.1",
            "https://a.example/\r\nX-Evil: 1",
            "https://a.example/\0",
            "https://a.example/\udcff",
        ],
    )
    def test_refused(self, reference: str) -> None:
        with pytest.raises(RefusedError):
            safe_target(URL("https://a.example/"), reference)

    def test_to_https_is_fine(self) -> None:
        assert safe_target(URL("http://a.example/"), "https://a.example/").scheme == "https"

    async def test_in_a_circle(self) -> None:
        async def back(request: Request) -> Response:
            return RedirectResponse(str(request.url))

        async with serve(create_edge([Route("/", back)])) as served, open_session() as session:
            with pytest.raises(RefusedError, match="More than 5 redirects"):
                async with follow(session, URL(served.url), {}):
                    pass

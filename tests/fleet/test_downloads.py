"""The link, and what else gets the file."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.api.problems import read_problem
from tests.fleet.fleet import Fleet, Person, until_deleted

TAMPERED = [
    ("expires=1", "expires=2"),
    ("expires=1", "expires=01"),
    ("signature=", "signature=A"),
    ("signature=", "signature=&x="),
    ("expires=", "expired="),
]
RANGES = [
    ("bytes=0-9", slice(0, 10)),
    ("bytes=10-", slice(10, None)),
    ("bytes=-5", slice(-5, None)),
]


class File(NamedTuple):
    """A completed export: `path` is its own, `link` the signed one, `view` what its owner sees."""

    owner: Person
    path: str
    link: str
    view: dict[str, Any]


@pytest.fixture
async def file(fleet: Fleet, client: httpx.AsyncClient) -> File:
    owner = await fleet.create_person(9)
    made = (await client.post("/api/export", json={"format": "csv"}, headers=owner.headers)).json()
    path = f"/api/export/{made['job_id']}"
    return File(owner, path, made["download_url"], (await client.get(path, headers=owner.headers)).json())


@pytest.fixture(scope="module")
async def proxying(fleet: Fleet) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a process that streams files itself."""
    async with (
        fleet.started_api("proxying", CARRYOUT_DOWNLOAD_MODE="proxy") as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as opened,
    ):
        yield opened


async def test_by_link_and_by_token(fleet: Fleet, client: httpx.AsyncClient, file: File) -> None:
    by_link = await client.get(file.link)
    by_token = await client.get(f"{file.path}/download", headers=file.owner.headers)
    for redirect in (by_link, by_token):
        assert (redirect.status_code, redirect.headers["cache-control"]) == (302, "private, no-store")
        location = urlsplit(redirect.headers["location"])
        endpoint = urlsplit(fleet.environ["CARRYOUT_S3_ENDPOINT_URL"])
        assert location.scheme == endpoint.scheme
        assert location.netloc.removeprefix(f"{fleet.bucket.name}.") == endpoint.netloc
        assert 0 < int(parse_qs(location.query)["X-Amz-Expires"][0]) <= 300
        stored = await client.get(redirect.headers["location"])
        assert hashlib.sha256(stored.content).hexdigest() == file.view["sha256"]
        assert len(stored.content) == file.view["size_bytes"]
        assert stored.headers["content-type"] == "text/csv; charset=utf-8"
        assert stored.headers["content-disposition"].startswith('attachment; filename="export-')
    assert (await fleet.actions_of(file.view["job_id"]))[3:] == [
        ("export:downloaded", "link", None),
        ("export:downloaded", "user", str(file.owner.id)),
    ]
    listed = (await client.get(f"{file.path}/downloads", headers=file.owner.headers)).json()["downloads"]
    assert [download["by"] for download in listed] == ["owner", "link"]


async def test_head_uses_nothing_up(fleet: Fleet, client: httpx.AsyncClient, file: File) -> None:
    for _ in range(2):
        response = await client.head(file.link)
        assert (response.status_code, response.headers["content-length"]) == (200, str(file.view["size_bytes"]))
    assert len(await fleet.actions_of(file.view["job_id"])) == 3
    assert (await client.get(file.link)).status_code == 302


async def test_mail_gateways_may_add_parameters(client: httpx.AsyncClient, file: File) -> None:
    assert (await client.get(f"{file.link}&utm_source=mail")).status_code == 302


@pytest.mark.parametrize(("old", "new"), TAMPERED)
async def test_tampered(fleet: Fleet, client: httpx.AsyncClient, file: File, old: str, new: str) -> None:
    tampered = file.link.replace(old, new)
    assert tampered != file.link
    assert read_problem(await client.get(tampered), 404)["detail"] == "Export not found"
    assert ("export:denied", "link", None) in await fleet.actions_of(file.view["job_id"])


async def test_a_signature_of_another_export_is_refused(client: httpx.AsyncClient, file: File) -> None:
    made = (await client.post("/api/export", json={"format": "csv"}, headers=file.owner.headers)).json()
    swapped = file.link.replace(file.view["job_id"], made["job_id"])
    assert read_problem(await client.get(swapped), 404)["detail"] == "Export not found"


async def test_expired(fleet: Fleet, client: httpx.AsyncClient, file: File) -> None:
    (stored,) = fleet.bucket.rglob(f"{file.view['job_id']}/*")
    await fleet.database.execute("UPDATE carryout.export_jobs SET expires_at = now() WHERE user_id = $1", file.owner.id)
    for method in ("GET", "HEAD"):
        assert (await client.request(method, file.link)).status_code == 410
    gone = read_problem(await client.get(f"{file.path}/download", headers=file.owner.headers), 410)
    assert gone["detail"] == "This export's file is gone: it expired or was deleted"
    assert "download_url" not in (await client.get(file.path, headers=file.owner.headers)).json()

    await fleet.until_done(file.view["job_id"], "export:expired")
    await until_deleted(stored)


async def test_through_the_service(
    fleet: Fleet, proxying: httpx.AsyncClient, client: httpx.AsyncClient, file: File
) -> None:
    stored = (await client.get(file.link, follow_redirects=True)).content
    link = file.link.removeprefix(fleet.url)
    whole = await proxying.get(link)
    assert (whole.status_code, whole.content) == (200, stored)
    assert whole.headers["content-type"] == "text/csv; charset=utf-8"
    assert whole.headers["content-disposition"].startswith('attachment; filename="export-')
    assert (whole.headers["cache-control"], whole.headers["accept-ranges"]) == ("private, no-store", "bytes")
    for asked, part in RANGES:
        response = await proxying.get(link, headers={"Range": asked})
        assert (response.status_code, response.content) == (206, stored[part])
        assert response.headers["content-range"].endswith(f"/{len(stored)}")
    beyond = await proxying.get(link, headers={"Range": f"bytes={len(stored)}-"})
    read_problem(beyond, 416)
    assert beyond.headers["content-range"] == f"bytes */{len(stored)}"
    assert len(await fleet.actions_of(file.view["job_id"])) == 3 + 1 + 1 + len(RANGES)


async def test_in_a_browser_an_ended_link_is_a_page(client: httpx.AsyncClient, file: File) -> None:
    await client.delete(file.path, headers=file.owner.headers)
    response = await client.get(file.link, headers={"Accept": "text/html,*/*;q=0.8"})
    assert (response.status_code, response.headers["content-type"]) == (410, "text/html; charset=utf-8")
    assert "This link has ended" in response.text

"""Files in S3s of other makes: put, in parts, in ranges, by link, listed, deleted; and an export in them."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import msgspec
import pytest

from service.api.app import create_app
from service.backends.failures import NO_ANSWER, describe_cause
from service.backends.storage import PART_BYTES, ObjectStorage, open_storage
from service.errors import OutageError
from service.resources import open_resources
from service.settings import Settings
from tests.api.problems import bearer
from tests.api.serving import serve
from tests.backends.test_storage import CSV, LARGE, assert_nothing_left, chunks_of, read
from tests.compat.other_s3 import ACCESS_KEY, SECRET_KEY, open_moto, open_seaweedfs
from tests.conftest import PUBLIC_URL, Token, patient_client
from tests.support.factories import Connection, create_user

MAKES: Final = {"moto": open_moto, "seaweedfs": open_seaweedfs}
BUCKET: Final = "files"


@pytest.fixture(scope="module", params=MAKES)
def make(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def changes(make: str) -> AsyncIterator[dict[str, str]]:
    """The settings for the S3. Its log, which has links and names of hosts, isn't searched for secrets."""
    with tempfile.TemporaryDirectory(prefix=f"carryout-{make}-") as folder:
        async with MAKES[make](Path(folder)) as url:
            yield {
                "s3_endpoint_url": url,
                "s3_public_url": url,
                "s3_bucket": BUCKET,
                "s3_access_key_id": ACCESS_KEY,
                "s3_secret_access_key": SECRET_KEY,
                "s3_prefix": "team/eu/",
            }


@pytest.fixture(scope="module")
def there(common_settings: Settings, changes: dict[str, str]) -> Settings:
    return msgspec.structs.replace(common_settings, **changes)


@pytest.fixture(scope="module", autouse=True)
async def _bucket(there: Settings) -> None:
    async with open_storage(there) as storage:
        await storage._client.create_bucket(Bucket=BUCKET)


@pytest.fixture
async def storage(there: Settings) -> AsyncIterator[ObjectStorage]:
    async with open_storage(there) as opened:
        yield opened


@pytest.fixture
async def key(storage: ObjectStorage, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    name = f"exports/{request.node.originalname}/file.csv"
    yield name
    await storage.delete(name)
    await assert_nothing_left(storage, name)


@asynccontextmanager
async def opening(url: str, method: str = "GET", **headers: str) -> AsyncIterator[httpx.Response]:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        yield await client.request(method, url, headers=headers)


async def test_bucket(there: Settings, storage: ObjectStorage) -> None:
    assert await find_refusal(storage) is None
    async with open_storage(msgspec.structs.replace(there, s3_bucket="another")) as another:
        assert await find_refusal(another) == "has no such bucket"


async def find_refusal(storage: ObjectStorage) -> str | None:
    """The words for a check's failure, but for those of a loaded machine."""
    while True:
        try:
            await storage.check()
        except OutageError as error:
            if (words := describe_cause(error)) != NO_ANSWER:
                return words
        else:
            return None


@pytest.mark.parametrize("content", [b"", b"id,name\r\n", LARGE], ids=["empty", "small", "parts"])
@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
async def test_every_byte_is_kept(there: Settings, key: str, content: bytes, checksums: str) -> None:
    async with open_storage(msgspec.structs.replace(there, s3_checksums=checksums)) as storage:
        stored = await storage.upload(key, chunks_of(content), content_type=CSV)
        assert stored.size_bytes == len(content)
        assert await read(storage, key) == content
        if content == LARGE:
            assert await read(storage, key, (5, PART_BYTES + 5)) == LARGE[5 : PART_BYTES + 6]


async def test_listing_and_deletion(storage: ObjectStorage, key: str) -> None:
    await storage.upload(key, chunks_of(b"x"), content_type=CSV)
    assert [found async for page in storage.list_keys("exports/test_listing") for found in page] == [key]
    assert [found async for page in storage.list_keys("team") for found in page] == []
    assert await storage.has(key)
    for _ in range(2):
        await storage.delete(key)
    assert not await storage.has(key)


async def test_an_unfinished_upload_is_found_and_ended(storage: ObjectStorage, key: str) -> None:
    upload_id = await storage._begin(key, CSV)
    assert [upload async for page in storage.list_uploads("another") for upload in page] == []
    ((upload,),) = [page async for page in storage.list_uploads(key)]
    assert upload == (key, upload_id)
    for _ in range(2):
        await storage.abort_upload(upload)


async def test_link(make: str, storage: ObjectStorage, key: str) -> None:
    await storage.upload(key, chunks_of(b"id,name\r\n"), content_type="application/octet-stream")
    url = await storage.presign(key, filename="naïve.csv", content_type=CSV, expires_in_seconds=300)
    async with opening(url) as answer:
        assert (answer.status_code, answer.content) == (200, b"id,name\r\n")
        assert answer.headers["content-type"] == CSV
        assert answer.headers["content-disposition"].endswith("filename*=UTF-8''na%C3%AFve.csv")
        assert answer.headers["cache-control"] == "private, no-store"
    async with opening(url, range="bytes=1-1") as part:
        assert (part.status_code, part.content) == (206, b"d")
    async with opening(url[:-1] + ("0" if url[-1] != "0" else "1")) as forged:
        assert forged.status_code == (200 if make == "moto" else 403)


async def test_wrong_keys(make: str, there: Settings) -> None:
    async with open_storage(msgspec.structs.replace(there, s3_secret_access_key="another")) as storage:
        refusal = await find_refusal(storage)
    assert refusal == (None if make == "moto" else "refuses the keys: SignatureDoesNotMatch")


async def test_an_export(settings: Settings, changes: dict[str, str], database: Connection, token: Token) -> None:
    headers = bearer(token(await create_user(database)))
    async with (
        open_resources(msgspec.structs.replace(settings, **changes)) as resources,
        serve(create_app(resources)) as served,
        patient_client(served) as api,
    ):
        created = (await api.post("/api/export", json={"format": "csv"}, headers=headers)).json()
        redirected = await api.get(created["download_url"].removeprefix(PUBLIC_URL))
        view = (await api.get(f"/api/export/{created['job_id']}", headers=headers)).json()
        async with opening(redirected.headers["location"]) as file:
            assert (file.status_code, len(file.content)) == (200, view["size_bytes"])
        deleted = await api.delete(f"/api/export/{created['job_id']}", headers=headers)
        assert deleted.status_code == 204
        async with opening(redirected.headers["location"]) as gone:
            assert gone.status_code in {403, 404}

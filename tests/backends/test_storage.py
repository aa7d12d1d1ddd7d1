"""Files in a real S3 server, and what is left there when things break."""

import asyncio
import hashlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from urllib.parse import parse_qs
from uuid import uuid4

import httpx
import msgspec
import pytest

from devstack.stack import Stack
from service.backends import storage as storage_module
from service.backends.s3 import MAX_DOWNLOADS, MAX_DOWNLOADS_OF_ONE_OWNER
from service.backends.storage import PART_BYTES, ObjectStorage, OpenUpload, open_storage
from service.errors import ConfigurationError, ExportGoneError, OutageError, UnavailableError
from service.settings import Settings, from_env
from tests.support.wires import Connection, Proxy

CSV = "text/csv; charset=utf-8"
LARGE = random.Random(1).randbytes(20 * 2**20)  # noqa: S311 (content, not a secret: two whole parts and a half)
Cut = Callable[[bytes, bytes | None], bool]


class SourceFailedError(Exception):
    pass


@pytest.fixture(scope="session")
def settings(stack: Stack) -> Settings:
    return from_env(stack.environ | {"CARRYOUT_PUBLIC_URL": "http://localhost"})


@pytest.fixture
async def storage(settings: Settings) -> AsyncIterator[ObjectStorage]:
    async with open_storage(settings) as storage:
        yield storage


@pytest.fixture
def key() -> str:
    return f"{uuid4()}/file.csv"


@pytest.fixture
def silent_settings(settings: Settings) -> Iterator[Settings]:
    """The kernel accepts connections to this server, but no process reads from them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield msgspec.structs.replace(settings, s3_endpoint_url=f"http://127.0.0.1:{server.getsockname()[1]}")


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CALL_TIMEOUT_SECONDS", "SEND_TIMEOUT_SECONDS", "CHECK_TIMEOUT_SECONDS"):
        monkeypatch.setattr(storage_module, name, 0.2)


class CutProxy(Proxy):
    """Asks `cut` about each request and, with the request, each piece of its answer."""

    def __init__(self, url: str, cut: Cut) -> None:
        super().__init__(url)
        self._cut = cut

    def connect(self, client: asyncio.StreamWriter) -> Connection:
        return _CutConnection(client, self._cut)


class _CutConnection(Connection):
    def __init__(self, client: asyncio.StreamWriter, cut: Cut) -> None:
        super().__init__(client)
        self._cut = cut
        self._request = b""

    async def ask(self, chunk: bytes) -> bytes:
        if not chunk.startswith((b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")):
            return chunk
        self._request = chunk
        return b"" if self._cut(chunk, None) else chunk

    async def answer(self, chunk: bytes) -> bytes:
        return b"" if self._cut(self._request, chunk) else chunk


@asynccontextmanager
async def open_through_proxy(settings: Settings, cut: Cut) -> AsyncIterator[ObjectStorage]:
    async with (
        CutProxy(settings.s3_endpoint_url, cut).open() as proxy,
        open_storage(msgspec.structs.replace(settings, s3_endpoint_url=proxy.url)) as storage,
    ):
        yield storage


async def chunks_of(content: bytes, size: int = 100_003) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def failing_after(content: bytes) -> AsyncIterator[bytes]:
    async for chunk in chunks_of(content):
        yield chunk
    raise SourceFailedError


async def read(storage: ObjectStorage, key: str, byte_range: tuple[int, int] | None = None) -> bytes:
    async with storage.open_download(key, byte_range) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def assert_nothing_left(storage: ObjectStorage, key: str) -> None:
    assert [found async for page in storage.list_keys(key) for found in page] == []
    assert [upload async for page in storage.list_uploads(key) for upload in page] == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("s3_endpoint_url", "http://minio_server:9000", "CARRYOUT_S3_ENDPOINT_URL names no valid host"),
        ("s3_public_url", "https://files_of.example.com", "CARRYOUT_S3_PUBLIC_URL names no valid host"),
        ("s3_region", "Europe (Frankfurt)", "CARRYOUT_S3_REGION is not a valid region name"),
    ],
)
async def test_settings_that_name_no_valid_server_are_refused(
    settings: Settings, name: str, text: str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{words}"):
        await AsyncExitStack().enter_async_context(open_storage(msgspec.structs.replace(settings, **{name: text})))


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, len(LARGE)])
async def test_upload_keeps_every_byte(storage: ObjectStorage, key: str, size: int) -> None:
    content = LARGE[:size]
    digest = hashlib.sha256(content).digest()
    assert await storage.upload(key, chunks_of(content), content_type=CSV) == (storage.url + key, size, digest)
    assert hashlib.sha256(await read(storage, key)).digest() == digest
    assert [page async for page in storage.list_keys(key)] == [[key]]


async def test_a_prefix_that_a_url_escapes(settings: Settings, key: str) -> None:
    async with open_storage(msgspec.structs.replace(settings, s3_prefix="a!*'()/")) as storage:
        for content in (b"small", LARGE[:PART_BYTES]):
            await storage.upload(key, chunks_of(content), content_type=CSV)
            assert await read(storage, key) == content


async def test_chunk_larger_than_a_part(storage: ObjectStorage, key: str) -> None:
    stored = await storage.upload(key, chunks_of(LARGE, size=len(LARGE)), content_type=CSV)
    assert (stored.size_bytes, stored.sha256) == (len(LARGE), hashlib.sha256(LARGE).digest())
    assert await read(storage, key) == LARGE


@pytest.mark.parametrize("size", [0, 1000, PART_BYTES, 2 * PART_BYTES + 1])
async def test_failing_source_leaves_nothing(storage: ObjectStorage, key: str, size: int) -> None:
    tasks = asyncio.all_tasks()
    with pytest.raises(SourceFailedError):
        await storage.upload(key, failing_after(LARGE[:size]), content_type=CSV)
    assert asyncio.all_tasks() <= tasks
    await assert_nothing_left(storage, key)


async def test_source_is_left_to_its_owner(storage: ObjectStorage, key: str) -> None:
    chunks = failing_after(LARGE)
    with pytest.raises(UnavailableError):
        await ObjectStorage(storage._client, storage._signer, "no-such-bucket").upload(key, chunks, content_type=CSV)
    with pytest.raises(SourceFailedError):
        await _exhaust(chunks)


async def _exhaust(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


@pytest.mark.parametrize("moment", [b"?uploads", b"partNumber=1", b"partNumber=3"])
async def test_cancelled_upload_leaves_nothing(settings: Settings, key: str, moment: bytes) -> None:
    def cancel(request: bytes, answer: bytes | None) -> bool:
        if answer is None and moment in request:
            upload.cancel()
        return False

    async with open_through_proxy(settings, cancel) as storage:
        upload = asyncio.create_task(storage.upload(key, chunks_of(LARGE), content_type=CSV))
        with pytest.raises(asyncio.CancelledError):
            await upload
        await assert_nothing_left(storage, key)


async def test_upload_cancelled_again_while_aborting_leaves_nothing(
    settings: Settings, storage: ObjectStorage, key: str
) -> None:
    aborts = 0

    def cancel(request: bytes, answer: bytes | None) -> bool:
        nonlocal aborts
        if answer is not None or not (b"partNumber=2" in request or request.startswith(b"DELETE ")):
            return False
        aborts += request.startswith(b"DELETE ")
        upload.cancel()
        return aborts == 1  # the first one never arrives

    async with open_through_proxy(settings, cancel) as proxied:
        upload = asyncio.create_task(proxied.upload(key, chunks_of(LARGE), content_type=CSV))
        with pytest.raises(asyncio.CancelledError):
            await upload
    await assert_nothing_left(storage, key)


async def test_cancelled_source_leaves_nothing(storage: ObjectStorage, key: str) -> None:
    waiting = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield LARGE[: PART_BYTES + 1]
        waiting.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(storage.upload(key, stalling(), content_type=CSV))
    await waiting.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await assert_nothing_left(storage, key)


def is_complete(request: bytes) -> bool:
    return request.startswith(b"POST ") and b"?uploadId=" in request


@pytest.mark.parametrize("losses", [1, 100])
async def test_lost_answer_to_complete_is_success(settings: Settings, key: str, losses: int) -> None:
    lost = 0

    def lose_answer(request: bytes, answer: bytes | None) -> bool:
        nonlocal lost
        if answer is None or not is_complete(request) or lost == losses:
            return False
        lost += 1
        return True

    async with open_through_proxy(settings, lose_answer) as storage:
        stored = await storage.upload(key, chunks_of(LARGE), content_type=CSV)
        assert stored.size_bytes == len(LARGE)
        assert lost
        assert await read(storage, key) == LARGE


async def test_complete_that_never_arrives_is_a_failure(settings: Settings, key: str) -> None:
    async with open_through_proxy(settings, lambda request, answer: answer is None and is_complete(request)) as storage:
        with pytest.raises(UnavailableError):
            await storage.upload(key, chunks_of(LARGE), content_type=CSV)
        await assert_nothing_left(storage, key)


async def test_failing_part_leaves_nothing(settings: Settings, key: str) -> None:
    async with open_through_proxy(settings, lambda request, _: b"partNumber=2" in request) as storage:
        with pytest.raises(UnavailableError):
            await storage.upload(key, chunks_of(LARGE), content_type=CSV)
        await assert_nothing_left(storage, key)


async def test_download_that_breaks_off_raises(settings: Settings, storage: ObjectStorage, key: str) -> None:
    await storage.upload(key, chunks_of(LARGE), content_type=CSV)

    def cut_body(request: bytes, answer: bytes | None) -> bool:
        return answer is not None and request.startswith(b"GET ") and not answer.startswith(b"HTTP/")

    async with open_through_proxy(settings, cut_body) as proxied:
        with pytest.raises(UnavailableError):
            await read(proxied, key)


SILENT_CALLS: dict[str, Callable[[ObjectStorage], Awaitable[object]]] = {
    "put": lambda storage: storage.upload("key", chunks_of(LARGE[: PART_BYTES - 1]), content_type=CSV),
    "upload": lambda storage: storage.upload("key", chunks_of(LARGE), content_type=CSV),
    "delete": lambda storage: storage.delete("key"),
    "download": lambda storage: read(storage, "key"),
    "list": lambda storage: anext(storage.list_keys("")),
    "list uploads": lambda storage: anext(storage.list_uploads("")),
    "abort": lambda storage: storage.abort_upload(OpenUpload("key", "upload")),
    "check": lambda storage: storage.check(),
}


@pytest.mark.parametrize("call", SILENT_CALLS.values(), ids=SILENT_CALLS)
async def test_silent_server_is_unavailable(
    silent_settings: Settings, impatience: None, call: Callable[[ObjectStorage], Awaitable[object]]
) -> None:
    async with open_storage(silent_settings) as storage:
        with pytest.raises(UnavailableError) as raised:
            await call(storage)
    assert raised.value.detail == "The file storage is unavailable"
    assert isinstance(raised.value.__cause__, TimeoutError)


async def test_call_to_a_silent_server_can_be_cancelled(silent_settings: Settings) -> None:
    async with open_storage(silent_settings) as storage:
        call = asyncio.create_task(storage.delete("key"))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_refused_connection_is_unavailable(settings: Settings) -> None:
    nowhere = msgspec.structs.replace(settings, s3_endpoint_url="http://127.0.0.1:1")
    async with open_storage(nowhere) as storage:
        with pytest.raises(UnavailableError):
            await storage.check()


async def test_wrong_credentials_are_an_outage(settings: Settings, key: str) -> None:
    wrong = msgspec.structs.replace(settings, s3_secret_access_key="another-secret-key")
    async with open_storage(wrong) as storage:
        with pytest.raises(OutageError):
            await storage.check()
        with pytest.raises(OutageError):
            await storage.delete(key)


class StatusProxy(Proxy):
    """Answers each request itself."""

    def __init__(self, url: str, status: HTTPStatus) -> None:
        super().__init__(url)
        self._status = status

    def connect(self, client: asyncio.StreamWriter) -> Connection:
        return _StatusConnection(client, self._status)


class _StatusConnection(Connection):
    def __init__(self, client: asyncio.StreamWriter, status: HTTPStatus) -> None:
        super().__init__(client)
        self._status = status

    async def ask(self, _chunk: bytes) -> bytes:
        return self.fail(self._status)


@pytest.mark.parametrize(
    ("status", "outage"),
    [
        (HTTPStatus.BAD_REQUEST, False),
        (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, False),
        (HTTPStatus.UNAUTHORIZED, True),
        (HTTPStatus.FORBIDDEN, False),  # the key is held
        (HTTPStatus.TOO_MANY_REQUESTS, True),
        (HTTPStatus.SERVICE_UNAVAILABLE, True),
    ],
)
async def test_refusal_of_one_object_is_not_an_outage(
    settings: Settings,
    key: str,
    status: HTTPStatus,
    outage: bool,  # noqa: FBT001 (a parameter)
) -> None:
    async with (
        StatusProxy(settings.s3_endpoint_url, status).open() as proxy,
        open_storage(msgspec.structs.replace(settings, s3_endpoint_url=proxy.url)) as storage,
    ):
        with pytest.raises(UnavailableError) as raised:
            await storage.delete(key)
    assert isinstance(raised.value, OutageError) == outage


async def test_missing_right_to_store_is_an_outage(settings: Settings, key: str) -> None:
    async with (
        StatusProxy(settings.s3_endpoint_url, HTTPStatus.FORBIDDEN).open() as proxy,
        open_storage(msgspec.structs.replace(settings, s3_endpoint_url=proxy.url)) as storage,
    ):
        with pytest.raises(OutageError):
            await storage.upload(key, chunks_of(b"x"), content_type=CSV)


async def test_missing_bucket_is_an_outage(storage: ObjectStorage, key: str) -> None:
    with pytest.raises(OutageError):
        await ObjectStorage(storage._client, storage._signer, "no-such-bucket").upload(
            key, chunks_of(b"x"), content_type=CSV
        )


async def test_check(storage: ObjectStorage) -> None:
    await storage.check()
    with pytest.raises(UnavailableError):
        await ObjectStorage(storage._client, storage._signer, "no-such-bucket").check()


async def test_delete_twice(storage: ObjectStorage, key: str) -> None:
    await storage.upload(key, chunks_of(b"x"), content_type=CSV)
    await storage.delete(key)
    await storage.delete(key)
    await assert_nothing_left(storage, key)
    with pytest.raises(ExportGoneError):
        await read(storage, key)


@pytest.mark.parametrize("byte_range", [(0, 0), (7, 1_000_006), (len(LARGE) - 1, len(LARGE) - 1), (0, len(LARGE) - 1)])
async def test_download_of_a_range(storage: ObjectStorage, key: str, byte_range: tuple[int, int]) -> None:
    await storage.upload(key, chunks_of(LARGE), content_type=CSV)
    first, last = byte_range
    assert await read(storage, key, byte_range) == LARGE[first : last + 1]


async def test_abandoned_download_leaves_the_storage_usable(storage: ObjectStorage, key: str) -> None:
    await storage.upload(key, chunks_of(LARGE), content_type=CSV)
    for _ in range(3):
        async with storage.open_download(key) as chunks:
            assert LARGE.startswith(await anext(chunks))
    await storage.check()


async def test_downloads_leave_connections_for_the_rest(storage: ObjectStorage, key: str) -> None:
    other = f"{key}-other"
    await storage.upload(key, chunks_of(LARGE), content_type=CSV)
    await storage.upload(other, chunks_of(b"small"), content_type=CSV)
    async with AsyncExitStack() as slow_readers:
        for owner in range(1, 1 + MAX_DOWNLOADS // MAX_DOWNLOADS_OF_ONE_OWNER):
            assert await read(storage, other) == b"small"
            for _ in range(MAX_DOWNLOADS_OF_ONE_OWNER):
                await slow_readers.enter_async_context(storage.open_download(key, owner=owner))
            with pytest.raises(UnavailableError, match="Too many files"):
                await slow_readers.enter_async_context(storage.open_download(other, owner=owner))
        with pytest.raises(UnavailableError, match="Too many files are being downloaded"):
            await read(storage, other)
        await storage.check()
    assert await read(storage, key, (0, 1)) == LARGE[:2]


async def test_open_uploads_are_listed_and_aborted(storage: ObjectStorage, key: str) -> None:
    upload_id = await storage._begin(key, CSV)
    assert [page async for page in storage.list_uploads("another-prefix") if page] == []
    ((upload,),) = [page async for page in storage.list_uploads(key)]
    assert upload == (key, upload_id)
    for _ in range(2):
        await storage.abort_upload(upload)
    await assert_nothing_left(storage, key)


async def test_bucket_that_was_never_used(storage: ObjectStorage, key: str) -> None:
    bucket = f"fresh-{uuid4()}"
    await storage._client.create_bucket(Bucket=bucket)
    await assert_nothing_left(ObjectStorage(storage._client, storage._signer, bucket), key)


async def test_presigned_url_downloads(storage: ObjectStorage, key: str) -> None:
    await storage.upload(key, chunks_of(b"id,name\r\n"), content_type="application/octet-stream")
    url = await storage.presign(key, filename="export.csv", content_type=CSV, expires_in_seconds=300)
    async with httpx.AsyncClient() as client:
        answer = await client.get(url)
        forged = await client.get(url[:-1] + ("0" if url[-1] != "0" else "1"))
    assert (answer.status_code, answer.content) == (200, b"id,name\r\n")
    assert answer.headers["content-type"] == CSV
    assert answer.headers["content-disposition"] == 'attachment; filename="export.csv"'
    assert answer.headers["cache-control"] == "private, no-store"
    assert forged.status_code == 403


async def test_presigned_url_is_for_the_public_address(silent_settings: Settings) -> None:
    public = msgspec.structs.replace(silent_settings, s3_public_url="https://files.example.test")
    async with open_storage(public) as storage:
        url = await storage.presign("a/b.csv", filename="b.csv", content_type=CSV, expires_in_seconds=60)
    assert url.startswith(f"https://files.example.test/{public.s3_bucket}/a/b.csv?")
    assert parse_qs(url)["X-Amz-Expires"] == ["60"]


@pytest.mark.parametrize("seconds", [0, 301])
async def test_presigned_url_lives_at_most_five_minutes(storage: ObjectStorage, seconds: int) -> None:
    with pytest.raises(ValueError, match="300"):
        await storage.presign("key", filename="x.csv", content_type=CSV, expires_in_seconds=seconds)


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("users_export.csv", 'attachment; filename="users_export.csv"'),
        ('a";x="b.csv', "attachment; filename=\"a__x__b.csv\"; filename*=UTF-8''a%22%3Bx%3D%22b.csv"),
        ("a\r\nSet-Cookie: x", "attachment; filename=\"a__Set-Cookie_ x\"; filename*=UTF-8''a__Set-Cookie%3A%20x"),
        ("naïve ☃.csv", "attachment; filename=\"na_ve _.csv\"; filename*=UTF-8''na%C3%AFve%20%E2%98%83.csv"),
        ("../\\\0\udc80", "attachment; filename=\"..____\"; filename*=UTF-8''..___%3F"),
    ],
)
async def test_hostile_filename(storage: ObjectStorage, key: str, filename: str, header: str) -> None:
    await storage.upload(key, chunks_of(b"x"), content_type=CSV)
    url = await storage.presign(key, filename=filename, content_type=CSV, expires_in_seconds=60)
    async with httpx.AsyncClient() as client:
        answer = await client.get(url)
    assert answer.headers["content-disposition"] == header
    assert "set-cookie" not in answer.headers

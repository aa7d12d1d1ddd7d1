"""The files of finished exports, in an S3 bucket."""

import asyncio
import datetime as dt
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from io import BytesIO
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from botocore.exceptions import ClientError

from service.backends.s3 import MAX_DOWNLOADS, MAX_DOWNLOADS_OF_ONE_OWNER, answer_within, encryption, open_client
from service.backends.s3_put import SignedPut
from service.content_disposition import attachment
from service.errors import ExportGoneError, UnavailableError
from service.settings import Settings

# S3 takes parts from 5 MiB and at most 10,000 of them; two of these are in memory during an upload.
PART_BYTES = 8 * 2**20
CHUNK_BYTES = 64 * 2**10
MAX_PRESIGN_SECONDS = 300

# botocore's own timeouts don't count while a body is being written: a server that accepts the connection and reads
# nothing would hold the call for ever. So each call is bounded as a whole, its retries and the wait for a connection
# included.
CALL_TIMEOUT_SECONDS = 45.0  # one read timeout of 30 s, and a retry that is answered
SEND_TIMEOUT_SECONDS = 120.0  # one part at 70 kB/s
CHECK_TIMEOUT_SECONDS = 2.0  # a probe's patience
LOOK_TIMEOUT_SECONDS = 10.0  # that of a user who clicks a link
BUSY_SECONDS = 10  # until another download may have ended
ABORT_SECONDS = 2.0  # a worker that is told to stop has seconds, not a hanging storage's time-outs


NO_ENCRYPTION: Final[Mapping[str, str]] = MappingProxyType({})


class OpenUpload(NamedTuple):
    key: str
    upload_id: str


class StoredObject(NamedTuple):
    key: str
    modified_at: dt.datetime


class Stored(NamedTuple):
    """An uploaded object: `size_bytes` and `sha256` are those of the bytes that were sent."""

    url: str
    size_bytes: int
    sha256: bytes


class ObjectStorage:
    """One bucket. Every method raises OutageError if the storage is down, and another UnavailableError if it refuses
    only this request.
    """

    def __init__(
        self, client: Any, signer: Any, bucket: str, *, prefix: str = "", encryption: Mapping[str, str] = NO_ENCRYPTION
    ) -> None:
        """`client` does the work; `signer` knows the storage by the name that browsers use, and only signs.

        `prefix` stands before each key, and only here. `encryption` are arguments of the calls that create an object.
        """
        self._client = client
        self._signer = signer
        self._bucket = bucket
        self._prefix = prefix
        self._encryption = encryption
        self._signed_put = SignedPut(client, bucket, encryption)
        self.url: Final = f"s3://{bucket}/{prefix}"  # the prefix of all objects' URLs
        self._aborting: set[asyncio.Task[None]] = set()
        self._downloads: Counter[Hashable] = Counter()  # by owner

    async def aclose(self) -> None:
        """Wait briefly for pending aborts. The worker's sweep aborts the remaining uploads."""
        if self._aborting:
            _, left = await asyncio.wait(self._aborting, timeout=ABORT_SECONDS)
            for aborting in left:
                aborting.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def upload(self, key: str, chunks: AsyncIterator[bytes], *, content_type: str) -> Stored:
        """Store what `chunks` yields, hashed on the way. Closing `chunks` is the caller's.

        What `chunks` raises is raised unchanged, and no object appears. After an UnavailableError or a cancellation
        one may have appeared, if only the storage's last answer was lost.
        """
        sent: list[dict[str, Any]] = []
        size_bytes = 0
        digest = hashlib.sha256()
        async with aclosing(_cut_parts(chunks, digest)) as parts:
            part = await anext(parts, b"")
            if len(part) < PART_BYTES:
                await self._put(key, part, content_type)
                return Stored(self.url + key, len(part), digest.digest())
            async with self._open_upload(key, content_type) as upload_id:
                while part:
                    size_bytes += len(part)
                    sending = asyncio.create_task(self._send_part(key, upload_id, len(sent) + 1, part))
                    try:
                        part = await anext(parts, b"")  # filled while the one before is on its way
                        sent.append(await sending)
                    finally:
                        await _stop(sending)
                await self._complete(key, upload_id, sent, size_bytes)
        return Stored(self.url + key, size_bytes, digest.digest())

    async def delete(self, key: str) -> None:
        """Delete the object; that there is none is fine."""
        async with answer_within(CALL_TIMEOUT_SECONDS, may_hold_key=True):
            await self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    @asynccontextmanager
    async def open_download(
        self, key: str, byte_range: tuple[int, int] | None = None, *, owner: Hashable = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the object, or its bytes from first to last (inclusive) of `byte_range`, as an iterator of chunks.

        `owner` is whose it is: the objects of one, however many, are open a limited number of times.

        Raises ExportGoneError when there is none. The range must lie inside the object. An object that breaks off
        raises UnavailableError from the iterator, and so does opening while too many are open.
        """
        asked = {"Range": "bytes={}-{}".format(*byte_range)} if byte_range else {}
        with self._downloading(key if owner is None else owner):
            async with answer_within(CALL_TIMEOUT_SECONDS):
                try:
                    answer = await self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, **asked)
                except self._client.exceptions.NoSuchKey as error:
                    raise ExportGoneError("The file has been deleted") from error
            async with answer["Body"] as body, aclosing(_read(body)) as chunks:
                if byte_range:
                    _require_range(answer, *byte_range)
                yield chunks

    @contextmanager
    def _downloading(self, owner: Hashable) -> Iterator[None]:
        if self._downloads.total() >= MAX_DOWNLOADS:
            raise UnavailableError("Too many files are being downloaded", retry_after_seconds=BUSY_SECONDS)
        if self._downloads[owner] >= MAX_DOWNLOADS_OF_ONE_OWNER:
            raise UnavailableError("Too many files of this user are being downloaded", retry_after_seconds=BUSY_SECONDS)
        self._downloads[owner] += 1
        try:
            yield
        finally:
            self._downloads[owner] -= 1
            self._downloads += Counter()  # drop owners without open downloads

    async def presign(self, key: str, *, filename: str, content_type: str, expires_in_seconds: int) -> str:
        """Return a URL that downloads the object as `filename` for `expires_in_seconds` (at most 300).

        Nothing is asked of the storage, so the URL of a missing object is as good as any.
        """
        if not 1 <= expires_in_seconds <= MAX_PRESIGN_SECONDS:
            raise ValueError(f"A URL lives 1 to {MAX_PRESIGN_SECONDS} seconds, not {expires_in_seconds}")
        parameters = {
            "Bucket": self._bucket,
            "Key": self._prefix + key,
            "ResponseContentDisposition": attachment(filename),
            "ResponseContentType": content_type,
            "ResponseCacheControl": "private, no-store",
        }
        async with answer_within(CALL_TIMEOUT_SECONDS):  # signing may have to renew temporary credentials first
            url: str = await self._signer.generate_presigned_url("get_object", parameters, expires_in_seconds)
        return url

    async def list_uploads(self, prefix: str) -> AsyncIterator[list[OpenUpload]]:
        """The multipart uploads that were neither completed nor aborted, in pages of at most 1,000."""
        async for page in self._pages("list_multipart_uploads", prefix):
            async with answer_within(CALL_TIMEOUT_SECONDS):
                uploads = [
                    OpenUpload(upload["Key"].removeprefix(self._prefix), upload["UploadId"])
                    for upload in page.get("Uploads", ())
                ]
            yield uploads

    async def abort_upload(self, upload: OpenUpload) -> None:
        """Abort it; that there is none any more is fine."""
        async with answer_within(CALL_TIMEOUT_SECONDS, may_hold_key=True):
            with suppress(self._client.exceptions.NoSuchUpload):
                await self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=self._prefix + upload.key, UploadId=upload.upload_id
                )

    async def list_keys(self, prefix: str) -> AsyncIterator[list[str]]:
        """The keys of the objects, in pages of at most 1,000."""
        async for page in self._pages("list_objects_v2", prefix):
            async with answer_within(CALL_TIMEOUT_SECONDS):
                keys = [found["Key"].removeprefix(self._prefix) for found in page.get("Contents", ())]
            yield keys

    async def list_objects(self, prefix: str) -> AsyncIterator[list[StoredObject]]:
        """The objects, in pages of at most 1,000."""
        async for page in self._pages("list_objects_v2", prefix):
            async with answer_within(CALL_TIMEOUT_SECONDS):
                objects = [
                    StoredObject(found["Key"].removeprefix(self._prefix), found["LastModified"])
                    for found in page.get("Contents", ())
                ]
            yield objects

    async def has(self, key: str) -> bool:
        """Whether the object is there.

        A refused HEAD doesn't tell a missing object from a missing bucket or missing rights. Then a list tells.
        """
        async with answer_within(LOOK_TIMEOUT_SECONDS):
            with suppress(ClientError):
                await self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
                return True
            page = await self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + key, MaxKeys=1)
            return any(found["Key"] == self._prefix + key for found in page.get("Contents", ()))

    async def check(self) -> None:
        """Return when the bucket is there and answers within two seconds.

        HEAD is cheap, but its refusals say nothing, and with rights to a prefix it may be refused. Then a list tells.
        """
        async with answer_within(CHECK_TIMEOUT_SECONDS):
            if not self._prefix:
                with suppress(ClientError):
                    await self._client.head_bucket(Bucket=self._bucket)
                    return
            await self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    async def _put(self, key: str, content: bytes, content_type: str) -> None:
        key = self._prefix + key
        async with answer_within(SEND_TIMEOUT_SECONDS):
            if await self._signed_put.put(key, content, content_type):
                return
            answer = await self._client.put_object(
                Bucket=self._bucket, Key=key, Body=content, ContentType=content_type, **self._encryption
            )
            _require_etag(answer)

    @asynccontextmanager
    async def _open_upload(self, key: str, content_type: str) -> AsyncIterator[str]:
        """Begin a multipart upload and yield its id; abort it when the body raises.

        Beginning is a task of its own: cancelled half-way, it would leave an upload with an unknown id.
        """
        beginning = asyncio.create_task(self._begin(key, content_type))
        try:
            yield await asyncio.shield(beginning)
        except BaseException:
            aborting = asyncio.create_task(self._abort_begun(key, beginning))
            self._aborting.add(aborting)
            aborting.add_done_callback(self._aborting.discard)
            await asyncio.wait({aborting}, timeout=ABORT_SECONDS)
            raise

    async def _begin(self, key: str, content_type: str) -> str:
        async with answer_within(CALL_TIMEOUT_SECONDS):
            answer = await self._client.create_multipart_upload(
                Bucket=self._bucket, Key=self._prefix + key, ContentType=content_type, **self._encryption
            )
            upload_id: str = answer["UploadId"]
        return upload_id

    async def _send_part(self, key: str, upload_id: str, number: int, part: bytes) -> dict[str, Any]:
        async with answer_within(SEND_TIMEOUT_SECONDS):
            answer = await self._client.upload_part(
                Bucket=self._bucket, Key=self._prefix + key, UploadId=upload_id, PartNumber=number, Body=part
            )
            return {"PartNumber": number, "ETag": _require_etag(answer)}

    async def _complete(self, key: str, upload_id: str, sent: list[dict[str, Any]], size_bytes: int) -> None:
        try:
            async with answer_within(SEND_TIMEOUT_SECONDS):
                answer = await self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=self._prefix + key, UploadId=upload_id, MultipartUpload={"Parts": sent}
                )
                _require_etag(answer)
        except UnavailableError:
            # The answer may be lost and the work done; botocore's retry then reports an unknown upload.
            if await self._find_size(key) != size_bytes:
                raise

    async def _find_size(self, key: str) -> int | None:
        async with answer_within(CALL_TIMEOUT_SECONDS):
            try:
                answer = await self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if error.response["Error"]["Code"] == "404":
                    return None
                raise
            size_bytes: int = answer["ContentLength"]
        return size_bytes

    async def _abort_begun(self, key: str, beginning: asyncio.Task[str]) -> None:
        """Abort the upload if it was created. The worker's sweep retries a failed abort."""
        with suppress(UnavailableError):
            await self.abort_upload(OpenUpload(key, await beginning))

    async def _pages(self, operation: str, prefix: str) -> AsyncGenerator[dict[str, Any]]:
        paginator = self._client.get_paginator(operation)
        pages = aiter(paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix))
        while True:
            page = None
            async with answer_within(CALL_TIMEOUT_SECONDS):
                # rclone's word for a bucket that has seen no multipart upload yet
                with suppress(self._client.exceptions.NoSuchUpload):
                    page = await anext(pages, None)
            if page is None:
                return
            yield page


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[ObjectStorage]:
    """Open the bucket of `settings`; one for each process, as making its clients takes a fifth of a second of CPU."""
    async with (
        open_client(settings, settings.s3_endpoint_url, name="S3_ENDPOINT_URL") as client,
        # A URL signed for one host is refused by another.
        open_client(settings, settings.s3_public_url, name="S3_PUBLIC_URL") as signer,
        aclosing(
            ObjectStorage(
                client, signer, settings.s3_bucket, prefix=settings.s3_prefix, encryption=encryption(settings)
            )
        ) as storage,
    ):
        yield storage


async def _cut_parts(chunks: AsyncIterator[bytes], digest: "hashlib._Hash") -> AsyncGenerator[bytes]:
    """The same bytes in parts of PART_BYTES, the last one shorter; `digest` is updated with them.

    BytesIO hands its bytes over without a copy.
    """
    part = BytesIO()
    async for chunk in chunks:
        digest.update(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[part.write(rest[: PART_BYTES - part.tell()]) :]
            if part.tell() == PART_BYTES:
                yield part.getvalue()
                part = BytesIO()
    if part.tell():
        yield part.getvalue()


def _require_etag(answer: Mapping[str, Any]) -> str:
    """The ETag, which S3 returns for all that it has stored. A page of another server, also with 200, has none."""
    etag: str = answer["ETag"]
    return etag


def _require_range(answer: Mapping[str, Any], first: int, last: int) -> None:
    """Raise UnavailableError for other bytes: a storage may ignore the range, and send the whole object."""
    if not answer.get("ContentRange", "").startswith(f"bytes {first}-{last}/"):
        raise UnavailableError("The file storage sent other bytes than the requested range")


async def _read(body: Any) -> AsyncGenerator[bytes]:
    while True:
        async with answer_within(CALL_TIMEOUT_SECONDS):
            chunk: bytes = await body.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


async def _stop(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

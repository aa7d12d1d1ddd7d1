"""The application's files, read from a store of attachments. A fault of one file is told apart from an outage of its
store.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from botocore.exceptions import ClientError

from service.backends.failures import describe_cause
from service.backends.s3 import Keys, answer_within, is_refusal, open_client
from service.errors import OutageError, ServiceError, find_cause
from service.file_stores import FileStore
from service.settings import Settings
from service.user_ids import UserId

CHUNK_BYTES: Final = 256 * 1024
LOOK_TIMEOUT_SECONDS: Final = 10.0
CHECK_TIMEOUT_SECONDS: Final = 10.0
# One without a byte. All of them together: see _Patience.
READ_TIMEOUT_SECONDS: Final = 30.0
SLOWEST_BYTES_PER_SECOND: Final = 32 * 1024
TRIES: Final = 3
# The name of no object. It is asked for to hear how the store refuses it.
PROBE: Final = "carryout-probe"


class Fault(StrEnum):
    """Why a file isn't in the package."""

    OUTSIDE = "outside"
    MISSING = "missing"
    CHANGED = "changed"
    DENIED = "denied"
    UNREADABLE = "unreadable"


# Without s3:ListBucket, S3 answers so for each missing object, however well its rights fit.
DENIALS: Final = frozenset({"403", "AccessDenied", "Forbidden"})
# S3's codes of refusals that are about one object; the others deny it.
FAULTS: Final[Mapping[str, Fault]] = {
    "404": Fault.MISSING,
    "NoSuchKey": Fault.MISSING,
    "NotFound": Fault.MISSING,
    "412": Fault.CHANGED,
    "PreconditionFailed": Fault.CHANGED,
    "416": Fault.CHANGED,
    "InvalidRange": Fault.CHANGED,
}


class AttachmentError(ServiceError):
    """A file can't be read, and its store is up: trying again may not help."""

    def __init__(self, fault: Fault, cause: str) -> None:
        """`cause` is for operators."""
        super().__init__(cause)
        self.fault = fault


class Version(NamedTuple):
    """The content that an object had when it was looked at."""

    size_bytes: int
    etag: str


class AttachmentStore:
    """One store. Methods raise AttachmentError for a file that can't be read, and OutageError if the store is down."""

    def __init__(self, client: Any, store: FileStore) -> None:
        self._client = client
        self._store = store
        self.name: Final = store.name

    def may_hold(self, key: str, user_id: UserId) -> bool:
        return self._store.may_hold(key, user_id)

    async def look(self, key: str) -> Version:
        """The object's size and version."""
        for _ in range(TRIES - 1):
            try:
                return await self._look(key)
            except AttachmentError as error:
                if error.fault is not Fault.UNREADABLE:
                    raise
        return await self._look(key)

    async def _look(self, key: str) -> Version:
        """HEAD is refused without a reason; then the refusal of a GET gives it."""
        async with self._judging(), answer_within(LOOK_TIMEOUT_SECONDS), _naming_refusals():
            try:
                answer = await self._client.head_object(Bucket=self._store.bucket, Key=key)
            except ClientError as error:
                if not is_refusal(error):
                    raise
                answer = await self._client.get_object(Bucket=self._store.bucket, Key=key)
                answer["Body"].close()
            return Version(answer["ContentLength"], answer["ETag"])

    async def read(self, key: str, version: Version) -> AsyncGenerator[bytes, None]:
        """The object's content; a read that breaks off continues where it was, in the same version."""
        patience = _Patience(version)
        done = 0
        for left in reversed(range(TRIES)):
            try:
                async with aclosing(self._read_from(key, version, done, patience)) as chunks:
                    async for chunk in chunks:
                        done += len(chunk)
                        yield chunk
            except AttachmentError as error:
                if not left or error.fault is not Fault.UNREADABLE:
                    raise
            else:
                return

    async def check(self) -> None:
        """Return when the store answers, be it with a refusal of this request."""
        try:
            async with answer_within(CHECK_TIMEOUT_SECONDS):
                try:
                    await self._client.list_objects_v2(
                        Bucket=self._store.bucket, Prefix=self._store.common_prefix, MaxKeys=1
                    )
                except ClientError as error:
                    if not is_refusal(error):
                        raise
        except OutageError as error:
            raise self._outage() from error

    async def find_failure(self) -> str | None:
        """The reason why no file at all can be read: wrong keys, no such bucket, or no answer. Rights to read can't be
        told: see DENIALS.
        """
        try:
            await self._look(self._store.common_prefix + PROBE)
        except AttachmentError as error:
            is_about_object = error.fault is not Fault.DENIED or _code_of(find_cause(error)) in DENIALS
            return None if is_about_object else error.detail
        except OutageError as error:
            return describe_cause(error)
        return None

    async def _read_from(
        self, key: str, version: Version, start: int, patience: "_Patience"
    ) -> AsyncGenerator[bytes, None]:
        range_ = {"Range": f"bytes={start}-"} if start else {}
        async with AsyncExitStack() as stack:
            async with self._judging(), answer_within(READ_TIMEOUT_SECONDS), _naming_refusals():
                answer = await self._client.get_object(
                    Bucket=self._store.bucket, Key=key, IfMatch=version.etag, **range_
                )
                body = await stack.enter_async_context(answer["Body"])
                _require_version(answer, version, start)
            left = version.size_bytes - start
            while left:
                async with self._judging(), answer_within(patience.left()), patience.counting():
                    chunk: bytes = await body.read(min(CHUNK_BYTES, left))
                    if not chunk:
                        raise OSError("the object ended early")
                left -= len(chunk)
                yield chunk

    @asynccontextmanager
    async def _judging(self) -> AsyncIterator[None]:
        """Blame the store for silence and nonsense if it doesn't answer anything else either, and else the file."""
        try:
            yield
        except OutageError as error:
            if _is_overload(find_cause(error)):
                raise self._outage() from error
            await self.check()
            raise AttachmentError(Fault.UNREADABLE, describe_cause(error)) from error

    def _outage(self) -> OutageError:
        return OutageError(f"The store {self.name} is unavailable", server=f"store {self.name}")


class _Patience:
    """The time that a file may keep us waiting, which grows with its size; what we take ourselves doesn't count."""

    def __init__(self, version: Version) -> None:
        self._seconds = READ_TIMEOUT_SECONDS + version.size_bytes / SLOWEST_BYTES_PER_SECOND

    def left(self) -> float:
        return max(0.0, min(READ_TIMEOUT_SECONDS, self._seconds))

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds -= time.monotonic() - began


@asynccontextmanager
async def open_attachment_stores(settings: Settings) -> AsyncIterator[dict[str, AttachmentStore]]:
    """The stores that the settings name, by name."""
    async with AsyncExitStack() as stack:
        yield {
            store.name: AttachmentStore(await stack.enter_async_context(_open_client(settings, store)), store)
            for store in settings.file_stores
        }


def _open_client(settings: Settings, store: FileStore) -> Any:
    return open_client(
        settings,
        store.endpoint_url or settings.s3_endpoint_url,
        name=f"FILE_STORE_{store.name.upper()}_ENDPOINT_URL",
        keys=Keys(store.access_key_id, store.secret_access_key) if store.access_key_id else None,
    )


@asynccontextmanager
async def _naming_refusals() -> AsyncIterator[None]:
    try:
        yield
    except ClientError as error:
        if not is_refusal(error):
            raise
        raise AttachmentError(FAULTS.get(_code_of(error), Fault.DENIED), describe_cause(error)) from error


def _code_of(error: BaseException) -> str:
    """S3's code of a refusal."""
    return str(error.response["Error"].get("Code", "Unknown")) if isinstance(error, ClientError) else ""


def _is_overload(cause: BaseException) -> bool:
    """Whether the store asks us to wait, which is independent of the file."""
    overloads = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
    return isinstance(cause, ClientError) and cause.response["ResponseMetadata"]["HTTPStatusCode"] in overloads


def _require_version(answer: Mapping[str, Any], version: Version, start: int) -> None:
    """Raise AttachmentError for another one: a server may know neither If-Match nor ranges."""
    in_range = not start or answer.get("ContentRange", "").startswith(f"bytes {start}-")
    if answer["ETag"] != version.etag or answer["ContentLength"] != version.size_bytes - start or not in_range:
        raise AttachmentError(Fault.CHANGED, "sends another version than it had")

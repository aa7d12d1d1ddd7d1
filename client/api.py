"""Carryout's API as a client sees it."""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

import aiohttp
import msgspec
from yarl import URL

from client.errors import IncompleteError, RefusedError
from client.http import REDIRECTS, decode, open_answer, read_body, require_framing, retry_after_seconds
from client.retries import Backoff, Retry

MAX_JSON_BYTES = 1024 * 1024

T = TypeVar("T")


class Accepted(msgspec.Struct, frozen=True):
    """What every accepted export's answer holds; `wait_seconds` comes from a header."""

    job_id: str
    wait_seconds: float = 0


class Progress(msgspec.Struct, frozen=True):
    records_done: int
    records_total: int


class Export(msgspec.Struct, frozen=True):
    """An export as its owner sees it. `sha256` is hexadecimal."""

    job_id: str
    status: str
    format: str
    progress: Progress
    record_count: int | None = None
    error_message: str | None = None
    download_url: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None


class Answer(NamedTuple):
    body: bytes
    retry_after_seconds: float


class Api:
    """The service at `url`, asked with `credentials` (headers), which go nowhere else."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        credentials: Mapping[str, str],
        *,
        backoff: Backoff,
        say: Callable[[str], None],
    ) -> None:
        self.session = session
        self.url = url
        self.backoff = backoff
        self._credentials = credentials
        self._say = say

    def retry(self) -> Retry:
        return Retry(self.backoff, self._say)

    async def create_export(self, format_: str) -> Accepted:
        """An answer that gets lost is asked for again: the key makes it the same export."""
        key = {"Idempotency-Key": str(uuid.uuid4())}
        answer = await self._call("POST", "api/export", headers=key, body={"format": format_})
        return msgspec.structs.replace(decode(answer.body, Accepted), wait_seconds=answer.retry_after_seconds)

    async def show_export(self, job_id: str) -> Export:
        return decode((await self._call("GET", f"api/export/{job_id}")).body, Export)

    @asynccontextmanager
    async def open_document(self, path: str, query: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A document that is made while it is read. A broken one ends in an IncompleteError, never quietly."""
        async with self._open("GET", self.url / path % query, {}) as response:
            require_framing(response)
            yield response

    async def _call(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: Mapping[str, str] | None = None
    ) -> Answer:
        """Every call may be repeated: what it does is done once."""
        retry = self.retry()
        while True:
            try:
                async with self._open(method, self.url / path, headers or {}, body) as response:
                    return Answer(await read_body(response, max_bytes=MAX_JSON_BYTES), retry_after_seconds(response))
            except IncompleteError as error:
                await retry.pause(error)

    @asynccontextmanager
    async def _open(
        self, method: str, url: URL, headers: Mapping[str, str], body: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with open_answer(
            self.session, method, url, headers={**self._credentials, **headers}, body=body
        ) as response:
            if response.status in REDIRECTS:
                raise RefusedError(f"{url.host} redirects to {response.headers.get('Location')}: give that as --url")
            yield response

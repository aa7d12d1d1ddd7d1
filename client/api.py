"""A client of Carryout's API."""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec
from yarl import URL

from client.errors import IncompleteError, RefusedError
from client.http import REDIRECTS, Amount, decode, open_answer, read_body, require_framing, retry_after_seconds
from client.retries import Backoff, Retry
from client.words import gettext

MAX_JSON_BYTES = 1024 * 1024
REQUESTS = "api/v1/requests"

T = TypeVar("T")


class Accepted(msgspec.Struct, frozen=True):
    """The answer to an accepted export; `wait_seconds` comes from the header Retry-After."""

    job_id: str
    wait_seconds: float = 0


class Progress(msgspec.Struct, frozen=True):
    records_done: Amount
    records_total: Amount
    bytes_done: Amount = 0
    bytes_total: Amount = 0


class Files(msgspec.Struct, frozen=True):
    """Attachments of a package."""

    included: int = 0
    missing: int = 0


class Selection(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of the data to export; by default all."""

    sections: tuple[str, ...] | None = None
    start: str | None = msgspec.field(name="from", default=None)
    end: str | None = msgspec.field(name="to", default=None)
    since: str | None = None

    @property
    def query(self) -> dict[str, str]:
        given = msgspec.to_builtins(self)
        return {name: value if isinstance(value, str) else ",".join(value) for name, value in given.items()}


ALL = Selection()


class Export(msgspec.Struct, frozen=True):
    """An export as its owner sees it. `sha256` is hexadecimal."""

    job_id: str
    status: str
    format: str
    progress: Progress
    record_count: Amount | None = None
    error_message: str | None = None
    download_url: str | None = None
    size_bytes: Amount | None = None
    sha256: str | None = None
    filter: Selection = ALL
    files: Files = Files()


class ExportPage(msgspec.Struct, frozen=True):
    exports: list[Export]
    next: str | None


class RequestPage(msgspec.Struct, frozen=True):
    requests: list[dict[str, object]]
    next: str | None


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of an operation; `after` of a list names the key's columns."""

    schema: dict[str, Any] = {}

    @property
    def key(self) -> list[str] | None:
        return self.schema.get("x-carryout-key")


class Operation(msgspec.Struct, frozen=True):
    parameters: list[Parameter] = []


class Path(msgspec.Struct, frozen=True):
    get: Operation = Operation()


class Description(msgspec.Struct, frozen=True):
    """The parts of the OpenAPI document that the client uses."""

    paths: dict[str, Path]


class Answer(NamedTuple):
    body: bytes
    retry_after_seconds: float


class Api:
    """Calls the service at `url` with `credentials` (headers), which it sends to no other host."""

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

    async def create_export(self, format_: str, selection: Selection = ALL) -> Accepted:
        """Retries if the answer is lost: the idempotency key makes it the same export."""
        key = {"Idempotency-Key": str(uuid.uuid4())}
        body = {"format": format_, **msgspec.to_builtins(selection)}
        answer = await self._call("POST", "api/export", headers=key, body=body)
        return msgspec.structs.replace(decode(answer.body, Accepted), wait_seconds=answer.retry_after_seconds)

    async def show_export(self, job_id: str) -> Export:
        return decode((await self._call("GET", f"api/export/{job_id}")).body, Export)

    async def list_exports(self) -> list[Export]:
        """The newest hundred, newest first."""
        answer = await self._call("GET", "api/export", query={"limit": "100"})
        return decode(answer.body, ExportPage).exports

    async def create_request(self, body: Mapping[str, object], idempotency_key: str) -> str:
        """The id of the export that is asked for on a user's behalf. Retries if the answer is lost."""
        answer = await self._call("POST", REQUESTS, headers={"Idempotency-Key": idempotency_key}, body=body)
        return decode(answer.body, Accepted).job_id

    async def show_request(self, job_id: str) -> dict[str, object]:
        return decode((await self._call("GET", f"{REQUESTS}/{job_id}")).body, dict[str, object])

    async def list_requests(self, query: Mapping[str, str]) -> RequestPage:
        return decode((await self._call("GET", REQUESTS, query=query)).body, RequestPage)

    async def find_list_key(self, name: str) -> list[str]:
        """The columns that a list is resumed by. Raises RefusedError for an unknown list."""
        document = decode((await self._call("GET", "openapi.json")).body, Description)
        path = document.paths.get(f"/api/v1/lists/{name}")
        for parameter in path.get.parameters if path else ():
            if parameter.key:
                return parameter.key
        raise RefusedError(gettext("The service has no list called %(name)s", name=name))

    @asynccontextmanager
    async def open_document(self, path: str, query: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a document that the server generates while it sends it. Raises IncompleteError if it breaks off."""
        async with self._open("GET", self.url / path % query, {}) as response:
            require_framing(response)
            yield response

    async def _call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Calls are idempotent, so each may be retried."""
        retry = self.retry()
        url = self.url / path % (query or {})
        while True:
            try:
                async with self._open(method, url, headers or {}, body) as response:
                    return Answer(await read_body(response, max_bytes=MAX_JSON_BYTES), retry_after_seconds(response))
            except IncompleteError as error:
                await retry.pause(error)

    @asynccontextmanager
    async def _open(
        self, method: str, url: URL, headers: Mapping[str, str], body: Mapping[str, object] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with open_answer(
            self.session, method, url, headers={**self._credentials, **headers}, body=body
        ) as response:
            if response.status in REDIRECTS:
                sentence = gettext(
                    "%(host)s redirects to %(target)s: give that as --url",
                    host=url.host,
                    target=response.headers.get("Location"),
                )
                raise RefusedError(sentence)
            yield response

"""A client of the API as a good one is: it asks either process, and asks again while the answer is lost or 503."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aiohttp
import msgspec

PATIENCE_SECONDS = 240.0
TIMEOUT = aiohttp.ClientTimeout(total=60, sock_read=20)
STORAGE = "GET storage"  # the operation whose statuses aren't the service's
LOST = (aiohttp.ClientError, TimeoutError, OSError)
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 3.0


@dataclass
class User:
    """`tag` stands in each of the user's rows and in no other user's; `records` is what an export of theirs holds."""

    id: UUID
    tag: str
    records: int
    token: str
    erased: bool = False


@dataclass
class Ledger:
    """The answers that clients got, and those that break a promise. `requested` are the desk's reasons."""

    accepted: dict[UUID, User] = field(default_factory=dict)
    requested: dict[UUID, str] = field(default_factory=dict)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        decoded: dict[str, Any] = msgspec.json.decode(self.body)
        return decoded


class GivenUpError(Exception):
    """No answer for PATIENCE_SECONDS, or the load is over."""


class Client:
    def __init__(self, http: aiohttp.ClientSession, urls: list[str], ledger: Ledger, chance: random.Random) -> None:
        self._http = http
        self._urls = urls
        self._ledger = ledger
        self._chance = chance

    async def ask(  # noqa: PLR0913 (a request)
        self,
        operation: str,
        path: str,
        user: User,
        allowed: set[int],
        *,
        signed_in: bool = True,
        headers: Mapping[str, str] | None = None,
        body: object = None,
    ) -> Answer:
        """The first answer that isn't 503. `operation` is a method and a word, for the statistics; another status than
        those `allowed` is a broken promise. Raises GivenUpError.
        """
        method = operation.partition(" ")[0]
        sent = dict(headers or {}) | ({"Authorization": f"Bearer {user.token}"} if signed_in else {})
        backoff_seconds = FIRST_BACKOFF_SECONDS
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (answer := await self._try(operation, method, path, sent, body)) is None or answer.status == 503:
                    await asyncio.sleep(backoff_seconds * self._chance.uniform(0.5, 1.5))
                    backoff_seconds = min(2 * backoff_seconds, LONGEST_BACKOFF_SECONDS)
        except TimeoutError:
            self._ledger.broken.append(f"{operation} got no answer in {PATIENCE_SECONDS:.0f} seconds")
            raise GivenUpError from None
        if answer.status not in allowed:
            self._ledger.broken.append(f"{operation} answered {answer.status}: {answer.body[:300]!r}")
            raise GivenUpError
        return answer

    async def fetch(self, url: str) -> Answer | None:
        """The storage's answer, once. None if it broke off."""
        try:
            async with self._http.get(url, timeout=TIMEOUT) as response:
                return Answer(response.status, response.headers, await response.read())
        except LOST:
            return None

    async def peek(self, path: str, user: User) -> None:
        """Ask, read a little of the answer, and go. Raises what LOST names."""
        url = self._chance.choice(self._urls) + path
        async with self._http.get(url, headers={"Authorization": f"Bearer {user.token}"}, timeout=TIMEOUT) as response:
            self._ledger.statuses["GET stream", response.status] += 1
            await response.content.read(self._chance.randint(1, 2_000))
            response.close()

    async def _try(
        self, operation: str, method: str, path: str, headers: Mapping[str, str], body: object
    ) -> Answer | None:
        url = self._chance.choice(self._urls) + path
        try:
            async with self._http.request(
                method, url, headers=headers, json=body, allow_redirects=False, timeout=TIMEOUT
            ) as response:
                self._ledger.statuses[operation, response.status] += 1
                return Answer(response.status, response.headers, await response.read())
        except LOST:
            self._ledger.statuses[operation, 0] += 1
            return None

"""Users all week long, through nginx. They count each answer, and don't ask again."""

import asyncio
import datetime as dt
import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import msgspec
from yarl import URL

from tests.chaos.client import LOST, TIMEOUT, Ledger, User

PAUSE_SECONDS = (0.1, 0.8)
KEPT_LINKS = 50
TOKEN_SECONDS = 86_400

Issue: TypeAlias = Callable[[User], str]


class Accepted(NamedTuple):
    job_id: uuid.UUID
    estimate: dt.datetime
    request_id: str


@dataclass
class Load:
    """`issue` makes a user's token, and changes with the issuer's key. `failed` are answers that no step allows, `told`
    the sentences of those that were 503.
    """

    url: str
    http: aiohttp.ClientSession
    users: list[User]
    ledger: Ledger
    issue: Issue
    answers: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    told: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    _tokens: dict[uuid.UUID, str] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def clear(self) -> None:
        self.answers.clear()
        self.failed.clear()
        self.told.clear()

    def change_issuer(self, issue: Issue) -> None:
        self.issue = issue
        self._tokens.clear()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as lives:
            for user in self.users:
                lives.create_task(self._live(user))

    async def _live(self, user: User) -> None:
        chance = random.Random(user.tag)  # noqa: S311 (no secret)
        acts = (self._export, self.queue, self._stream, self._look, self._look, self._follow, self._follow)
        while not self.over.is_set():
            await chance.choice(acts)(user)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), chance.uniform(*PAUSE_SECONDS))

    async def ask(
        self, method: str, path: str, user: User | None, allowed: set[int], *, token: str = "", **more: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        """`path` may be a whole URL. `token` is another than the user's; `more` is for aiohttp."""
        headers = {"Authorization": f"Bearer {token or self._token_of(user)}"} if user else {}
        kind = f"{method} {path.partition('?')[0].rpartition('/')[2] if not user else path.partition('?')[0]}"
        try:
            async with self.http.request(
                method,
                URL(path if path.startswith("http") else self.url + path, encoded=True),
                headers=headers | more.pop("headers", {}),
                allow_redirects=False,
                timeout=TIMEOUT,
                **more,
            ) as answer:
                status, content, got = answer.status, await answer.read(), answer.headers
        except LOST as error:
            self.failed[f"{method} {type(error).__name__}"] += 1
            return 0, {}, b""
        self.answers[str(status)] += 1
        if status == 503:
            self.told.add(content.decode(errors="replace"))
        if status not in allowed:
            self.failed[f"{kind.rsplit('/', maxsplit=1)[-1]} {status}"] += 1
        return status, got, content

    async def export(self, user: User) -> tuple[uuid.UUID, str] | None:
        """The id and the path of the link of an export that is made at once."""
        status, _, body = await self.ask("POST", "/api/export", user, {201, 202, 409}, json={"format": "csv"})
        if status not in {201, 202}:
            return None
        answer = msgspec.json.decode(body)
        job_id = uuid.UUID(answer["job_id"])
        self.ledger.accepted[job_id] = user
        return (job_id, URL(answer["download_url"]).raw_path_qs) if status == 201 else None

    async def queue(self, user: User) -> Accepted | None:
        """An export that a worker is to make; None while the user has another."""
        status, headers, body = await self.ask(
            "POST", "/api/export", user, {202, 409}, json={"format": "json"}, headers={"Prefer": "respond-async"}
        )
        if status != 202:
            return None
        answer = msgspec.json.decode(body)
        job_id = uuid.UUID(answer["job_id"])
        self.ledger.accepted[job_id] = user
        return Accepted(job_id, dt.datetime.fromisoformat(answer["estimated_completion"]), headers["X-Request-ID"])

    def _token_of(self, user: User) -> str:
        if user.id not in self._tokens:
            self._tokens[user.id] = self.issue(user)
        return self._tokens[user.id]

    async def _export(self, user: User) -> None:
        if made := await self.export(user):
            self.links = [*self.links[-KEPT_LINKS:], made[1]]

    async def _stream(self, user: User) -> None:
        status, _, body = await self.ask("GET", "/api/export/stream?format=csv", user, {200, 409})
        if status == 200 and body.count(b"\r\n") < user.records:
            self.failed["stream that was cut"] += 1

    async def _look(self, user: User) -> None:
        await self.ask("GET", "/api/export", user, {200})

    async def _follow(self, user: User) -> None:
        if not self.links:
            return
        link = random.Random(user.tag).choice(self.links)  # noqa: S311 (likewise)
        status, headers, _ = await self.ask("GET", link, None, {200, 302})
        if status == 302:
            with suppress(*LOST):
                async with self.http.get(URL(headers["Location"], encoded=True), timeout=TIMEOUT) as file:
                    if file.status != 200:
                        self.failed[f"storage {file.status}"] += 1

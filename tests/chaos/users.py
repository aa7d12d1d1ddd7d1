"""Users who want their data, again and again, and look closely at what they get."""

import asyncio
import hashlib
import io
import json
import random
import re
import uuid
import zipfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
from yarl import URL

from service.access.api_keys import KeyRepository, Scope
from service.access.tokens import create_token
from service.backends.database import CONNECTION_LOST
from service.backends.s3 import open_client
from service.errors import ServiceError
from service.formats import STREAMED_FORMATS, Format
from service.settings import from_env
from tests.chaos.client import LOST, STORAGE, Answer, Client, GivenUpError, Ledger, User
from tests.faults.world import World
from tests.support.documents import count_records

TAG = re.compile(rb"owner-[0-9a-f]{16}")
TOKEN_TTL_SECONDS = 86_400
THINK_SECONDS = (1.0, 12.0)
POLL_SECONDS = (0.3, 1.5)
# (share of the users, fewest records, most records)
SIZES = ((70, 1, 300), (15, 300, 999), (11, 1_000, 4_000), (4, 5_000, 20_000))
LARGE_RECORDS = 20_000  # with LONG_TEXT: some parts of an upload, the first filled after 9,000 records
LARGE_EVERY = 100
LONG_TEXT_BYTES = 700
SHORT_TEXT_BYTES = 60
WIDE_TEXT_BYTES = 10_000  # read in slices
ERASED_SHARE = 0.03
UPLOADS = "uploads/"  # the application's own objects, in the bucket of the exports
STORED = ("10", "30", "50", "70", "90")
FILE_BYTES = 60_000
DATABASE_AWAY = (ServiceError, asyncpg.PostgresError, *CONNECTION_LOST)


async def create_users(world: World, count: int, chance: random.Random) -> list[User]:
    settings = from_env(world.environ)
    users = []
    async with (
        world.database() as connection,
        open_client(settings, settings.s3_endpoint_url, name="S3_ENDPOINT_URL") as s3,
    ):
        for number in range(count):
            large = number % LARGE_EVERY == LARGE_EVERY - 1
            _, fewest, most = chance.choices(SIZES, [share for share, _, _ in SIZES])[0]
            records = LARGE_RECORDS if large else chance.randint(fewest, most)
            tag = f"owner-{chance.randbytes(8).hex()}"
            user_id = await connection.fetchval(
                """INSERT INTO public.users (email, name, password_hash)
                VALUES ($1 || '@example.com', $1, 'x') RETURNING id""",
                tag,
            )
            contents = (records - 1) // 5
            await connection.execute(
                """INSERT INTO public.activity (user_id, kind, detail)
                SELECT $1, 'login', jsonb_build_object('tag', $2::text, 'n', n, 'text', repeat('x', $4))
                FROM generate_series(1, $3::int) AS n""",
                user_id,
                tag,
                records - 1 - contents,
                LONG_TEXT_BYTES if large else SHORT_TEXT_BYTES,
            )
            await connection.execute(
                """INSERT INTO public.content (user_id, title, body)
                SELECT $1, $2, CASE n % 7 WHEN 0 THEN repeat('x', $4) ELSE n::text END
                FROM generate_series(1, $3::int) AS n""",
                user_id,
                tag,
                contents,
                WIDE_TEXT_BYTES,
            )
            await _store_files(s3, user_id, tag)
            users.append(User(user_id, tag, records, create_token(settings, str(user_id), TOKEN_TTL_SECONDS)))
        await connection.execute("ANALYZE")
    return users


async def create_desk_key(world: World) -> str:
    """One that may ask and look, and get no bytes."""
    scopes = (Scope.REQUESTS_CREATE, Scope.REQUESTS_READ)
    async with world.database() as connection:
        _, text = await KeyRepository().create(connection, name="desk", scopes=scopes, expires_in_days=None)
    return text


async def _store_files(s3: Any, user_id: uuid.UUID, tag: str) -> None:
    """Half of the files that datasets/content.sql names; the others are missing."""
    for number in STORED:
        key = f"{UPLOADS}{user_id}/{number}.bin"
        await s3.put_object(Bucket="carryout", Key=key, Body=stored_file(tag, number))


def stored_file(tag: str, number: str) -> bytes:
    """Too random to be deflated; so its bytes, and whose it is, can be seen in the package."""
    return tag.encode() + random.Random(tag + number).randbytes(FILE_BYTES)  # noqa: S311 (reproducible on purpose)


class Visitor:
    """Lives the life of one user until `over`."""

    def __init__(  # noqa: PLR0913 (who, where and with whom)
        self,
        user: User,
        *,
        client: Client,
        world: World,
        ledger: Ledger,
        over: asyncio.Event,
        chance: random.Random,
        desk_key: str,
    ) -> None:
        self._user = user
        self._desk = {"X-API-Key": desk_key}
        self._client = client
        self._world = world
        self._ledger = ledger
        self._over = over
        self._chance = chance
        self._erasable = chance.random() < ERASED_SHARE

    async def live(self) -> None:
        await self._pause(0, THINK_SECONDS[1])
        acts: dict[Callable[[], Awaitable[None]], int] = {
            self._export: 55,
            self._stream: 15,
            self._leave_stream: 5,
            self._cancel: 8,
            self._ask_thrice: 7,
            self._look_at_others: 5,
            self._write_to_support: 8,
            self._erase: 5,
        }
        while not self._over.is_set():
            (act,) = self._chance.choices(list(acts), list(acts.values()))
            with suppress(GivenUpError):
                await act()
            await self._pause(*THINK_SECONDS)

    async def ask_again(self) -> None:
        """Everything that must work for each remaining user once all is healed."""
        if not self._user.erased:
            with suppress(GivenUpError):
                await self._post({201, 202})

    async def _pause(self, fewest: float, most: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), self._chance.uniform(fewest, most))

    async def _post(self, allowed: set[int], *, respond_async: bool = False) -> uuid.UUID:
        """The job that the answer names: a new one or, by a 409, the one still running."""
        headers = {"Idempotency-Key": uuid.UUID(bytes=self._chance.randbytes(16)).hex}
        if respond_async:
            headers["Prefer"] = "respond-async"
        format_ = self._chance.choice(list(Format))
        gone = {404} if self._user.erased else set()
        answer = await self._client.ask(
            "POST export", "/api/export", self._user, allowed | gone, headers=headers, body={"format": format_}
        )
        if answer.status == 404:
            raise GivenUpError
        job_id = uuid.UUID(answer.json["job_id"])
        self._ledger.accepted[job_id] = self._user
        return job_id

    async def _view(self, job_id: uuid.UUID) -> dict[str, object]:
        return (await self._client.ask("GET export", f"/api/export/{job_id}", self._user, {200})).json

    async def _ended(self, job_id: uuid.UUID) -> dict[str, object]:
        while (view := await self._view(job_id))["status"] not in {"completed", "failed"}:
            await self._pause(*POLL_SECONDS)
            if self._over.is_set():
                raise GivenUpError
        return view

    async def _export(self) -> None:
        view = await self._ended(await self._post({200, 201, 202, 409}))
        if "download_url" not in view:
            return
        link = URL(str(view["download_url"])).raw_path_qs
        for _ in range(self._chance.randint(1, 2)):
            await self._download(link, view)
        what = self._chance.random()
        if what < 0.15:
            await self._delete(uuid.UUID(str(view["job_id"])))
            await self._require_ended(link)
        elif what < 0.25:
            await self._let_a_week_pass(uuid.UUID(str(view["job_id"])), link)

    async def _download(self, link: str, view: dict[str, object]) -> None:
        content: bytes | None = None
        while content is None and not self._over.is_set():
            answer = await self._client.ask("GET download", link, self._user, {200, 302}, signed_in=False)
            content = answer.body if answer.status == 200 else await self._follow(answer.headers["Location"])
            if content is None:
                await self._pause(*POLL_SECONDS)
        if content is not None:
            self._ledger.counts["downloads checked"] += 1
            where = f"download of {view['job_id']}"
            self._require(hashlib.sha256(content).hexdigest() == view["sha256"], f"{where}: another SHA-256")
            self._require(len(content) == view["size_bytes"], f"{where}: another size")
            self._check(content, str(view["format"]), where)

    async def _follow(self, url: str) -> bytes | None:
        answer = await self._client.fetch(url)
        if answer is None:
            self._ledger.counts["downloads broken off"] += 1
            return None
        self._ledger.statuses[STORAGE, answer.status] += 1
        self._require(answer.status != 404, "the storage has no such file")
        return answer.body if answer.status == 200 else None

    async def _stream(self) -> None:
        format_ = self._chance.choice(list(STREAMED_FORMATS))
        gone = {404} if self._user.erased else set()
        path = f"/api/export/stream?format={format_}"
        answer = await self._client.ask("GET stream", path, self._user, {200, 409} | gone)
        if answer.status == 200:
            self._ledger.counts["streams complete"] += 1
            self._check(answer.body, format_, "stream")

    async def _leave_stream(self) -> None:
        with suppress(*LOST):
            await self._client.peek("/api/export/stream?format=csv", self._user)
        self._ledger.counts["streams left"] += 1

    async def _cancel(self) -> None:
        job_id = await self._post({200, 201, 202, 409}, respond_async=True)
        if self._chance.random() < 0.5:
            await self._pause(*POLL_SECONDS)
        await self._delete(job_id)
        view = await self._view(job_id)
        self._require("download_url" not in view, "an export deleted still has its link")
        self._require(view["status"] in {"completed", "failed"}, f"an export deleted is {view['status']}")

    async def _delete(self, job_id: uuid.UUID) -> None:
        await self._client.ask("DELETE export", f"/api/export/{job_id}", self._user, {204})

    async def _require_ended(self, link: str) -> None:
        await self._client.ask("GET ended", link, self._user, {410}, signed_in=False)

    async def _let_a_week_pass(self, job_id: uuid.UUID, link: str) -> None:
        with suppress(*DATABASE_AWAY):
            async with self._world.database() as connection:
                await connection.execute("UPDATE carryout.export_jobs SET expires_at = now() WHERE id = $1", job_id)
            await self._require_ended(link)

    async def _ask_thrice(self) -> None:
        """At the same time: however it goes, what was accepted ends."""
        async with asyncio.TaskGroup() as posts:
            for _ in range(3):
                posts.create_task(self._post_or_give_up())

    async def _write_to_support(self) -> None:
        """The desk asks for the user, who sees the reason; the desk sees no link, and gets no bytes."""
        reason = f"letter {self._chance.randbytes(16).hex()}"  # not a UUID: the oracle finds a mail's export by its one
        body = {"user_id": str(self._user.id), "format": self._chance.choice(list(Format)), "reason": reason}
        headers = self._desk | {"Idempotency-Key": reason.removeprefix("letter ")}
        gone = {404} if self._user.erased else set()
        asked = await self._client.ask(
            "POST request",
            "/api/v1/requests",
            self._user,
            {200, 202, 409} | gone,
            signed_in=False,
            headers=headers,
            body=body,
        )
        if asked.status not in {200, 202}:
            return
        job_id = uuid.UUID(asked.json["job_id"])
        self._ledger.accepted[job_id] = self._user
        self._ledger.requested[job_id] = reason
        path = f"/api/v1/requests/{job_id}"
        await self._ask_desk("GET bytes", f"{path}/download", {403})
        view = await self._ended(job_id)
        self._require(view["asked_by_support"]["reason"] == reason, "a user was told another reason")  # type: ignore[index]
        shown = await self._ask_desk("GET request", path, {200})
        self._require(b"signature" not in shown.body, "the desk was shown a link")
        self._require(shown.json["reason"] == reason, "the desk was shown another reason")
        self._ledger.counts["requests answered"] += 1

    async def _ask_desk(self, operation: str, path: str, allowed: set[int]) -> Answer:
        return await self._client.ask(operation, path, self._user, allowed, signed_in=False, headers=self._desk)

    async def _post_or_give_up(self) -> None:
        with suppress(GivenUpError):
            await self._post({200, 201, 202, 409})

    async def _look_at_others(self) -> None:
        theirs = [job_id for job_id, owner in self._ledger.accepted.items() if owner is not self._user]
        if theirs:
            job_id = self._chance.choice(theirs)
            await self._client.ask("GET another's", f"/api/export/{job_id}", self._user, {404})

    async def _erase(self) -> None:
        if not self._erasable or self._user.erased:
            return
        job_id = await self._post({200, 201, 202, 409}, respond_async=True)
        self._user.erased = True
        with suppress(*DATABASE_AWAY):
            async with self._world.database() as connection:
                await connection.execute("DELETE FROM public.users WHERE id = $1", self._user.id)
        await self._ended(job_id)

    def _check(self, content: bytes, format_: str, where: str) -> None:
        foreign = set(TAG.findall(content)) - {self._user.tag.encode()}
        self._require(not foreign, f"{where} holds another user's rows: {foreign}")
        if format_ == Format.ZIP:
            self._check_files(content, where)
        records = count_records(content, format_)
        self._require(records == self._user.records, f"{where} has {records} records, not {self._user.records}")

    def _check_files(self, content: bytes, where: str) -> None:
        """Each attachment is as it was stored, or told. One whose reads all broke off may be missing, too."""
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = [name for name in archive.namelist() if name.startswith("files/")]
            right = all(archive.read(name) == stored_file(self._user.tag, name[-6:-4]) for name in files)
            manifest = json.loads(archive.read("datapackage.json"))
            rows = [json.loads(line) for line in archive.read("data/export.ndjson").splitlines()]
        self._require(right, f"{where} holds a file with other bytes")
        named = sum(1 for row in rows if row["section"] == "content" and row["row"]["file"])
        missing = manifest.get("missing", [])
        self._require(len(files) + len(missing) == named, f"{where} is silent about a file")
        lost = [one for one in missing if one["reason"] == "missing" and one["title"][:2] in STORED]
        self._require(not lost, f"{where} calls files missing that the store has: {lost}")
        self._ledger.counts["attachments checked"] += len(files)
        self._ledger.counts["attachments missing"] += len(missing)

    def _require(self, held: bool, promise: str) -> None:  # noqa: FBT001 (an assertion that doesn't end the life)
        if not held:
            self._ledger.broken.append(promise)

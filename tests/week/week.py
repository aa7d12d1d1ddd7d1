"""The installation of the week, and the ways of all its days to change it and to look at it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from uuid import UUID

import aiohttp

from service.bookkeeping.exports import Export
from tests.chaos.client import User
from tests.chaos.faults import Scene
from tests.chaos.fleet import APIS, Fleet, Member
from tests.faults.world import World
from tests.support import processes
from tests.support.processes import Ended
from tests.support.scraping import Scrape
from tests.week.load import Accepted, Load
from tests.week.nginx import Nginx

PATIENCE_SECONDS = 60.0
SETTLING_ANSWERS = 50


@dataclass
class Week:
    world: World
    fleet: Fleet
    nginx: Nginx
    load: Load
    scene: Scene
    environ: dict[str, str]
    postgres_bin: Path
    broken: list[str] = field(default_factory=list)
    took: dict[str, float] = field(default_factory=dict)

    def require(self, held: object, words: str) -> None:
        if not held:
            self.broken.append(words)

    async def until(self, true: Callable[[], Awaitable[bool]], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await true():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self.broken.append(f"waited in vain for {what}")

    async def carryout(self, *arguments: str, **settings: str) -> Ended:
        started = time.monotonic()
        ended = await processes.run(self.environ | settings, *arguments)
        self.took[" ".join(arguments)] = time.monotonic() - started
        return ended

    async def roll(self, **settings: str) -> None:
        """Restart each process with these settings, one after the other; an API while nginx leaves it alone."""
        self.environ |= settings
        for member in self.fleet.members.values():
            await self.restart(member, **settings)

    async def restart(self, member: Member, **settings: str) -> None:
        if member.name in APIS:
            async with self.nginx.without(member.port):
                await member.restart(**settings)
                await self.until(lambda: self.answers(f"{member.url}/readyz"), f"{member.name} to be ready")
        else:
            await member.restart(**settings)
            await self.until(lambda: self.answers(f"{member.url}/livez"), f"{member.name} to live")

    async def answers(self, url: str) -> bool:
        try:
            async with self.load.http.get(url) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    @asynccontextmanager
    async def all_down(self) -> AsyncIterator[None]:
        for member in self.fleet.members.values():
            await member.end()
        yield
        for member in self.fleet.members.values():
            member.up()
        await self.until(lambda: self.fleet.are_ready(self.load.http), "the APIs to be ready")
        await self.until(lambda: self.fleet.are_alive(self.load.http), "the workers to live")

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        self.load.clear()
        self.load.over.clear()
        running = asyncio.create_task(self.load.run())
        try:
            yield
        finally:
            self.load.over.set()
            await running

    async def settle(self) -> None:
        """Some answers more: what is to hold is to hold afterwards, too."""
        enough = self.load.answers.total() + SETTLING_ANSWERS

        async def answered() -> bool:
            return self.load.answers.total() >= enough

        await self.until(answered, "answers")

    async def make(self, user: User) -> tuple[UUID, str]:
        """An export that is made at once, after the user's running one; its id and the path of its link."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (made := await self.load.export(user)):
                await asyncio.sleep(0.1)
        return made

    async def queue(self, user: User) -> tuple[Accepted, Export]:
        """An export that a worker makes, once it has; after the user's running one."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (accepted := await self.load.queue(user)):
                await asyncio.sleep(0.1)
            while (export := await self.find(accepted.job_id)).running:
                await asyncio.sleep(0.1)
        return accepted, export

    async def let_end(self, *job_ids: UUID) -> None:
        """Let these files' links end now: workers do the rest."""
        async with self.world.database() as connection:
            await connection.execute(
                "UPDATE carryout.export_jobs SET expires_at = now() WHERE id = ANY($1::uuid[])", list(job_ids)
            )

    async def find(self, job_id: UUID) -> Export:
        async with self.world.resources.connection() as connection:
            export = await self.world.resources.exports.find(connection, job_id)
        assert export
        return export

    async def scrape(self, name: str = "api-1") -> Scrape:
        async with self.load.http.get(f"{self.fleet.members[name].url}/metrics") as answer:
            return Scrape(await answer.text())

    async def has_logged(self, text: str) -> bool:
        """Whether any process has."""
        logs = [member.log_path.read_text(errors="replace") for member in self.fleet.members.values()]
        return any(text in log for log in logs)

    def without_failure(self, what: str) -> str:
        self.require(not self.load.failed, f"{what}: {dict(self.load.failed)}")
        failed = ", ".join(f"{name}: {count}" for name, count in self.load.failed.items()) or "none failed"
        return f"{self.load.answers.total()} answers, {failed}"


Day: TypeAlias = Callable[[Week], Awaitable[str]]

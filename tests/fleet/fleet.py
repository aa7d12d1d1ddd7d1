"""Two API processes behind a balancer, three workers, and what a test may know of them: settings, tables and mails."""

import asyncio
import email
import email.policy
import json
import os
import re
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx

from devstack.ports import keep_port
from tests.fleet.balancer import Balancer
from tests.fleet.surroundings import Surrounding
from tests.support import processes
from tests.support.factories import CANARY, Connection
from tests.support.leaks import CELL_CANARY

APIS = ("api-1", "api-2")
WORKERS = ("worker-1", "worker-2", "worker-3")
PATIENCE_SECONDS = 60.0
TEXT = f"{CELL_CANARY} text"
LINK = re.compile(r"^http\S+", re.MULTILINE)

_INSERT_USER = "INSERT INTO public.users (email, name, password_hash) VALUES ($1, $2, $3) RETURNING id"
_INSERT_ACTIVITY = """
INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at)
SELECT $1, $3, '192.0.2.1', jsonb_build_object('note', $3::text), timestamptz '2026-01-01 00:00Z' + n * interval '1 s'
FROM generate_series(1, $2::int) AS n
"""
_INSERT_CONTENT = """
INSERT INTO public.content (user_id, title, body, created_at)
SELECT $1, $3, $3, timestamptz '2026-01-01 00:00Z' + n * interval '1 second' FROM generate_series(1, $2::int) AS n
"""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Person:
    """A user of the application; `headers` are those of a signed-in request."""

    id: uuid.UUID
    email: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Fleet:
    url: str
    surrounding: Surrounding
    environ: dict[str, str] = field(repr=False)
    run_dir: Path
    balancer: Balancer
    database: Connection

    @property
    def bucket(self) -> Path:
        return self.surrounding.bucket

    async def run(self, *arguments: str) -> str:
        """The output of the command `carryout …`."""
        ended = await processes.run(self.environ, *arguments)
        assert ended.status == 0, ended.err
        return ended.out

    @asynccontextmanager
    async def started_api(self, name: str, **environ: str) -> AsyncIterator[str]:
        """The URL of another API process with settings of its own, beside the balancer."""
        async with processes.open_api(self.environ | environ, self.run_dir, name) as port:
            yield f"http://127.0.0.1:{port}"

    async def create_person(self, records: int = 5, *, text: str = TEXT) -> Person:
        """A user whose export has so many records, with `text` in every text cell."""
        address = f"{uuid.uuid4()}@example.com"
        user_id: uuid.UUID = await self.database.fetchval(_INSERT_USER, address, text, CANARY)
        activity = records // 2
        await self.database.execute(_INSERT_ACTIVITY, user_id, activity, text)
        await self.database.execute(_INSERT_CONTENT, user_id, records - 1 - activity, text)
        await self.surrounding.replayed()
        return await self.sign_in(user_id, address)

    async def sign_in(self, user_id: uuid.UUID, address: str = "") -> Person:
        token = await self.surrounding.sign_in(user_id)
        return Person(user_id, address, {"Authorization": f"Bearer {token}"})

    async def change(self, query: str, *arguments: object) -> None:
        """Change the application's data, and wait until exports read it."""
        await self.database.execute(query, *arguments)
        await self.surrounding.replayed()

    async def mail_to(self, person: Person) -> EmailMessage:
        """The one mail they get."""

        async def find() -> EmailMessage | None:
            mails = [path.read_bytes() for path in self.surrounding.mail_dir.glob("*.eml")]
            found = [mail for mail in mails if mail.partition(b"\r\n\r\n")[0].count(person.email.encode())]
            assert len(found) <= 1
            return email.message_from_bytes(found[0], policy=email.policy.default) if found else None

        return await until(find)

    async def actions_of(self, job_id: str) -> list[tuple[str, str, str | None]]:
        """Its audit events: what, and whether a user, a link or the system did it, and who."""
        rows = await self.database.fetch(
            "SELECT action, actor_type, actor FROM carryout.export_audit WHERE job_id = $1 ORDER BY id",
            uuid.UUID(job_id),
        )
        return [(row["action"], row["actor_type"], row["actor"]) for row in rows]

    async def until_done(self, job_id: str, action: str) -> None:
        """Until it is audited that the system did it."""

        async def is_done() -> bool:
            return (action, "system", None) in await self.actions_of(job_id)

        await until(is_done)

    def read_log(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of that process's log."""
        whole, _, _ = (self.run_dir / f"{name}.log").read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    @contextmanager
    def workers_paused(self) -> Iterator[None]:
        """Exports that are queued meanwhile stay pending."""
        self._signal_workers(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_workers(signal.SIGCONT)

    @asynccontextmanager
    async def source_locked(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Sessions that read a user meanwhile wait. Yields a function that returns once a session waits."""
        connection = await asyncpg.connect(self.surrounding.database_url)
        reading = await asyncpg.connect(self.surrounding.source_url)
        waiting = "SELECT true FROM pg_locks WHERE relation = 'public.users'::regclass AND NOT granted"

        async def until_a_reader_waits() -> None:
            await until(lambda: reading.fetchval(waiting))

        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE public.users IN ACCESS EXCLUSIVE MODE")
                await self.surrounding.replayed()
                yield until_a_reader_waits
        finally:
            await connection.close()
            await reading.close()

    def _signal_workers(self, number: signal.Signals) -> None:
        for name in WORKERS:
            os.kill(int((self.run_dir / f"{name}.pid").read_text().split()[0]), number)


async def until(find: Callable[[], Awaitable[Found | None]]) -> Found:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := await find()):
            await asyncio.sleep(0.1)
        return found


async def until_ended(client: httpx.AsyncClient, person: Person, job_id: str) -> dict[str, Any]:
    """The export as its owner sees it when it is completed or failed."""

    async def find() -> dict[str, Any] | None:
        view: dict[str, Any] = (await client.get(f"/api/export/{job_id}", headers=person.headers)).json()
        return view if view["status"] in {"completed", "failed"} else None

    return await until(find)


async def until_deleted(path: Path) -> None:
    async def is_deleted() -> bool:
        return not path.exists()

    await until(is_deleted)


def link_in(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    found = LINK.search(body.get_content())
    assert found is not None
    return found[0]


@asynccontextmanager
async def open_fleet(surrounding: Surrounding, run_dir: Path) -> AsyncIterator[Fleet]:
    balancer_port = keep_port(run_dir / "balancer.port")
    url = f"http://127.0.0.1:{balancer_port}"
    environ = {
        **surrounding.environ,
        "CARRYOUT_PUBLIC_URL": url,
        "CARRYOUT_ACQUIRE_TIMEOUT_SECONDS": "20",  # the most
        "CARRYOUT_LOG_LEVEL": "debug",  # the more lines, the more there is for leaks.py to find
    }
    async with AsyncExitStack() as opened:
        apis = [opened.enter_async_context(processes.open_api(environ, run_dir, name)) for name in APIS]
        workers = [opened.enter_async_context(processes.open_worker(environ, run_dir, name)) for name in WORKERS]
        ports = await asyncio.gather(*apis, *workers)
        balancer = await opened.enter_async_context(Balancer(ports[: len(APIS)]).open(balancer_port))
        database = await asyncpg.connect(surrounding.database_url)
        opened.push_async_callback(database.close)
        yield Fleet(url, surrounding, environ, run_dir, balancer, database)

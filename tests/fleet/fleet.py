"""Two API processes behind a balancer, three workers, and what a test may know of them: settings, tables and mails."""

import asyncio
import email
import email.policy
import json
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import httpx
import jwt

from devstack.ports import ask, keep_port
from devstack.process import ChildProcess, Command
from devstack.stack import Stack
from service.settings import from_env
from service.storage import open_storage
from tests.factories import CANARY, Connection
from tests.fleet.balancer import Balancer
from tests.leaks import CELL_CANARY

CARRYOUT: Command = [sys.executable, "-m", "service.cli"]
APIS = ("api-1", "api-2")
WORKERS = ("worker-1", "worker-2", "worker-3")
PATIENCE_SECONDS = 60.0
REDIS_DATABASE = "5"  # the other tests' queue is in 0
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
    environ: dict[str, str] = field(repr=False)
    run_dir: Path
    mail_dir: Path
    bucket: Path
    balancer: Balancer
    database: Connection

    async def run(self, *arguments: str) -> str:
        """What the command `carryout …` prints."""
        process = await asyncio.create_subprocess_exec(
            *CARRYOUT, *arguments, env=self.environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        printed, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return printed.decode()

    @asynccontextmanager
    async def started_api(self, name: str, **environ: str) -> AsyncIterator[str]:
        """The URL of another API process with settings of its own, beside the balancer."""
        port, child = keep_port(self.run_dir / f"{name}.port"), ChildProcess(name, self.run_dir)
        try:
            await _start(child, self.environ | environ, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            await child.stop()

    async def create_person(self, records: int = 5, *, text: str = TEXT) -> Person:
        """Somebody whose export has so many records, with `text` in every text cell."""
        address = f"{uuid.uuid4()}@example.com"
        user_id: uuid.UUID = await self.database.fetchval(_INSERT_USER, address, text, CANARY)
        activity = records // 2
        await self.database.execute(_INSERT_ACTIVITY, user_id, activity, text)
        await self.database.execute(_INSERT_CONTENT, user_id, records - 1 - activity, text)
        return self.sign_in(user_id, address)

    def sign_in(self, user_id: uuid.UUID, address: str = "") -> Person:
        claims = {"sub": str(user_id), "exp": int(time.time()) + 600}
        token = jwt.encode(claims, self.environ["CARRYOUT_JWT_SECRET"], "HS256")
        return Person(user_id, address, {"Authorization": f"Bearer {token}"})

    async def mail_to(self, person: Person) -> EmailMessage:
        """The one mail they get."""

        async def find() -> EmailMessage | None:
            mails = [path.read_bytes() for path in self.mail_dir.glob("*.eml")]
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
        """What is queued meanwhile stays pending."""
        self._signal_workers(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_workers(signal.SIGCONT)

    @asynccontextmanager
    async def source_locked(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Whoever reads a user meanwhile waits; gives what returns when somebody does."""
        connection = await asyncpg.connect(self.environ["CARRYOUT_DATABASE_URL"])
        waiting = "SELECT true FROM pg_locks WHERE relation = 'public.users'::regclass AND NOT granted"

        async def until_somebody_waits() -> None:
            await until(lambda: self.database.fetchval(waiting))

        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE public.users IN ACCESS EXCLUSIVE MODE")
                yield until_somebody_waits
        finally:
            await connection.close()

    def _signal_workers(self, number: signal.Signals) -> None:
        for name in WORKERS:
            os.kill(int((self.run_dir / f"{name}.pid").read_text().split()[0]), number)


async def until(find: Callable[[], Awaitable[Found | None]]) -> Found:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := await find()):
            await asyncio.sleep(0.05)
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
async def open_fleet(stack: Stack, database_url: str, run_dir: Path) -> AsyncIterator[Fleet]:
    ports = {name: keep_port(run_dir / f"{name}.port") for name in ("balancer", *APIS, *WORKERS)}
    url = f"http://127.0.0.1:{ports['balancer']}"
    bucket = stack.data_dir / "objects" / run_dir.name
    async with open_storage(from_env({**stack.environ, "CARRYOUT_PUBLIC_URL": url})) as storage:
        # Not by mkdir: the server remembers for minutes which folders it has seen.
        await storage._client.create_bucket(Bucket=bucket.name)
    environ = {
        **os.environ,
        **stack.environ,
        "CARRYOUT_DATABASE_URL": database_url,
        "CARRYOUT_REDIS_URL": urlsplit(stack.environ["CARRYOUT_REDIS_URL"])._replace(path=REDIS_DATABASE).geturl(),
        "CARRYOUT_S3_BUCKET": bucket.name,
        "CARRYOUT_PUBLIC_URL": url,
        "CARRYOUT_ACQUIRE_TIMEOUT_SECONDS": "20",  # the most
        "CARRYOUT_LOG_LEVEL": "debug",  # the more lines, the more there is for leaks.py to find
    }
    async with AsyncExitStack() as opened:
        starts = []
        for name in (*APIS, *WORKERS):
            child = ChildProcess(name, run_dir)
            opened.push_async_callback(child.stop)
            starts.append(_start(child, environ, ports[name]))
        await asyncio.gather(*starts)
        balancer = await opened.enter_async_context(Balancer([ports[name] for name in APIS]).open(ports["balancer"]))
        database = await asyncpg.connect(database_url)
        opened.push_async_callback(database.close)
        yield Fleet(url, environ, run_dir, stack.mail_dir, bucket, balancer, database)


async def _start(child: ChildProcess, environ: Mapping[str, str], port: int) -> None:
    if child.name in WORKERS:
        command: Command = [*CARRYOUT, "worker"]
        environ = {**environ, "CARRYOUT_WORKER_METRICS_PORT": str(port)}
    else:
        command = [*CARRYOUT, "serve", "--port", str(port)]
    await child.spawn(command, environ)
    await until(partial(_is_alive, port))


async def _is_alive(port: int) -> bool:
    return b" 200 " in await ask(port, b"GET /livez HTTP/1.0\r\n\r\n")

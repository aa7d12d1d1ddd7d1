"""A whole Carryout of one test: its own database, bucket and queue on shared servers, and worker processes to hurt."""

import asyncio
import contextlib
import email
import email.policy
import hashlib
import itertools
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis.asyncio

from devstack.sample import SAMPLE_DIR, grant_reader
from devstack.stack import Stack
from service.backends.database import Connection, connect
from service.bookkeeping.exports import Export
from service.formats import Format
from service.resources import Resources, open_resources
from service.settings import SQL_DIR, from_env
from tests.sql.databases import create_database, database_environ, migrate_as_owner, open_database, with_database
from tests.support.exports import start_export
from tests.support.forking import Forked
from tests.support.processes import start_forked

HEALING_SECONDS = 60.0
# Short, so that a lost worker is missed soon; long enough for a busy machine.
QUICK = {
    "CARRYOUT_LEASE_SECONDS": "2",
    "CARRYOUT_SWEEP_SECONDS": "2",
    "CARRYOUT_WORKER_GRACE_SECONDS": "0.2",
    "CARRYOUT_EXPORTS_PER_HOUR": "1000",
    "CARRYOUT_STREAMS_PER_HOUR": "1000",
    "CARRYOUT_KEPT_FILES": "1000",
    "CARRYOUT_PUBLIC_URL": "http://127.0.0.1:1",
}


class Process:
    """A real child process. Its output always goes to `log_path`."""

    def __init__(self, child: Forked | asyncio.subprocess.Process, log_path: Path) -> None:
        self.child = child
        self.log_path = log_path

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.child.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(HEALING_SECONDS):
            return await self.child.wait()

    @property
    def log(self) -> str:
        return self.log_path.read_text()


@dataclass
class World:
    stack: Stack
    environ: dict[str, str]
    resources: Resources
    folder: Path
    database_url: str
    processes: list[Process] = field(default_factory=list)
    healing_seconds: float = HEALING_SECONDS
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def start_worker(self, *, crash_at: str = "", **environ: str) -> Process:
        """A worker; one that kills itself when it comes to the step `crash_at` (see crashing.py)."""
        worker = await self._start("worker", crash_at, environ)

        async def started() -> bool:
            return "worker_started" in worker.log or worker.child.returncode is not None

        await self.until(started, "the worker to start")
        return worker

    async def start_api(self, port: int, *, crash_at: str = "", **environ: str) -> Process:
        return await self._start(f"serve --port {port}", crash_at, environ)

    async def _start(self, command: str, crash_at: str, environ: dict[str, str]) -> Process:
        log_path = self.folder / f"{next(self._numbers)}.log"
        settings, arguments = self.environ | environ, command.split()
        with log_path.open("wb") as log:
            if crash_at:
                child = await start_forked(settings, crash_at, *arguments, log=log, module="tests.faults.crashing")
            else:
                child = await start_forked(settings, *arguments, log=log)
        process = Process(child, log_path)
        self.processes.append(process)
        return process

    async def create_user(self, *, records: int) -> uuid.UUID:
        """A user with that many records, the profile included."""
        async with connect(self.database_url) as connection:
            user_id: uuid.UUID = await connection.fetchval(
                """INSERT INTO public.users (email, name, password_hash)
                VALUES (gen_random_uuid() || '@example.com', 'Ada', 'x') RETURNING id"""
            )
            await connection.execute(
                """INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at)
                SELECT $1, 'login', '10.0.0.1', jsonb_build_object('n', n, 'text', repeat('x', 120)), now()
                FROM generate_series(1, $2::int) AS n""",
                user_id,
                records - 1,
            )
            return user_id

    async def ask(self, user_id: uuid.UUID, format_: Format = Format.CSV, *, at_once: bool = False) -> Export:
        """As POST /api/export does: queued, unless it is to be made `at_once`."""
        return await start_export(self.resources, user_id, format_, queued=not at_once)

    async def find(self, export: Export) -> Export:
        async with self.resources.connection() as connection:
            found = await self.resources.exports.find(connection, export.id)
        assert found is not None
        return found

    async def ended(self, export: Export) -> Export:
        await self.until(lambda: self._is_ended(export), "the export to end")
        return await self.find(export)

    async def _is_ended(self, export: Export) -> bool:
        return not (await self.find(export)).running

    async def until(self, true: Callable[[], Awaitable[bool]], what: str) -> None:
        try:
            async with asyncio.timeout(self.healing_seconds):
                while not await true():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            logs = "\n".join(process.log for process in self.processes)
            raise AssertionError(f"Waited in vain for {what}\n{logs}") from None

    def mails(self) -> list[str]:
        """The text of every mail that arrived for this world's exports or another's."""
        messages = [
            email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            for path in self.stack.mail_dir.glob("*.eml")
        ]
        bodies = [message.get_body(("plain",)) for message in messages]
        return [body.get_content() for body in bodies if body]

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Connection]:
        async with connect(self.database_url) as connection:
            yield connection


@asynccontextmanager
async def open_world(stack: Stack, folder: Path, **environ: str) -> AsyncIterator[World]:
    template = await _make_template(stack)
    async with open_database(stack.admin_url, f"TEMPLATE {template}") as database_url:
        settings = stack.environ | QUICK | database_environ(stack, database_url) | environ
        async with redis.asyncio.Redis.from_url(settings["CARRYOUT_REDIS_URL"]) as queue:
            await queue.flushall()
        async with open_resources(from_env(settings)) as resources:
            world = World(stack, settings, resources, folder, database_url)
            try:
                yield world
            finally:
                await _kill(world.processes)


async def _make_template(stack: Stack) -> str:
    """The name of a migrated database with the sample's tables, made once a server and version of its SQL."""
    sql = b"".join(path.read_bytes() for path in sorted(SQL_DIR.rglob("*.sql")))
    template = f"template_{hashlib.sha256(sql).hexdigest()[:16]}"
    async with connect(stack.admin_url) as server:
        if await server.fetchval("SELECT true FROM pg_database WHERE datname = $1", template):
            return template
        unfinished = f"unfinished_{uuid.uuid4().hex}"
        await create_database(server, unfinished)
        url = with_database(stack.admin_url, unfinished)
        await migrate_as_owner(stack, url)
        async with connect(url) as connection:
            await connection.execute((SAMPLE_DIR / "schema.sql").read_text())
        await grant_reader(url, stack.reader_password)
        await server.execute(f"ALTER DATABASE {unfinished} RENAME TO {template}")
    return template


async def _kill(processes: list[Process]) -> None:
    for process in processes:
        if process.child.returncode is None:
            process.signal(signal.SIGKILL)
            await process.ended()


async def idle_in_transaction(connection: Connection) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    return count

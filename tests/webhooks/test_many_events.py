"""Ten thousand events of real changes, sent by two workers to a receiver that fails, is slow, and is killed."""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from devstack.ports import keep_port
from devstack.process import ChildProcess, Command
from devstack.stack import Stack
from service.backends.database import Connection
from service.bookkeeping.audit import SYSTEM
from service.bookkeeping.exports import Export, FileFacts
from service.resources import Resources
from tests.conftest import PUBLIC_URL, Report
from tests.sql.databases import database_environ
from tests.support.exports import insert_export
from tests.support.factories import Connection as Administrator
from tests.support.operators import create_users
from tests.support.processes import child_environ, open_worker
from tests.support.receiver import SECRET
from tests.support.waiting import until
from tests.webhooks.unsteady_receiver import Accepted

EXPORTS = 2_500
EVENTS = 4 * EXPORTS
AT_ONCE = 4
UNDONE_EVERY = 5
PROGRAM: Command = [sys.executable, "-m", "tests.webhooks.unsteady_receiver"]
WORKERS = ("worker-1", "worker-2")
KILLED_EVERY = 1_000  # accepted events
DOWN_SECONDS = 0.5
HURRY_SECONDS = 0.5
LOOK_SECONDS = 0.5
WEEK_SECONDS = 604_800


class Told(msgspec.Struct, frozen=True):
    """The events that the receiver must get, by export, and the exports of which it must get none."""

    kinds: dict[uuid.UUID, list[str]]
    undone: set[uuid.UUID]


async def change_exports(resources: Resources, user_ids: Sequence[uuid.UUID]) -> Told:
    """Four events for each user, by the functions that make them; some changes are made and rolled back."""
    told = Told({}, set())
    turns = asyncio.Semaphore(AT_ONCE)

    async def change(number: int, user_id: uuid.UUID) -> None:
        async with turns:
            if number % UNDONE_EVERY == 0:
                async with _rolled_back(resources) as connection:
                    told.undone.add((await _complete(resources, connection, user_id)).id)
            async with resources.transaction() as connection:
                export = await _complete(resources, connection, user_id)
            if number % UNDONE_EVERY == 1:
                async with _rolled_back(resources) as connection:
                    await _end(resources, connection, export, number)
            for _ in range(2):
                async with resources.transaction() as connection:
                    await resources.exports.record_download(connection, export, SYSTEM, outcome="whole")
            async with resources.transaction() as connection:
                ending = await _end(resources, connection, export, number)
            told.kinds[export.id] = ["completed", "downloaded", "downloaded", ending]

    async with asyncio.TaskGroup() as changes:
        for number, user_id in enumerate(user_ids):
            changes.create_task(change(number, user_id))
    return told


@asynccontextmanager
async def _rolled_back(resources: Resources) -> AsyncIterator[Connection]:
    """A transaction that writes an event, and is rolled back."""
    async with resources.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield connection
        written = "SELECT EXISTS (SELECT FROM carryout.export_events WHERE xmin = pg_current_xact_id()::xid)"
        assert await connection.fetchval(written)
        await transaction.rollback()


async def _complete(resources: Resources, connection: Connection, user_id: uuid.UUID) -> Export:
    export = await insert_export(resources.exports, connection, user_id=user_id, queued=False)
    file = FileFacts(f"s3://carryout/exports/{export.id}/1.csv", 12, 2_048, b"\x5f" * 32)
    return await resources.exports.complete(connection, export, file, ttl_seconds=WEEK_SECONDS)


async def _end(resources: Resources, connection: Connection, export: Export, number: int) -> str:
    if number % 2:
        await resources.exports.expire(connection, export)
        return "expired"
    await resources.exports.end(connection, export.id, SYSTEM, message="", cause="by the user")
    await resources.exports.mark_file_deleted(connection, export.id)  # otherwise a worker deletes it, and tells that
    return "deleted"


class KilledReceiver:
    """The receiver's process, which is killed each time it has accepted KILLED_EVERY more events."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.killed = 0
        self._seed = seed
        self._port = keep_port(folder / "receiver.port")
        self._path = folder / "accepted.ndjson"
        self._path.touch()
        self._child = ChildProcess("receiver", folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook"

    def accepted(self) -> list[Accepted]:
        return [msgspec.json.decode(line, type=Accepted) for line in self._path.read_bytes().splitlines()]

    async def live_and_die(self) -> None:
        try:
            while True:
                given: Command = [str(self._port), self._path, str(self._seed + self.killed)]
                await self._child.spawn([*PROGRAM, *given], child_environ({}))
                while self._path.read_bytes().count(b"\n") < KILLED_EVERY * (self.killed + 1):
                    await asyncio.sleep(LOOK_SECONDS)
                self._child.kill()
                await self._child.wait()
                self.killed += 1
                await asyncio.sleep(DOWN_SECONDS)
        finally:
            await self._child.stop()


@asynccontextmanager
async def open_killed_receiver(folder: Path, seed: int) -> AsyncIterator[KilledReceiver]:
    receiver = KilledReceiver(folder, seed)
    living = asyncio.create_task(receiver.live_and_die())
    try:
        yield receiver
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


async def wait_until_sent(database: Administrator) -> None:
    """Pauses between the attempts of one event are up to ten hours: none is waited for here."""
    while await database.fetchval("SELECT EXISTS (SELECT FROM carryout.export_events WHERE state <> 'sent')"):
        await database.execute(
            """UPDATE carryout.export_events SET next_attempt_at = now()
            WHERE state = 'pending' AND next_attempt_at > now()"""
        )
        await asyncio.sleep(HURRY_SECONDS)


@pytest.mark.large
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", [1_001, 2_002])
async def test_ten_thousand_events_reach_a_receiver_that_fails(  # noqa: PLR0913, PLR0917 (fixtures)
    resources: Resources,
    database: Administrator,
    stack: Stack,
    database_url: str,
    tmp_path: Path,
    report: Report,
    seed: int,
) -> None:
    await create_users(database, EXPORTS)
    user_ids = [row["id"] for row in await database.fetch("SELECT id FROM public.users")]
    environ = stack.environ | database_environ(stack, database_url)
    environ |= {"CARRYOUT_PUBLIC_URL": PUBLIC_URL, "CARRYOUT_WEBHOOK_ALLOW_PRIVATE": "true"}
    async with open_killed_receiver(tmp_path, seed) as receiver:
        environ |= {"CARRYOUT_WEBHOOK_URL": receiver.url, "CARRYOUT_WEBHOOK_SECRETS": SECRET}
        async with open_worker(environ, tmp_path, WORKERS[0]), open_worker(environ, tmp_path, WORKERS[1]):
            await until(lambda: database.fetchval("SELECT wanted FROM carryout.webhook"))
            told = await change_exports(resources, user_ids)
            await wait_until_sent(database)
    accepted = receiver.accepted()
    require_promises(told, accepted)
    assert receiver.killed >= EVENTS // KILLED_EVERY
    attempts = await database.fetchval("SELECT sum(attempts) FROM carryout.export_events")
    assert attempts > 1.2 * EVENTS
    report(
        f"{EVENTS:,} events: {attempts:,} attempts, {len(accepted):,} accepted,"
        f" receiver killed {receiver.killed} times, {len(told.undone)} exports rolled back"
    )


def require_promises(told: Told, accepted: Sequence[Accepted]) -> None:
    assert all(event.verified for event in accepted)
    bodies = {event.webhook_id: event.body for event in accepted}
    assert all(bodies[event.webhook_id] == event.body for event in accepted)
    assert len(bodies) == EVENTS
    kinds: dict[uuid.UUID, list[str]] = {}
    for body in bodies.values():  # in the order of their first acceptance
        event = msgspec.json.decode(body)
        kinds.setdefault(uuid.UUID(event["data"]["job_id"]), []).append(event["type"].removeprefix("export."))
    assert not told.undone & kinds.keys()
    assert kinds == told.kinds

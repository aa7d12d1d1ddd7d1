"""A storage that is away holds up nothing that doesn't need it."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from devstack.ports import keep_port
from devstack.stack import Stack
from service.bookkeeping.exports import Export
from service.errors import OutageError, UnavailableError
from service.formats import Format
from service.object_keys import object_key
from tests.faults.oracle import at_rest
from tests.faults.proxy import FaultProxy
from tests.faults.world import World, open_world
from tests.support.exports import insert_export
from tests.support.wires import Connection, Proxy
from worker.expiry import expire_files
from worker.orphans import remove_orphans

# Tried one after the other, they take longer than a test waits.
ENDED_FILES = 60


class RefusingProxy(Proxy):
    """Answers a DELETE of a key of `refused` with that status itself; `asked` are those it answered."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.refused: dict[str, HTTPStatus] = {}
        self.asked: list[str] = []

    def connect(self, client: asyncio.StreamWriter) -> Connection:
        return _RefusingConnection(client, self)


class _RefusingConnection(Connection):
    def __init__(self, client: asyncio.StreamWriter, proxy: RefusingProxy) -> None:
        super().__init__(client)
        self._proxy = proxy

    async def ask(self, chunk: bytes) -> bytes:
        request = chunk.partition(b"\r\n")[0].decode("latin-1")
        for key, status in self._proxy.refused.items():
            if request.startswith("DELETE ") and f"/{key}" in request:
                self._proxy.asked.append(key)
                return self.fail(status)
        return chunk


@pytest.fixture
async def refusing_proxy(fragile_stack: Stack) -> AsyncIterator[RefusingProxy]:
    async with RefusingProxy(fragile_stack.environ["CARRYOUT_S3_ENDPOINT_URL"]).open() as proxy:
        yield proxy


@pytest.fixture
async def refusing_world(fragile_stack: Stack, refusing_proxy: RefusingProxy, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(fragile_stack, tmp_path, CARRYOUT_S3_ENDPOINT_URL=refusing_proxy.url) as opened:
        yield opened


async def test_held_files_keep_no_other(refusing_world: World, refusing_proxy: RefusingProxy) -> None:
    world, proxy = refusing_world, refusing_proxy
    await _create_ended_files(world)
    held = (await _list_ended_keys(world))[::2]
    proxy.refused = dict.fromkeys(held, HTTPStatus.FORBIDDEN)

    with capture_logs() as events:
        await expire_files(world.resources)
        await expire_files(world.resources)

    assert [event["event"] for event in events].count("file_kept") == len(held)
    assert sorted(proxy.asked) == sorted(held)
    assert await _list_ended_keys(world) == held


@pytest.mark.parametrize(
    ("kept_for", "next_in"),
    [("0 seconds", "1 minute"), ("10 minutes", "10 minutes"), ("30 days", "1 day")],
)
async def test_a_file_that_cannot_be_deleted_is_retried_less_and_less_often(
    refusing_world: World, refusing_proxy: RefusingProxy, kept_for: str, next_in: str
) -> None:
    world, proxy = refusing_world, refusing_proxy
    await _create_ended_files(world)
    proxy.refused = dict.fromkeys(await _list_ended_keys(world), HTTPStatus.FORBIDDEN)
    async with world.database() as connection:
        await connection.execute("UPDATE carryout.export_jobs SET expires_at = now() - $1::text::interval", kept_for)
        await expire_files(world.resources)
        waits = "SELECT DISTINCT round(extract(epoch FROM delete_after - now()) / 60) FROM carryout.export_jobs"
        minutes = await connection.fetchval("SELECT extract(epoch FROM $1::text::interval) / 60", next_in)
        assert [row["round"] for row in await connection.fetch(waits)] == [minutes]


async def test_outage_puts_nothing_off(refusing_world: World, refusing_proxy: RefusingProxy) -> None:
    world, proxy = refusing_world, refusing_proxy
    await _create_ended_files(world)
    proxy.refused = dict.fromkeys(await _list_ended_keys(world), HTTPStatus.UNAUTHORIZED)
    for asked in (1, 2):
        with pytest.raises(OutageError):
            await expire_files(world.resources)
        assert len(proxy.asked) == asked

    proxy.refused = {}
    await expire_files(world.resources)
    assert not await _list_ended_keys(world)


async def test_workers_share_what_is_to_be_deleted(refusing_world: World, refusing_proxy: RefusingProxy) -> None:
    world, proxy = refusing_world, refusing_proxy
    await _create_ended_files(world)
    held = await _list_ended_keys(world)
    proxy.refused = dict.fromkeys(held, HTTPStatus.FORBIDDEN)

    await asyncio.gather(*(expire_files(world.resources) for _ in range(4)))

    assert sorted(proxy.asked) == held


async def test_outage_ends_the_sweep(refusing_world: World, refusing_proxy: RefusingProxy) -> None:
    world, proxy = refusing_world, refusing_proxy
    export = await _create_forgotten(world)
    orphans = [object_key(export.id, attempt, Format.CSV, world.resources.mark) for attempt in (7, 8, 9)]
    for key in orphans:
        await world.resources.storage._put(key, b"left behind", "text/csv")
    proxy.refused = dict.fromkeys(orphans, HTTPStatus.UNAUTHORIZED)

    with pytest.raises(OutageError):
        await remove_orphans(world.resources, export.id)

    assert len(proxy.asked) == 1


async def test_held_orphan_keeps_no_other(refusing_world: World, refusing_proxy: RefusingProxy) -> None:
    world, proxy = refusing_world, refusing_proxy
    export = await _create_forgotten(world)
    held, *others = [object_key(export.id, attempt, Format.CSV, world.resources.mark) for attempt in (7, 8, 9)]
    for key in (held, *others):
        await world.resources.storage._put(key, b"left behind", "text/csv")
    proxy.refused = {held: HTTPStatus.FORBIDDEN}

    with pytest.raises(UnavailableError):
        await remove_orphans(world.resources, export.id)

    left = [key async for page in world.resources.storage.list_keys(f"exports/{export.id}/") for key in page]
    assert left == [held]


@pytest.mark.parametrize("fault", ["refuse", "hang"])
async def test_ended_files_hold_up_no_repair(proxied_world: World, s3_proxy: FaultProxy, fault: str) -> None:
    world = proxied_world
    port = keep_port(world.folder / "port")
    worker = await world.start_worker(CARRYOUT_WORKER_METRICS_PORT=str(port))
    s3_proxy.mode = fault
    await _create_ended_files(world)
    forgotten = await _create_forgotten(world)

    async def is_taken() -> bool:
        return (await world.find(forgotten)).attempt > 0

    await world.until(is_taken, "the forgotten export to be taken")
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == HTTPStatus.OK
    s3_proxy.mode = "pass"
    s3_proxy.drop()
    await world.until(lambda: at_rest(world), "the export to end, and the files to be deleted")
    assert "worker_loop_failed" not in worker.log


async def _create_ended_files(world: World) -> None:
    async with world.database() as connection:
        await connection.execute(
            """INSERT INTO carryout.export_jobs
              (user_id, format, queued, estimated_records, status, attempt, started_at, completed_at,
               record_count, file_url, size_bytes, sha256, expires_at)
            SELECT gen_random_uuid(), 'csv', true, 1, 'completed', 1, now(), now(),
                   1, $1 || gen_random_uuid() || '/1.csv', 1, sha256(''), now()
            FROM generate_series(1, $2::int)""",
            world.resources.storage.url + "exports/",
            ENDED_FILES,
        )


async def _list_ended_keys(world: World) -> list[str]:
    async with world.database() as connection:
        rows = await connection.fetch(
            "SELECT file_url FROM carryout.export_jobs WHERE file_deleted_at IS NULL ORDER BY file_url"
        )
    return [row["file_url"].removeprefix(world.resources.storage.url) for row in rows]


async def _create_forgotten(world: World) -> Export:
    """The export of a request whose process is killed before it asks Redis. It counts as forgotten in some seconds."""
    user_id = await world.create_user(records=10)
    async with world.database() as connection:
        return await insert_export(world.resources.exports, connection, user_id=user_id)

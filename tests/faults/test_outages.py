"""Servers that fail, workers that stop, and a queue full of rubbish: every accepted export ends, and ends once."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from arq.constants import in_progress_key_prefix

from devstack.stack import Stack
from service.backends.queue import QUEUE_NAME, serialize
from service.bookkeeping.audit import SYSTEM
from service.bookkeeping.exports import Export, ExportStatus
from service.exports import attempts, cancellation
from tests.faults.oracle import assert_healed
from tests.faults.proxy import FaultProxy
from tests.faults.rubbish import HUGE_BYTES, enqueue, enqueue_huge, entry, job, rubbish
from tests.faults.world import Process, World
from worker.main import QUEUE_READ_LIMIT

LARGE = 90_000


async def _is_processing(world: World, export: Export) -> bool:
    return (await world.find(export)).status is ExportStatus.PROCESSING


async def _start_and_stall(world: World, proxy: FaultProxy) -> tuple[Export, Process]:
    """An export that a worker has begun and can't end while the storage hangs."""
    user_id = await world.create_user(records=LARGE)
    worker = await world.start_worker()
    proxy.mode = "hang"
    export = await world.ask(user_id)
    await world.until(lambda: _is_processing(world, export), "the export to begin")
    return export, worker


async def test_the_next_export_begins_when_one_ends(world: World) -> None:
    """And not at the worker's next look into its queue, which is due after all patience has ended here."""
    exports = [await world.ask(await world.create_user(records=10)) for _ in range(4)]
    await world.start_worker(CARRYOUT_WORKER_JOBS="1", CARRYOUT_WORKER_POLL_SECONDS="30", CARRYOUT_LEASE_SECONDS="3600")

    async def are_completed() -> bool:
        return {(await world.find(export)).status for export in exports} == {ExportStatus.COMPLETED}

    await world.until(are_completed, "all exports to end")


async def test_sigterm_hands_the_export_back_at_no_cost(proxied_world: World, s3_proxy: FaultProxy) -> None:
    world = proxied_world
    export, worker = await _start_and_stall(world, s3_proxy)
    for _ in range(6):
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0, worker.log
        assert (await world.find(export)).failures == 0
        worker = await world.start_worker()
        await world.until(lambda: _is_processing(world, export), "the export to begin again")
    s3_proxy.mode = "pass"
    ended = await world.ended(export)
    assert (ended.status, ended.attempt, ended.failures) == (ExportStatus.COMPLETED, 7, 0)
    await assert_healed(world)


async def test_paused_worker_finds_its_lease_lost(proxied_world: World, s3_proxy: FaultProxy) -> None:
    world = proxied_world
    export, paused = await _start_and_stall(world, s3_proxy)
    paused.signal(signal.SIGSTOP)
    s3_proxy.mode = "pass"
    await world.start_worker()
    ended = await world.ended(export)
    assert (ended.status, ended.attempt) == (ExportStatus.COMPLETED, 2)
    paused.signal(signal.SIGCONT)
    await assert_healed(world)
    assert (await world.find(export)).sha256 == ended.sha256


async def test_cancelled_while_running(proxied_world: World, s3_proxy: FaultProxy) -> None:
    world = proxied_world
    export, _ = await _start_and_stall(world, s3_proxy)
    await cancellation.cancel_or_delete(world.resources, export, SYSTEM)
    ended = await world.find(export)
    assert (ended.status, ended.error_message) == (ExportStatus.FAILED, "cancelled by user")
    s3_proxy.mode = "pass"
    await assert_healed(world)
    again = await world.ask(export.user_id)  # type: ignore[arg-type]
    assert (await world.ended(again)).status is ExportStatus.COMPLETED


async def test_user_erased_while_running_gets_no_file(proxied_world: World, s3_proxy: FaultProxy) -> None:
    world = proxied_world
    export, _ = await _start_and_stall(world, s3_proxy)
    async with world.database() as connection:
        await connection.execute("DELETE FROM public.users WHERE id = $1", export.user_id)
    s3_proxy.mode = "pass"
    ended = await world.ended(export)
    assert (ended.status, ended.file_url) == (ExportStatus.FAILED, None)
    await assert_healed(world)
    assert not any(str(export.id) in mail for mail in world.mails())


async def test_another_installations_file_stays(world: World) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"theirs"

    foreign = [f"exports/{uuid.uuid4()}/1.csv", "exports/readme.txt"]
    for key in foreign:
        await world.resources.storage.upload(key, content(), content_type="text/csv")
    worker = await world.start_worker()
    export = await world.ended(await world.ask(await world.create_user(records=10)))
    await world.resources.storage.upload(f"exports/{export.id}/77.csv", content(), content_type="text/csv")
    await world.until(lambda: _has_swept(worker), "a sweep")
    kept = {key async for page in world.resources.storage.list_keys("exports/") for key in page}
    assert kept >= set(foreign)
    for key in foreign:
        await world.resources.storage.delete(key)
    await assert_healed(world)


async def _has_swept(worker: Process) -> bool:
    return "/77.csv" in worker.log


@pytest.mark.parametrize("fault", ["error", "refuse", "lose complete"])
async def test_storage_fails(proxied_world: World, s3_proxy: FaultProxy, fault: str) -> None:
    world = proxied_world
    export, _ = await _start_and_stall(world, s3_proxy)
    s3_proxy.mode = fault
    if fault != "lose complete":
        await world.until(lambda: _has_failed_once(world, export), "an attempt to fail")
        s3_proxy.mode = "pass"
    ended = await world.ended(export)
    assert ended.status is ExportStatus.COMPLETED
    await assert_healed(world)


async def _has_failed_once(world: World, export: Export) -> bool:
    found = await world.find(export)
    assert found.failures == 0  # the storage's, not the export's
    return found.status is ExportStatus.PENDING


async def test_storage_that_never_heals_fails_the_export(proxied_world: World, s3_proxy: FaultProxy) -> None:
    world = proxied_world
    export, _ = await _start_and_stall(world, s3_proxy)
    async with world.database() as connection:
        await connection.execute(
            "UPDATE carryout.export_jobs SET failures = 2, created_at = created_at - interval '1 day'"
        )
        # A user who is younger than the export would count as another one.
        await connection.execute("UPDATE public.users SET created_at = created_at - interval '2 days'")
    s3_proxy.mode = "error"
    ended = await world.ended(export)
    assert (ended.status, ended.error_message) == (ExportStatus.FAILED, attempts.FAILED_MESSAGE)
    s3_proxy.mode = "pass"
    await assert_healed(world)
    assert sum("could not be made" in mail and str(export.id) in mail for mail in world.mails()) == 1


@pytest.mark.parametrize("source_lost", [False, True])
async def test_an_accepted_export_survives_an_outage(
    proxied_world: World,
    s3_proxy: FaultProxy,
    source_lost: bool,  # noqa: FBT001
) -> None:
    """A small export is answered as pending when its file can't be stored now, or its snapshot is gone."""
    world = proxied_world
    user_id = await world.create_user(records=10)
    s3_proxy.mode = "hang"
    asking = asyncio.create_task(world.ask(user_id, at_once=True))
    await world.until(lambda: _is_accepted(world), "the export to be accepted")
    if source_lost:
        async with world.database() as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'carryout-source'"
            )
    export = await asking
    assert (export.status, export.failures) == (ExportStatus.PENDING, 0)
    s3_proxy.mode = "pass"
    await world.start_worker()
    assert (await world.ended(export)).status is ExportStatus.COMPLETED
    await assert_healed(world)


async def _is_accepted(world: World) -> bool:
    async with world.database() as connection:
        accepted: bool = await connection.fetchval("SELECT count(*) > 0 FROM carryout.export_jobs")
    return accepted


async def test_redis_restarted(world: World, fragile_stack: Stack) -> None:
    assert fragile_stack.redis
    users = [await world.create_user(records=1_500) for _ in range(5)]
    worker = await world.start_worker()
    exports = [await world.ask(user_id) for user_id in users]
    fragile_stack.redis.kill()

    async def has_warned() -> bool:
        return "queue_unavailable" in worker.log

    await world.until(has_warned, "the worker to miss Redis")
    assert "worker_loop_failed" not in worker.log
    late = await world.ask(await world.create_user(records=1_500))
    ended = [await world.ended(export) for export in [*exports, late]]
    await fragile_stack.redis.stop()
    await fragile_stack.redis.start()
    again = await world.ask(late.user_id)  # type: ignore[arg-type]
    ended.append(await world.ended(again))
    assert {export.status for export in ended} == {ExportStatus.COMPLETED}
    await assert_healed(world)


async def test_a_full_redis_is_an_outage(world: World, fragile_stack: Stack) -> None:
    assert fragile_stack.redis
    connection: redis.asyncio.Redis
    async with redis.asyncio.Redis.from_url(fragile_stack.redis.url) as connection:
        # Before the worker: an idle consumer writes once, when it starts, and reading is allowed.
        await connection.config_set("maxmemory", "1")
        try:
            worker = await world.start_worker()
            await world.until(lambda: _has_told(worker, "queue_unavailable"), "the worker to tell of it")
            export = await world.ask(await world.create_user(records=10))
            assert (await world.ended(export)).status is ExportStatus.COMPLETED
            assert not await _has_told(worker, "queue_available")
        finally:
            await connection.config_set("maxmemory", "0")
        await world.until(lambda: _has_told(worker, "queue_available"), "the worker to find it again")
    assert "worker_loop_failed" not in worker.log
    await assert_healed(world)


async def _has_told(worker: Process, event: str) -> bool:
    return f'"event": "{event}"' in worker.log


async def test_redis_flushed_with_fifty_exports_queued(world: World) -> None:
    exports = [await world.ask(await world.create_user(records=1_100)) for _ in range(50)]
    async with redis.asyncio.Redis.from_url(world.environ["CARRYOUT_REDIS_URL"]) as queue:
        await queue.flushall()
    await world.start_worker()
    assert {(await world.ended(export)).status for export in exports} == {ExportStatus.COMPLETED}
    await assert_healed(world)


async def test_postgresql_restarted(proxied_world: World, s3_proxy: FaultProxy, fragile_stack: Stack) -> None:
    assert fragile_stack.postgres
    world = proxied_world
    export, _ = await _start_and_stall(world, s3_proxy)
    await fragile_stack.postgres.stop()
    await fragile_stack.postgres.start()
    s3_proxy.mode = "pass"
    assert (await world.ended(export)).status is ExportStatus.COMPLETED
    await assert_healed(world)


async def test_same_job_delivered_twice_at_once(world: World) -> None:
    export = await world.ask(await world.create_user(records=LARGE))
    async with redis.asyncio.Redis.from_url(world.environ["CARRYOUT_REDIS_URL"]) as queue:
        for copy in range(5):
            await enqueue(queue, entry(export.id, copy), serialize(job(str(export.id))))
    await asyncio.gather(world.start_worker(), world.start_worker())
    ended = await world.ended(export)
    assert (ended.status, ended.attempt) == (ExportStatus.COMPLETED, 1)
    await assert_healed(world)


async def _put_elsewhere(queue: "redis.asyncio.Redis", *, score: int) -> None:
    elsewhere = entry(uuid.uuid4(), 0)
    await queue.zadd(QUEUE_NAME, {elsewhere: score})
    await queue.set(in_progress_key_prefix + elsewhere, b"1")


async def test_behind_many_in_progress(world: World) -> None:
    """All of a hundred entries, or of as many as arq reads by default, may be in progress elsewhere."""
    async with redis.asyncio.Redis.from_url(world.environ["CARRYOUT_REDIS_URL"]) as queue:
        for _ in range(200):
            await _put_elsewhere(queue, score=1)
        export = await world.ask(await world.create_user(records=10))
        await world.start_worker()
        assert (await world.ended(export)).status is ExportStatus.COMPLETED
        await queue.flushall()


@pytest.mark.parametrize("score", [0, 1])
async def test_behind_more_than_a_worker_reads(world: World, score: int) -> None:
    """Entries that no worker can ever start must not hide the others."""
    async with redis.asyncio.Redis.from_url(world.environ["CARRYOUT_REDIS_URL"]) as queue:
        for _ in range(2 * QUEUE_READ_LIMIT):
            await _put_elsewhere(queue, score=score)
        export = await world.ask(await world.create_user(records=10))
        await world.start_worker()
        assert (await world.ended(export)).status is ExportStatus.COMPLETED
        await queue.flushall()


@pytest.mark.parametrize("due", ["-inf", "+inf", str(-(2**63))])
async def test_entry_without_a_time_costs_no_other_its_place(world: World, due: str) -> None:
    async with redis.asyncio.Redis.from_url(world.environ["CARRYOUT_REDIS_URL"]) as queue:
        await queue.zadd(QUEUE_NAME, {entry(uuid.uuid4(), 0): due})
        export = await world.ask(await world.create_user(records=10))
        await queue.zadd(QUEUE_NAME, {entry(export.id, 0): due})
        worker = await world.start_worker()
        assert (await world.ended(export)).status is ExportStatus.COMPLETED
        await queue.flushall()
    assert "worker_loop_failed" not in worker.log


@pytest.mark.parametrize("kind", ["foreign value", "our value", "result", "entry", "entries", "health"])
async def test_huge_rubbish_is_never_read(world: World, kind: str) -> None:
    async with redis.asyncio.Redis.from_url(world.environ["CARRYOUT_REDIS_URL"]) as queue:
        worker = await world.start_worker()
        first = await world.ask(await world.create_user(records=10))
        assert (await world.ended(first)).status is ExportStatus.COMPLETED
        usual_bytes = _peak_bytes(worker)
        worker.signal(signal.SIGSTOP)
        export = await world.ask(await world.create_user(records=10))
        await enqueue_huge(queue, kind, export.id)
        worker.signal(signal.SIGCONT)
        assert (await world.ended(export)).status is ExportStatus.COMPLETED
        await world.until(lambda: _is_empty(queue), "the queue to be empty")
        await queue.flushall()
    assert _peak_bytes(worker) - usual_bytes < HUGE_BYTES / 10
    await assert_healed(world)


async def _is_empty(queue: "redis.asyncio.Redis") -> bool:
    return not await queue.zcard(QUEUE_NAME)


def _peak_bytes(worker: Process) -> int:
    status = Path(f"/proc/{worker.child.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.parametrize("wrong_type", [False, True])
async def test_rubbish_in_the_queue(world: World, tmp_path: Path, wrong_type: bool) -> None:  # noqa: FBT001
    exploded = tmp_path / "exploded"
    export = await world.ask(await world.create_user(records=1_500))
    async with redis.asyncio.Redis.from_url(world.environ["CARRYOUT_REDIS_URL"]) as queue:
        if wrong_type:
            await queue.delete(QUEUE_NAME)
            await queue.set(QUEUE_NAME, "not a sorted set")
        else:
            for name, content in rubbish(exploded).items():
                await enqueue(queue, name, content)
            await queue.zadd(QUEUE_NAME, {b"\xff\xfe": 1})
        worker = await world.start_worker()
        assert (await world.ended(export)).status is ExportStatus.COMPLETED
        again = await world.ask(export.user_id)  # type: ignore[arg-type]
        assert (await world.ended(again)).status is ExportStatus.COMPLETED
        await queue.flushall()
    assert not exploded.exists()
    assert worker.child.returncode is None
    await assert_healed(world)


async def test_poison_export_ends_failed(world: World) -> None:
    export = await world.ask(await world.create_user(records=2_000))
    for _ in range(3):
        victim = await world.start_worker(crash_at="claimed")
        assert await victim.ended() == -signal.SIGKILL
    await world.start_worker()
    ended = await world.ended(export)
    assert (ended.status, ended.attempt, ended.failures) == (ExportStatus.FAILED, 3, 3)
    await assert_healed(world)

"""The worker process: arq consumes the queue; repair, erasure, mails and events run beside it without the queue."""

import asyncio
import logging
import signal
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import arq.worker
import redis.exceptions
import structlog

from service.backends.database import connect
from service.backends.queue import QUEUE_NAME, RUN_EXPORT, close_redis, find_job_id, open_redis
from service.backends.webhook import Receiver, open_receiver
from service.bookkeeping.exports import Export
from service.errors import ConfigurationError, OutageError, UnavailableError
from service.mails.own_templates import find_own_templates
from service.mails.sending import send_due_mails
from service.readiness import Servers, watch_servers
from service.resources import Resources, open_resources
from service.settings import Settings
from service.telemetry.metrics import VERSION, WorkerLoop
from service.telemetry.outages import OutageLog
from service.webhooks.sending import send_due_events
from worker.erasure import end_erased_forever
from worker.expiry import expire_forever
from worker.probes import serve_probes
from worker.repair import repair_forever, sweep_forever
from worker.retention import purge_forever
from worker.running import run_export

RESTART_SECONDS = 1.0
OUTBOX_SECONDS = 1.0
CANCEL_AGAIN_SECONDS = 1.0
MAX_SILENCE_SECONDS = 60.0
QUEUE_UNAVAILABLE = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.WatchError,  # the connection was lost between a WATCH and its EXEC
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.NoPermissionError,
    OSError,
)
MAILS_AT_ONCE = 10
EVENTS_AT_ONCE = 20
# How many entries arq scans for one that is not in progress. With its default of 100, further workers would find none.
QUEUE_READ_LIMIT = 1_000
# How long arq waits for an export, which continues afterwards; also the expiry of a killed worker's in-progress mark.
ARQ_WAITS_SECONDS = 600
CLEAN_UP_SECONDS = 10.0

logger = structlog.get_logger()


async def work(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT. Then give running exports a grace period and hand the rest back.

    Raises ConfigurationError, like `open_resources`, if the worker can't start.
    """
    if settings.worker_jobs > settings.pool_size:  # each export holds a connection until it ends
        raise ConfigurationError(
            f"CARRYOUT_WORKER_JOBS ({settings.worker_jobs}) must not exceed CARRYOUT_POOL_SIZE ({settings.pool_size})"
        )
    _require_temporary_folder()
    logging.getLogger("arq").setLevel(logging.WARNING)  # our own events say the same and more
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with open_resources(settings) as resources, open_receiver(settings) as receiver:
        find_own_templates(settings.templates_dir, resources.brand)  # before a mail needs them
        async with connect(settings.database_url) as connection:  # which names a server that is away by its setting
            await resources.events.note_receiver(connection, settings.webhook_url)
        worker = _Worker(resources, receiver)
        async with serve_probes(resources, worker.is_alive), watch_servers(Servers(resources)):
            await worker.run(stopping)


def _require_temporary_folder() -> None:
    """A package's records wait there beyond a megabyte. A container whose file system is read-only may have none."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise ConfigurationError(
            "The worker needs a folder for temporary files: mount one at /tmp, or name one in TMPDIR"
        ) from None


class _Worker:
    """Runs at most `worker_jobs` exports at once, requested by arq or by the repair."""

    def __init__(self, resources: Resources, receiver: Receiver) -> None:
        self._resources = resources
        self._receiver = receiver
        self._slots = asyncio.Semaphore(resources.settings.worker_jobs)
        self._running: dict[uuid.UUID, asyncio.Task[None]] = {}
        self._stopping = False
        self._beaten_at = dict.fromkeys(("queue", "repair", "mails"), time.monotonic())
        self._queue_outages = OutageLog("queue_unavailable", "queue_available")

    async def run(self, stopping: asyncio.Event) -> None:
        queue = asyncio.create_task(self._restarting("queue", self._consume))
        loops = {
            asyncio.create_task(self._restarting("repair", self._repair)),
            asyncio.create_task(self._restarting("expiry", lambda: expire_forever(self._resources))),
            asyncio.create_task(self._restarting("erasure", lambda: end_erased_forever(self._resources))),
            asyncio.create_task(self._restarting("sweep", lambda: sweep_forever(self._resources))),
            asyncio.create_task(self._restarting("mails", self._mail_forever)),
        }
        if self._resources.settings.webhook_url:
            loops.add(asyncio.create_task(self._restarting("events", self._post_forever)))
        if retention_seconds := self._resources.settings.retention_seconds:
            purging = self._restarting("retention", lambda: purge_forever(self._resources, retention_seconds))
            loops.add(asyncio.create_task(purging))
        await logger.ainfo("worker_started", version=VERSION, jobs=self._resources.settings.worker_jobs)
        await stopping.wait()
        await logger.ainfo("worker_stopping", running=len(self._running))
        self._stopping = True
        await _cancel_stubborn(queue)
        await _cancel(loops)
        await self._finish()

    async def _restarting(self, name: WorkerLoop, run: Callable[[], Awaitable[None]]) -> None:
        """Restart the loop after every failure: losing Redis, or invalid queue entries, must not end the worker."""
        while True:
            try:
                await run()
            except Exception as error:  # noqa: BLE001 (no failure may end the other loops)
                self._resources.metrics.loop_failures.labels(name).inc()
                await logger.aerror("worker_loop_failed", loop=name, exc_info=error)
            await asyncio.sleep(RESTART_SECONDS)

    def start(self, export: Export) -> None:
        self._start(export.id)

    def is_free(self) -> bool:
        return len(self._running) < self._resources.settings.worker_jobs

    def is_alive(self) -> bool:
        """Whether each loop has completed an iteration in time. An outage of a server doesn't delay these loops.

        Loops that wait for S3 are not watched: a restart can't repair the storage, and their metrics show the outage.
        """
        return min(self._beaten_at.values()) > time.monotonic() - MAX_SILENCE_SECONDS

    def _beat(self, loop: str) -> None:
        self._beaten_at[loop] = time.monotonic()

    def _start(self, job_id: uuid.UUID) -> "asyncio.Task[None]":
        """The task that makes the export. At most one task per export runs in this process."""
        if job_id not in self._running:
            task = self._running[job_id] = asyncio.create_task(self._run(job_id))
            task.add_done_callback(lambda _: self._running.pop(job_id))
        return self._running[job_id]

    async def _run(self, job_id: uuid.UUID) -> None:
        async with self._slots:
            if not self._stopping:
                await run_export(self._resources, job_id)

    async def _finish(self) -> None:
        """Wait `worker_grace_seconds` for running exports, then cancel the rest, which hands them back."""
        left = set(self._running.values())
        if left:
            _, left = await asyncio.wait(left, timeout=self._resources.settings.worker_grace_seconds)
        await _cancel(left)

    async def _run_export(self, _context: dict[Any, Any], job_id: uuid.UUID) -> None:
        """The function registered with arq. The shield keeps its cancellation off the export, which `_finish` ends."""
        await asyncio.shield(self._start(job_id))

    async def _repair(self) -> None:
        await repair_forever(self._resources, self.start, self.is_free, beat=lambda: self._beat("repair"))

    async def _consume(self) -> None:
        async with self._queue_outages.catching(OutageError):
            await self._run_consumer()

    async def _run_consumer(self) -> None:
        self._beat("queue")
        settings = self._resources.settings
        connection = open_redis(settings.redis_url)
        consumer = _Consumer(
            self._has_polled,
            [arq.worker.func(self._run_export, name=RUN_EXPORT)],  # type: ignore[arg-type] # called by _Consumer alone
            queue_name=QUEUE_NAME,
            redis_pool=connection,
            handle_signals=False,
            max_jobs=settings.worker_jobs,
            queue_read_limit=QUEUE_READ_LIMIT,
            poll_delay=settings.worker_poll_seconds,
            job_timeout=ARQ_WAITS_SECONDS,
        )
        try:
            await consumer.async_run()
        except QUEUE_UNAVAILABLE as error:
            raise OutageError("Redis is not available", server="redis") from error
        except Exception:
            # arq can't skip an entry that it can't read, so every new consumer would fail on it again.
            await self._resources.queue.discard()
            raise
        finally:
            # close() cancels arq's tasks and would raise their cancellation. The exports continue: see `_run_export`.
            await asyncio.gather(consumer.close(), return_exceptions=True)
            await close_redis(connection)  # close() leaves it open if Redis or a job failed

    async def _has_polled(self) -> None:
        self._beat("queue")
        await self._queue_outages.end()

    async def _mail_forever(self) -> None:
        outages = OutageLog("mails_postponed", "mails_resumed")
        await self._send_forever("mails", partial(send_due_mails, self._resources), outages, limit=MAILS_AT_ONCE)

    async def _post_forever(self) -> None:
        outages = OutageLog("events_postponed", "events_resumed")
        send = partial(send_due_events, self._resources, self._receiver)
        await self._send_forever("events", send, outages, limit=EVENTS_AT_ONCE)

    async def _send_forever(
        self, loop: WorkerLoop, send_due: Callable[..., Awaitable[int]], outages: OutageLog, *, limit: int
    ) -> None:
        """Send an outbox's entries, `limit` at once; pause when fewer were due."""
        while True:
            self._beat(loop)
            tried = 0
            async with outages.catching(UnavailableError):
                tried = await send_due(limit=limit)
            if tried < limit:
                await asyncio.sleep(OUTBOX_SECONDS)


class _Consumer(arq.worker.Worker):
    """Runs the exports named by the queue's ids, and reads only these ids from Redis.

    arq would read each job's value, which another user of the same Redis may have written, in any size.
    """

    def __init__(self, has_polled: Callable[[], Awaitable[None]], *arguments: Any, **options: Any) -> None:
        """`has_polled` is called after each poll of the queue."""
        super().__init__(*arguments, **options)
        self._has_polled = has_polled
        self._has_room = asyncio.Event()

    async def main(self) -> None:
        """Poll when an export ends, too: small ones end sooner than the next poll is due.

        Arq would first log what INFO and DBSIZE say, to which a user with rights to our keys alone has none.
        """
        while True:
            self._has_room.clear()
            await self._poll_iteration()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_room.wait(), self.poll_delay_s)

    def _release_sem_dec_counter_on_complete(self) -> None:
        super()._release_sem_dec_counter_on_complete()
        self._has_room.set()

    async def heart_beat(self) -> None:
        await super().heart_beat()
        await self._has_polled()

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Drop ids that are not Carryout's. If none of a full batch can start, the next poll reads at a higher offset.

        Another user of the same Redis may have marked the whole batch as in progress, without an expiry.
        """
        if foreign := [entry for entry in job_ids if find_job_id(entry) is None]:
            await self.pool.zrem(self.queue_name, *foreign)
        await self._date_undated()
        running = len(self.tasks)
        await super().start_jobs([entry for entry in job_ids if find_job_id(entry) is not None])
        stuck = len(job_ids) == self.queue_read_limit and len(self.tasks) == running and not foreign
        self._queue_read_offset = self._queue_read_offset + len(job_ids) if stuck else 0

    async def _date_undated(self) -> None:
        """Arq fails at an entry with the score -inf, which another user of the same Redis may have written."""
        limit = self.queue_read_limit
        if undated := await self.pool.zrangebyscore(self.queue_name, "-inf", "-inf", start=0, num=limit):
            await self.pool.zadd(self.queue_name, dict.fromkeys(undated, 1), xx=True)

    async def run_job(self, job_id: str, score: int) -> None:  # noqa: ARG002 (arq's)
        ended = True
        try:
            async with asyncio.timeout(ARQ_WAITS_SECONDS):
                await self.functions[RUN_EXPORT].coroutine(self.ctx, find_job_id(job_id.encode()))
        except TimeoutError:
            pass  # the export continues
        except asyncio.CancelledError:
            ended = False  # the worker stops; another worker takes the entry
        except Exception as error:  # noqa: BLE001 (one export's defect must not end the consumer)
            await logger.aerror("export_unrecorded", entry=job_id, exc_info=error)
        finishing = self.finish_job(
            job_id,
            finish=ended,
            result_data=None,
            result_timeout_s=None,
            keep_result_forever=False,
            incr_score=None,
            keep_in_progress=None,
        )
        await asyncio.shield(finishing)


async def _cancel(tasks: set["asyncio.Task[None]"]) -> None:
    """Cancel each task once. A task may need time to hand back its export or to read a mail server's reply."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CLEAN_UP_SECONDS)


async def _cancel_stubborn(task: "asyncio.Task[None]") -> None:
    """Cancel the task until it ends, because a Redis client that is connecting can swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_SECONDS)

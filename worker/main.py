"""The worker process: arq for the queue, and beside it what needs no queue: repair and mails."""

import asyncio
import logging
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import arq.worker
import redis.exceptions
import structlog

from service.bootstrap import Resources, open_resources
from service.errors import ConfigurationError, OutageError, UnavailableError
from service.exports import Export
from service.jobs import QUEUE_NAME, RUN_EXPORT, deserialize, open_redis, serialize
from service.notifying import send_due_mails
from service.servers import Servers, watch_servers
from service.settings import Settings
from service.troubles import Trouble
from worker.probes import serve_probes
from worker.repair import expire_forever, repair_forever, sweep_forever
from worker.running import run_export

RESTART_SECONDS = 1.0
MAILS_SECONDS = 1.0
CANCEL_AGAIN_SECONDS = 1.0
MAX_SILENCE_SECONDS = 60.0
QUEUE_UNAVAILABLE = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.WatchError,  # the connection was lost between a WATCH and its EXEC
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    OSError,
)
MAILS_AT_ONCE = 10
# arq gives up jobs by their tries without calling anybody. PostgreSQL counts them; arq is never to.
NEVER_TRIES = 1_000_000
# How many entries arq looks through for one that nobody works at: with its 100, further workers would find none.
QUEUE_READ_LIMIT = 1_000
# How long arq waits for an export, which goes on without it, and remembers an entry that a killed worker held.
ARQ_WAITS_SECONDS = 600
CLEAN_UP_SECONDS = 10.0

logger = structlog.get_logger()


async def work(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then let running exports end for a while, and hand the others back.

    Raises ConfigurationError, as `open_resources`, if it can't start.
    """
    if settings.worker_jobs > settings.pool_size:  # each needs a connection for as long as it lasts
        raise ConfigurationError(
            f"CARRYOUT_WORKER_JOBS ({settings.worker_jobs}) must not exceed CARRYOUT_POOL_SIZE ({settings.pool_size})"
        )
    logging.getLogger("arq").setLevel(logging.WARNING)  # our own events say the same, and more
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with open_resources(settings) as resources:
        worker = _Worker(resources)
        async with serve_probes(resources, worker.is_alive), watch_servers(Servers(resources)):
            await worker.run(stopping)


class _Worker:
    """Runs at most `worker_jobs` exports at once, whether arq or the repair asks for them."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._slots = asyncio.Semaphore(resources.settings.worker_jobs)
        self._running: dict[uuid.UUID, asyncio.Task[None]] = {}
        self._stopping = False
        self._beaten_at = dict.fromkeys(("queue", "repair", "mails"), time.monotonic())
        self._queue_trouble = Trouble("queue_unavailable", "queue_available")

    async def run(self, stopping: asyncio.Event) -> None:
        queue = asyncio.create_task(self._restarting("queue", self._consume))
        loops = {
            asyncio.create_task(self._restarting("repair", self._repair)),
            asyncio.create_task(self._restarting("expiry", lambda: expire_forever(self._resources))),
            asyncio.create_task(self._restarting("sweep", lambda: sweep_forever(self._resources))),
            asyncio.create_task(self._restarting("mails", self._mail_forever)),
        }
        await logger.ainfo("worker_started", jobs=self._resources.settings.worker_jobs)
        await stopping.wait()
        await logger.ainfo("worker_stopping", running=len(self._running))
        self._stopping = True
        await _cancel_stubborn(queue)
        await _cancel(loops)
        await self._finish()

    async def _restarting(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run for ever: a lost Redis, or rubbish in the queue, ends no worker."""
        while True:
            try:
                await run()
            except Exception as error:  # noqa: BLE001 (whatever it is, the others go on)
                self._resources.metrics.loop_failures.labels(name).inc()
                await logger.aerror("worker_loop_failed", loop=name, exc_info=error)
            await asyncio.sleep(RESTART_SECONDS)

    def start(self, export: Export) -> None:
        self._start(export.id)

    def is_alive(self) -> bool:
        """Whether each loop has come round in time, which failing servers don't keep it from.

        The loops that wait for S3 aren't watched: starting again mends no storage, and their metrics tell of it.
        """
        return min(self._beaten_at.values()) > time.monotonic() - MAX_SILENCE_SECONDS

    def _beat(self, loop: str) -> None:
        self._beaten_at[loop] = time.monotonic()

    def _start(self, job_id: uuid.UUID) -> "asyncio.Task[None]":
        """The task that makes the export; an export that is being made here already isn't begun twice."""
        if job_id not in self._running:
            task = self._running[job_id] = asyncio.create_task(self._run(job_id))
            task.add_done_callback(lambda _: self._running.pop(job_id))
        return self._running[job_id]

    async def _run(self, job_id: uuid.UUID) -> None:
        async with self._slots:
            if not self._stopping:
                await run_export(self._resources, job_id)

    async def _finish(self) -> None:
        """Running exports may end in `worker_grace_seconds`; what is left is cancelled, and so handed back."""
        left = set(self._running.values())
        if left:
            _, left = await asyncio.wait(left, timeout=self._resources.settings.worker_grace_seconds)
        await _cancel(left)

    async def _run_export(self, _context: dict[Any, Any], *arguments: Any) -> None:
        """What arq calls. Its own cancellation must not reach the export, which `_finish` ends."""
        (job_id,) = arguments
        await asyncio.shield(self._start(uuid.UUID(job_id)))

    async def _repair(self) -> None:
        await repair_forever(self._resources, self.start, beat=lambda: self._beat("repair"))

    async def _consume(self) -> None:
        async with self._queue_trouble.noting(OutageError):
            await self._run_consumer()

    async def _run_consumer(self) -> None:
        self._beat("queue")
        settings = self._resources.settings
        connection = open_redis(settings.redis_url)
        consumer = _Consumer(
            self._has_looked,
            [arq.worker.func(self._run_export, name=RUN_EXPORT, keep_result=0)],  # type: ignore[arg-type] # no keywords come
            queue_name=QUEUE_NAME,
            redis_pool=connection,
            job_serializer=serialize,
            job_deserializer=deserialize,
            handle_signals=False,
            max_jobs=settings.worker_jobs,
            queue_read_limit=QUEUE_READ_LIMIT,
            poll_delay=settings.worker_poll_seconds,
            job_timeout=ARQ_WAITS_SECONDS,
            max_tries=NEVER_TRIES,
            keep_result=0,
            log_results=False,
        )
        try:
            await consumer.async_run()
        except QUEUE_UNAVAILABLE as error:
            raise OutageError("Redis is not available", server="redis") from error
        except Exception:
            # Rubbish that arq can't even pass over; it would end every consumer, again and again.
            await self._resources.queue.discard()
            raise
        finally:
            # It cancels what arq awaits, and would raise that; the exports themselves go on, see `_run_export`.
            await asyncio.gather(consumer.close(), return_exceptions=True)
            await connection.aclose(close_connection_pool=True)  # which it left open if Redis or a job failed

    async def _has_looked(self) -> None:
        self._beat("queue")
        await self._queue_trouble.end()

    async def _mail_forever(self) -> None:
        trouble = Trouble("mails_postponed", "mails_resumed")
        while True:
            self._beat("mails")
            tried = 0
            async with trouble.noting(UnavailableError):
                tried = await send_due_mails(self._resources, limit=MAILS_AT_ONCE)
            if tried < MAILS_AT_ONCE:
                await asyncio.sleep(MAILS_SECONDS)


class _Consumer(arq.worker.Worker):
    """Calls `has_looked` each time it has looked into the queue."""

    def __init__(self, has_looked: Callable[[], Awaitable[None]], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._has_looked = has_looked

    async def heart_beat(self) -> None:
        await self._has_looked()
        await super().heart_beat()


async def _cancel(tasks: set["asyncio.Task[None]"]) -> None:
    """Once: they may need their time to hand back an export, or to hear a mail server's answer."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CLEAN_UP_SECONDS)


async def _cancel_stubborn(task: "asyncio.Task[None]") -> None:
    """Until it has ended: a client that is just connecting to Redis can swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_SECONDS)

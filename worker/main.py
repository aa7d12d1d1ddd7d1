"""The worker process: arq for the queue, and beside it what needs no queue: repair and mails."""

import asyncio
import logging
import signal
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import arq.worker
import redis.exceptions
import structlog

from service.bootstrap import Resources, open_resources
from service.exports import Export
from service.jobs import QUEUE_NAME, RUN_EXPORT, deserialize, open_redis, serialize
from service.notifying import send_due_mails
from service.settings import Settings
from worker.repair import repair_forever
from worker.running import run_export

RESTART_SECONDS = 1.0
MAILS_SECONDS = 1.0
CANCEL_AGAIN_SECONDS = 1.0
QUEUE_UNAVAILABLE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
MAILS_AT_ONCE = 10
# arq gives up jobs by their time and their tries without calling anybody. PostgreSQL counts both; arq is never to.
NEVER_TRIES = 1_000_000
NEVER_SECONDS = 7 * 24 * 3_600

logger = structlog.get_logger()


async def work(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then let running exports end for a while, and hand the others back."""
    logging.getLogger("arq").setLevel(logging.WARNING)  # our own events say the same, and more
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with open_resources(settings) as resources:
        await _Worker(resources).run(stopping)


class _Worker:
    """Runs at most `worker_jobs` exports at once, whether arq or the repair asks for them."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._slots = asyncio.Semaphore(resources.settings.worker_jobs)
        self._running: dict[uuid.UUID, asyncio.Task[None]] = {}
        self._arq: arq.worker.Worker | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        loops = [
            asyncio.create_task(self._consume_forever()),
            asyncio.create_task(_restarting("repair", lambda: repair_forever(self._resources, self.start))),
            asyncio.create_task(_restarting("mails", self._mail_forever)),
        ]
        await logger.ainfo("worker_started", jobs=self._resources.settings.worker_jobs)
        await stopping.wait()
        await logger.ainfo("worker_stopping", running=len(self._running))
        await _cancel(set(loops))
        await self._finish()

    def start(self, export: Export) -> None:
        self._start(export.id)

    def _start(self, job_id: uuid.UUID) -> "asyncio.Task[None]":
        """The task that makes the export; an export that is being made here already isn't begun twice."""
        if job_id not in self._running:
            task = self._running[job_id] = asyncio.create_task(self._run(job_id))
            task.add_done_callback(lambda _: self._running.pop(job_id))
        return self._running[job_id]

    async def _run(self, job_id: uuid.UUID) -> None:
        async with self._slots:
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

    async def _consume_forever(self) -> None:
        await _restarting("queue", self._consume)

    async def _consume(self) -> None:
        settings = self._resources.settings
        consumer = arq.worker.Worker(
            [arq.worker.func(self._run_export, name=RUN_EXPORT, keep_result=0)],
            queue_name=QUEUE_NAME,
            redis_pool=open_redis(settings.redis_url),
            job_serializer=serialize,
            job_deserializer=deserialize,
            handle_signals=False,
            max_jobs=settings.worker_jobs,
            poll_delay=settings.worker_poll_seconds,
            job_timeout=NEVER_SECONDS,
            max_tries=NEVER_TRIES,
            keep_result=0,
            log_results=False,
        )
        try:
            await consumer.async_run()
        except QUEUE_UNAVAILABLE:
            raise
        except Exception:
            # Rubbish that arq can't even pass over; it would end every consumer, again and again.
            await self._resources.queue.discard()
            raise
        finally:
            # It cancels what arq awaits, and would raise that; the exports themselves go on, see `_run_export`.
            await asyncio.gather(consumer.close(), return_exceptions=True)

    async def _mail_forever(self) -> None:
        while True:
            if await send_due_mails(self._resources, limit=MAILS_AT_ONCE) < MAILS_AT_ONCE:
                await asyncio.sleep(MAILS_SECONDS)


async def _cancel(tasks: set["asyncio.Task[None]"]) -> None:
    """Until they have ended: a client that is just connecting to Redis can swallow a cancellation."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_SECONDS)


async def _restarting(name: str, run: Callable[[], Coroutine[Any, Any, None] | Awaitable[None]]) -> None:
    """Run for ever: a restarted Redis, or rubbish in the queue, ends no worker."""
    while True:
        try:
            await run()
        except Exception as error:  # noqa: BLE001 (whatever it is, the others go on)
            await logger.aerror("worker_loop_failed", loop=name, exc_info=error)
        await asyncio.sleep(RESTART_SECONDS)

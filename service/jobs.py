"""The queue's contract: what API and worker must agree on. Redis carries ids only; PostgreSQL knows the truth.

Losing all of Redis loses nothing: the worker's repair enqueues again what PostgreSQL says is waiting.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import arq.connections
import msgspec
import redis.exceptions
from arq.constants import in_progress_key_prefix

from service.errors import ConfigurationError, OutageError

QUEUE_NAME: Final = "carryout:exports"
RUN_EXPORT: Final = "run_export"
ANSWER_TIMEOUT_SECONDS = 2.0
# TimeoutError is an OSError; RuntimeError is uvloop's word for a connection that was closed a moment ago.
FAILURES = (redis.exceptions.RedisError, OSError, RuntimeError)


def serialize(job: dict[str, Any]) -> bytes:
    """MessagePack, never pickle: whoever can write to Redis must not run code in the worker."""
    # arq serializes results, exceptions among them, even where it keeps none.
    return msgspec.msgpack.encode(job, enc_hook=repr)


def deserialize(content: bytes) -> dict[str, Any]:
    return msgspec.msgpack.decode(content, type=dict[str, Any])


class JobQueue:
    def __init__(self, connection: arq.connections.ArqRedis) -> None:
        self._redis = connection

    async def enqueue_export(self, job_id: uuid.UUID, attempt: int) -> bool:
        """Ask for an attempt at the export; asking twice is the same as once. False if it waits in Redis already.

        The attempt is part of the queue's id, so that a retry isn't mistaken for what it repeats. Raises OutageError.
        """
        entry = f"export:{job_id}:{attempt}"
        async with _answer_in_time():
            job = await self._redis.enqueue_job(RUN_EXPORT, str(job_id), _job_id=entry)
            if job is not None:
                return True
            # Known already: but held by a worker that is gone, perhaps, or lost from the queue, or due in the future
            # there, if the clock of the host that asked first is ahead of ours.
            released = await self._redis.delete(in_progress_key_prefix + entry)
            now, due = time.time_ns() // 1_000_000, await self._redis.zscore(QUEUE_NAME, entry)
            waits = due is not None and due <= now
            if not waits:
                await self._redis.zadd(QUEUE_NAME, {entry: now})
        return bool(released) or not waits

    async def discard(self) -> None:
        """Empty the queue. Nothing is lost with it: the repair fills it again."""
        async with _answer_in_time():
            await self._redis.delete(QUEUE_NAME)

    async def check(self) -> None:
        """Raise OutageError unless Redis answers in time."""
        async with _answer_in_time():
            await self._redis.ping()


@asynccontextmanager
async def _answer_in_time() -> AsyncIterator[None]:
    """Turn every failure of Redis, and its silence, into OutageError."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            yield
    except FAILURES as error:
        raise OutageError("Redis is not available", server="redis") from error


@asynccontextmanager
async def open_queue(url: str) -> AsyncIterator[JobQueue]:
    """Connects when first used. Without its socket time-outs a hung Redis would hold a request for ever."""
    connection = open_redis(url)
    try:
        yield JobQueue(connection)
    finally:
        await connection.aclose(close_connection_pool=True)


def open_redis(url: str) -> arq.connections.ArqRedis:
    """Connects to nothing yet. Raises ConfigurationError if the URL gives what a connection can't be made of."""
    try:
        connection: arq.connections.ArqRedis = arq.connections.ArqRedis.from_url(
            url, socket_timeout=ANSWER_TIMEOUT_SECONDS, socket_connect_timeout=ANSWER_TIMEOUT_SECONDS
        )
        connection.connection_pool.make_connection()  # type: ignore[no-untyped-call] # the library has no types here
    except (ValueError, TypeError, redis.exceptions.RedisError):
        raise ConfigurationError("CARRYOUT_REDIS_URL has a parameter that is unknown or wrong") from None
    connection.job_serializer = serialize
    connection.job_deserializer = deserialize
    connection.default_queue_name = QUEUE_NAME
    return connection

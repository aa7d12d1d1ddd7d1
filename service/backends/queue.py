"""The queue's contract: what API and worker must agree on. Redis carries ids only; PostgreSQL knows the truth.

Losing all of Redis loses nothing: the worker's repair enqueues again what PostgreSQL says is waiting.
"""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import arq.connections
import msgspec
import redis.exceptions
from arq.constants import in_progress_key_prefix
from redis._parsers import _AsyncHiredisParser
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel

from service.backends.authorities import require_authorities
from service.errors import ConfigurationError, OutageError

QUEUE_NAME: Final = "carryout:exports"
PROBE_NAME: Final = "carryout:probe"
PROBE_MILLISECONDS: Final = 1_000
RUN_EXPORT: Final = "run_export"
SENTINEL: Final = "+sentinel"
SENTINEL_PORT: Final = 26_379
ACCOUNT: Final = ("username", "password")
ANSWER_TIMEOUT_SECONDS = 2.0
# A thousand ids of ours are less than a tenth of it.
MAX_REPLY_BYTES = 1024 * 1024
ENTRY = re.compile(rb"export:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):[0-9]{1,10}")
# TimeoutError is an OSError; RuntimeError is uvloop's word for a connection that was closed a moment ago.
# The library's clients raise TypeError and ValueError for an answer that doesn't fit what was asked.
FAILURES = (redis.exceptions.RedisError, OSError, RuntimeError, TypeError, ValueError)


def serialize(job: dict[str, Any]) -> bytes:
    """MessagePack instead of arq's pickle. arq stores a value beside each entry; workers never read it."""
    return msgspec.msgpack.encode(job)


def find_job_id(entry: bytes) -> uuid.UUID | None:
    """The export that an entry of the queue is about; None if the entry isn't one of ours."""
    found = ENTRY.fullmatch(entry)
    return uuid.UUID(found[1].decode()) if found else None


class OversizedReplyError(redis.exceptions.RedisError):
    """Redis holds something that is larger than anything Carryout puts there."""


class _BoundedParser(_AsyncHiredisParser):
    """Stops reading a reply at MAX_REPLY_BYTES; the client then closes the connection.

    Other users of the same Redis can write values and ids of half a gigabyte.
    """

    _reply_bytes = 0

    async def read_response(self, disable_decoding: bool = False) -> Any:  # noqa: FBT001, FBT002 (the library's)
        self._reply_bytes = 0
        return await super().read_response(disable_decoding)

    async def read_from_socket(self) -> bool:
        assert self._stream is not None
        received = await self._stream.read(self._read_size)
        if not received:
            raise redis.exceptions.ConnectionError("Connection closed by server.")
        self._reply_bytes += len(received)
        if self._reply_bytes > MAX_REPLY_BYTES:
            raise OversizedReplyError(f"A reply of Redis has more than {MAX_REPLY_BYTES} bytes")
        self._reader.feed(received)  # type: ignore[attr-defined] # typed as if it were always None
        return True


PATIENCE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "socket_timeout": ANSWER_TIMEOUT_SECONDS,
        "socket_connect_timeout": ANSWER_TIMEOUT_SECONDS,
        "parser_class": _BoundedParser,
    }
)


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

    async def check_writable(self) -> None:
        """Raise OutageError unless Redis takes a write in time: a replica answers pings, and so does a full Redis."""
        async with _answer_in_time():
            await self._redis.set(PROBE_NAME, b"", px=PROBE_MILLISECONDS)
            # A node of a Cluster takes single keys, and never the transactions over several that arq needs.
            await self._redis.exists(PROBE_NAME, QUEUE_NAME)


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
        await close_redis(connection)


def open_redis(url: str) -> arq.connections.ArqRedis:
    """Connects to nothing yet. Raises ConfigurationError if the URL gives what a connection can't be made of."""
    for file in parse_qs(urlsplit(url).query).get("ssl_ca_certs", ()):
        require_authorities(file, "CARRYOUT_REDIS_URL in ssl_ca_certs")
    try:
        connection = _open_sentinels(url) if SENTINEL in urlsplit(url).scheme else _open_one(url)
        connection.connection_pool.make_connection()  # type: ignore[no-untyped-call] # the library has no types here
    except (ValueError, TypeError, redis.exceptions.RedisError):
        raise ConfigurationError("CARRYOUT_REDIS_URL has a parameter that is unknown or wrong") from None
    connection.job_serializer = serialize
    connection.default_queue_name = QUEUE_NAME
    return connection


async def close_redis(connection: arq.connections.ArqRedis) -> None:
    """With the connections to Sentinels, which the library leaves open."""
    await connection.aclose(close_connection_pool=True)
    manager = getattr(connection.connection_pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager else ():
        await sentinel.aclose(close_connection_pool=True)


def _open_one(url: str) -> arq.connections.ArqRedis:
    connection: arq.connections.ArqRedis = arq.connections.ArqRedis.from_url(_checking_the_name(url), **PATIENCE)
    return connection


def _open_sentinels(url: str) -> arq.connections.ArqRedis:
    """`redis+sentinel://user:password@sentinel1:26379,sentinel2/service/0?sentinel_password=…`: the first path segment
    is the name that the Sentinels know the servers by. Each connection is to the server that may be written to then.
    """
    parts = urlsplit(url)
    account, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError(url)
    one = parts._replace(scheme=parts.scheme.replace(SENTINEL, ""), netloc=f"{account}@localhost", path=f"/{database}")
    options: dict[str, Any] = {**parse_url(_checking_the_name(one.geturl()))}
    tls = {"ssl": True} if options.pop("connection_class", None) else {}
    for unused in ("host", "port"):
        options.pop(unused, None)
    own = {name: options.pop(f"sentinel_{name}") for name in ACCOUNT if f"sentinel_{name}" in options}
    shared = {name: value for name, value in {**options, **PATIENCE}.items() if name.startswith(("ssl_", "socket_"))}
    servers = [_sentinel(host) for host in hosts.split(",")]
    sentinel: Any = _Sentinels(servers, sentinel_kwargs=own | shared | tls)  # type: ignore[no-untyped-call]
    client: arq.connections.ArqRedis = sentinel.master_for(
        service, redis_class=arq.connections.ArqRedis, **options | tls | dict(PATIENCE)
    )
    return client


class _Sentinels(Sentinel):
    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Raises MasterNotFoundError: from the first one's failure, which the library drops, if none can be asked."""
        try:
            found: tuple[str, int] = await super().discover_master(service_name)
        except MasterNotFoundError as error:
            raise error from await self._find_failure()
        return found

    async def _find_failure(self) -> BaseException | None:
        answers = await asyncio.gather(*(sentinel.ping() for sentinel in self.sentinels), return_exceptions=True)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        return failures[0] if len(failures) == len(answers) else None


def _sentinel(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port or SENTINEL_PORT


def _checking_the_name(url: str) -> str:
    """redis-py, left alone, takes any server's certificate for the one that is meant; what the URL says stays."""
    parts = urlsplit(url)
    if parts.scheme != "rediss" or {"ssl_check_hostname", "ssl_cert_reqs"} & parse_qs(parts.query).keys():
        return url
    return parts._replace(query="&".join(filter(None, [parts.query, "ssl_check_hostname=true"]))).geturl()

"""The queue's connection to Redis."""

import asyncio
import socket
from contextlib import AsyncExitStack
from threading import Thread
from uuid import uuid4

import pytest
import uvloop

from devstack.stack import Stack
from service.backends.queue import MAX_REPLY_BYTES, QUEUE_NAME, OversizedReplyError, find_job_id, open_queue, open_redis
from service.errors import ConfigurationError, OutageError

CONNECTIONS = 100


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost?ssl_cert_reqs=none",
        "redis://localhost?no_such_parameter=1",
        "redis://localhost?db=first",
        "redis://localhost?protocol=9",
        "rediss://localhost?ssl_cert_reqs=perhaps",
    ],
)
async def test_a_wrong_parameter_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="CARRYOUT_REDIS_URL has a parameter that is unknown or wrong"):
        await AsyncExitStack().enter_async_context(open_queue(url))


def test_a_connection_that_is_closed_while_it_opens_is_an_outage() -> None:
    """On uvloop, as in production: writing to one that has just been closed raises no OSError there."""

    async def ask_often(port: int) -> None:
        for _ in range(CONNECTIONS):
            async with open_queue(f"redis://127.0.0.1:{port}") as queue:
                with pytest.raises(OutageError):
                    await queue.check()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        hanging_up = Thread(target=_hang_up, args=[listener], daemon=True)
        hanging_up.start()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(ask_often(listener.getsockname()[1]))
        hanging_up.join()


@pytest.mark.parametrize("reply", [b"%1\r\n+a\r\n+b\r\n", b">1\r\n+x\r\n"])
async def test_a_reply_that_does_not_fit_is_an_outage(reply: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(reply)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_queue(f"redis://127.0.0.1:{port}") as queue:
            with pytest.raises(OutageError):
                await queue.enqueue_export(uuid4(), 1)


async def test_a_reply_above_the_bound_is_not_read(stack: Stack) -> None:
    """A value, and ids that are too large together; the next command has a connection that works."""
    name = f"huge:{uuid4()}"
    connection = open_redis(stack.environ["CARRYOUT_REDIS_URL"])
    try:
        await connection.set(name, b"x" * MAX_REPLY_BYTES)
        await connection.zadd(f"{name}:ids", {b"%d" % number + b"x" * 4_096: 1 for number in range(300)})
        with pytest.raises(OversizedReplyError):
            await connection.get(name)
        with pytest.raises(OversizedReplyError):
            await connection.zrangebyscore(f"{name}:ids", min=0, max=1)
        assert await connection.strlen(name) == MAX_REPLY_BYTES
        assert len(await connection.getrange(name, 0, MAX_REPLY_BYTES // 2)) == MAX_REPLY_BYTES // 2 + 1
        await connection.delete(name, f"{name}:ids")
    finally:
        await connection.aclose(close_connection_pool=True)


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\xff",
        b"export:0",
        b"export:01234567-89ab-4def-8123-456789abcdef",
        b"export:01234567-89ab-4def-8123-456789abcdef:",
        b"export:01234567-89ab-4def-8123-456789abcdef:1\n",
        b"export:01234567-89ab-4def-8123-456789abcdef:12345678901",
        b"export:01234567-89AB-4DEF-8123-456789ABCDEF:0",
    ],
)
def test_an_entry_that_is_not_ours(entry: bytes) -> None:
    assert find_job_id(entry) is None


async def test_an_entry_of_ours(stack: Stack) -> None:
    job_id, attempt = uuid4(), 2_147_483_647
    async with open_queue(stack.environ["CARRYOUT_REDIS_URL"]) as queue:
        await queue.enqueue_export(job_id, attempt)
    connection = open_redis(stack.environ["CARRYOUT_REDIS_URL"])
    try:
        entries = await connection.zrange(QUEUE_NAME, 0, -1)
        assert job_id in map(find_job_id, entries)
        await connection.zrem(QUEUE_NAME, f"export:{job_id}:{attempt}")
    finally:
        await connection.aclose(close_connection_pool=True)


def _hang_up(listener: socket.socket) -> None:
    for _ in range(CONNECTIONS):
        connection, _ = listener.accept()
        connection.recv(1)
        connection.close()

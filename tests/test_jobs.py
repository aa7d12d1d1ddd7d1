"""The queue's connection to Redis."""

import asyncio
import socket
from contextlib import AsyncExitStack
from threading import Thread

import pytest
import uvloop

from service.errors import ConfigurationError, OutageError
from service.jobs import open_queue

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


def _hang_up(listener: socket.socket) -> None:
    for _ in range(CONNECTIONS):
        connection, _ = listener.accept()
        connection.recv(1)
        connection.close()

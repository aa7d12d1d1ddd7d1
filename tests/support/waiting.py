"""Waiting for what other tasks and processes do; it is pytest's time limit that ends it."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    while not await condition():
        await asyncio.sleep(0.02)

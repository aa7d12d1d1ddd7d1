"""One after the other, and not for ever."""

import asyncio

import pytest

from service.errors import RateLimitedError
from service.mutex import KeyedMutex


async def test_a_turn_waits_for_the_one_before() -> None:
    mutex = KeyedMutex()
    async with mutex.acquire("ann", timeout_seconds=60) as end:
        waiting = asyncio.create_task(_acquire(mutex, "ann"))
        await _acquire(mutex, "bob")
        assert not waiting.done()
        end()
        await waiting
    await _acquire(mutex, "ann")


async def test_a_turn_that_does_not_come_is_refused() -> None:
    mutex = KeyedMutex()
    async with mutex.acquire("ann", timeout_seconds=60):
        with pytest.raises(RateLimitedError):
            await _acquire(mutex, "ann", timeout_seconds=0.01)
    await _acquire(mutex, "ann")


async def test_a_turn_ends_with_what_fails_in_it() -> None:
    mutex = KeyedMutex()
    with pytest.raises(ValueError, match="x"):
        async with mutex.acquire("ann", timeout_seconds=60):
            raise ValueError("x")
    await _acquire(mutex, "ann")


async def _acquire(mutex: KeyedMutex, name: str, *, timeout_seconds: float = 60) -> None:
    async with mutex.acquire(name, timeout_seconds=timeout_seconds):
        pass

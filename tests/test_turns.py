"""One after the other, and not for ever."""

import asyncio

import pytest

from service.errors import RateLimitedError
from service.turns import Turns


async def test_a_turn_waits_for_the_one_before() -> None:
    turns = Turns()
    async with turns.take("ann", timeout_seconds=60) as end:
        waiting = asyncio.create_task(_take(turns, "ann"))
        await _take(turns, "bob")
        assert not waiting.done()
        end()
        await waiting
    await _take(turns, "ann")


async def test_a_turn_that_does_not_come_is_refused() -> None:
    turns = Turns()
    async with turns.take("ann", timeout_seconds=60):
        with pytest.raises(RateLimitedError):
            await _take(turns, "ann", timeout_seconds=0.01)
    await _take(turns, "ann")


async def test_a_turn_ends_with_what_fails_in_it() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="x"):
        async with turns.take("ann", timeout_seconds=60):
            raise ValueError("x")
    await _take(turns, "ann")


async def _take(turns: Turns, name: str, *, timeout_seconds: float = 60) -> None:
    async with turns.take(name, timeout_seconds=timeout_seconds):
        pass

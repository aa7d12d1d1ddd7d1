"""Carries out the planned faults, and says so as it happens."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import aiohttp

from tests.chaos.faults import STRIKES, Scene
from tests.chaos.schedule import Planned

MOST_SECONDS = 120.0


class Storm:
    def __init__(self, scene: Scene, http: aiohttp.ClientSession) -> None:
        self._scene = scene
        self._http = http
        self._started_at = time.monotonic()
        self._turns: dict[str, asyncio.Lock] = {}
        self._raging = 0
        self.struck: Counter[str] = Counter()
        self.longest_healing_seconds = 0.0

    async def rage(self, planned: Sequence[Planned]) -> None:
        """Returns when all is healed and the API is ready again."""
        async with asyncio.TaskGroup() as group:
            for fault in planned:
                group.create_task(self._strike(fault))

    async def _strike(self, fault: Planned) -> None:
        await asyncio.sleep(fault.at - self._now())
        # A slow machine may need longer than planned to break or heal a server.
        async with self._turns.setdefault(fault.target, asyncio.Lock()):
            self._say(f"{fault.name:<31} {fault.target:<9} {fault.lasts:4.1f} s")
            self._raging += 1
            async with STRIKES[fault.name](self._scene, fault.target):
                self.struck[fault.name] += 1
                await asyncio.sleep(fault.lasts)
            self._raging -= 1
            self._say(f"{fault.name:<31} {fault.target:<9} healed")
        await self._watch_healing()

    async def _watch_healing(self) -> None:
        """How long until both API processes are ready, unless another fault comes between."""
        healed_at = self._now()
        while not self._raging and self._now() - healed_at < MOST_SECONDS:
            if await self._scene.fleet.are_ready(self._http):
                self.longest_healing_seconds = max(self.longest_healing_seconds, self._now() - healed_at)
                return
            await asyncio.sleep(0.1)

    def _now(self) -> float:
        return time.monotonic() - self._started_at

    def _say(self, text: str) -> None:
        print(f"  {self._now():6.1f}  {text}", flush=True)

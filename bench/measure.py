"""Measures contenders in turns: time, and CPU and memory of the working processes."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil

MIB = 2**20
SAMPLE_SECONDS = 0.005
# Pending work of a measurement, such as an audit event, must not count in the next one.
SETTLE_SECONDS = 0.1


class Transfer(NamedTuple):
    """A client's figures; `first_seconds` is the time from the connection to the first byte.

    Of `count` requests at once, `seconds` is the time of all by their number.
    """

    seconds: float
    first_seconds: float = 0.0
    size_bytes: int = 0
    count: int = 1


class Cost(NamedTuple):
    """One transfer and its cost: CPU seconds, and MiB above the resident memory before."""

    transfer: Transfer
    cpu_seconds: float
    postgres_seconds: float
    grown_mib: float


class Contender(NamedTuple):
    """`pid` is the answering process, measured with its children; None if the client does all the work."""

    name: str
    pid: int | None
    run: Callable[[], Awaitable[Transfer]]


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of some figures."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        return cls(min(figures), statistics.median(figures), max(figures))

    def text(self, unit: str, *, scale: float = 1.0, digits: int = 2) -> str:
        low, median, high = (f"{figure * scale:.{digits}f}" for figure in (self.low, self.median, self.high))
        return f"{median} {unit}".rstrip() + f" ({low} to {high})"


@dataclass(frozen=True)
class Measured:
    """All rounds of one contender."""

    costs: list[Cost] = field(default_factory=list)

    @property
    def seconds(self) -> Spread:
        return Spread.of([cost.transfer.seconds for cost in self.costs])

    @property
    def first_seconds(self) -> Spread:
        return Spread.of([cost.transfer.first_seconds for cost in self.costs])

    @property
    def size_bytes(self) -> int:
        return self.costs[-1].transfer.size_bytes

    @property
    def cpu_seconds(self) -> float:
        """The mean: the kernel counts CPU in hundredths of a second."""
        return statistics.fmean(cost.cpu_seconds for cost in self.costs)

    @property
    def postgres_seconds(self) -> float:
        return statistics.fmean(cost.postgres_seconds for cost in self.costs)

    @property
    def grown_mib(self) -> float:
        """The maximum of all rounds, because processes often keep the memory of the first."""
        return max(cost.grown_mib for cost in self.costs)


class Meter:
    """Measures processes on this machine, including PostgreSQL."""

    def __init__(self, postgres_pid: int, say: Callable[[str], None]) -> None:
        self._postgres_pid = postgres_pid
        self.say = say

    async def interleave(self, title: str, contenders: Sequence[Contender], rounds: int) -> dict[str, Measured]:
        """Run each contender once per round, in a new order each time, after one round that doesn't count."""
        measured = {contender.name: Measured() for contender in contenders}
        idle_mib = {contender.name: resident_mib(contender.pid) for contender in contenders if contender.pid}
        for turn in range(rounds + 1):
            self.say(f"{title}: {f'round {turn} of {rounds}' if turn else 'warming up'}")
            shift = turn % len(contenders)
            for contender in (*contenders[shift:], *contenders[:shift]):
                cost = await self.cost(contender, idle_mib.get(contender.name, 0.0))
                if turn:
                    measured[contender.name].costs.append(cost)
        return measured

    async def cost(self, contender: Contender, idle_mib: float) -> Cost:
        await asyncio.sleep(SETTLE_SECONDS)
        cpu = cpu_seconds(contender.pid) if contender.pid else 0.0
        postgres = cpu_seconds(self._postgres_pid)
        async with watch_memory(contender.pid) as samples:
            transfer = await contender.run()
        await asyncio.sleep(SETTLE_SECONDS / 2)  # work that continues after the response is part of its cost
        peak_mib = max((mib for _, mib in samples), default=0.0)
        return Cost(
            transfer,
            cpu_seconds(contender.pid) - cpu if contender.pid else 0.0,
            cpu_seconds(self._postgres_pid) - postgres,
            max(0.0, peak_mib - idle_mib),
        )


def cpu_seconds(pid: int) -> float:
    """CPU used so far by the process, its children, and children that have ended."""
    total = 0.0
    for process in _family(pid):
        with suppress(psutil.Error):  # a child that just ended counts in its parent's figures
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def resident_mib(pid: int) -> float:
    total = 0.0
    for process in _family(pid):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total / MIB


@asynccontextmanager
async def watch_memory(pid: int | None) -> AsyncIterator[list[tuple[float, float]]]:
    """Samples of (seconds since the start, resident MiB), growing while the block runs."""
    samples: list[tuple[float, float]] = []
    family = _family(pid) if pid else []
    started = time.perf_counter()

    def sample() -> None:
        with suppress(psutil.Error):
            resident = sum(process.memory_info().rss for process in family)
            samples.append((time.perf_counter() - started, resident / MIB))

    async def watch() -> None:
        while True:
            sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    watching = asyncio.create_task(watch()) if family else None
    try:
        yield samples
    finally:
        if watching:
            watching.cancel()
            sample()


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def ratio(measured: Mapping[str, Measured], name: str, other: str) -> float:
    """The ratio of the medians."""
    return measured[name].seconds.median / measured[other].seconds.median

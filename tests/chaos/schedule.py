"""The times of all faults, drawn from a seed alone: a seed brings the same faults at the same times."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

MOST_AT_ONCE = 3
QUIET_SECONDS = 3.0
PAUSE_SECONDS = (0.3, 2.5)


@dataclass(frozen=True)
class Kind:
    """A fault that strikes one of `targets` and lasts from the first to the second of `seconds`."""

    name: str
    targets: Sequence[str]
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Planned:
    """Times are seconds since the start."""

    at: float
    name: str
    target: str
    lasts: float

    @property
    def ends_at(self) -> float:
        return round(self.at + self.lasts, 1)


def draw(kinds: Sequence[Kind], seed: int, seconds: float) -> list[Planned]:
    """Faults for so many seconds, all healed by then; no two on one target at a time, every kind before one repeats."""
    chance = random.Random(seed)  # noqa: S311 (reproducible on purpose)
    planned: list[Planned] = []
    free_at: dict[str, float] = defaultdict(float)
    deck: list[Kind] = []
    now = QUIET_SECONDS
    while now < seconds - QUIET_SECONDS:
        deck = deck or chance.sample(kinds, len(kinds))
        kind = deck.pop()
        target = chance.choice(kind.targets)
        lasts = round(chance.uniform(*kind.seconds), 1)
        begins = math.ceil(10 * max(now, free_at[target], _end_of_crowd(planned, now))) / 10
        if begins + lasts < seconds - 1:
            planned.append(Planned(begins, kind.name, target, lasts))
            free_at[target] = begins + lasts + chance.uniform(*PAUSE_SECONDS)
        now = begins + chance.uniform(*PAUSE_SECONDS)
    return sorted(planned, key=lambda fault: fault.at)


def _end_of_crowd(planned: Sequence[Planned], now: float) -> float:
    """When fewer than MOST_AT_ONCE of them still last."""
    ends = sorted(fault.ends_at for fault in planned if fault.ends_at > now)
    return ends[-MOST_AT_ONCE] if len(ends) >= MOST_AT_ONCE else now

"""The plan of `make chaos`."""

from collections.abc import Sequence

import pytest

from tests.chaos.faults import KINDS
from tests.chaos.schedule import MOST_AT_ONCE, Planned, draw

SECONDS = 300.0


def test_a_seed_draws_the_same_faults_again() -> None:
    assert draw(KINDS, 1, SECONDS) == draw(KINDS, 1, SECONDS)
    assert draw(KINDS, 1, SECONDS) != draw(KINDS, 2, SECONDS)


@pytest.mark.parametrize("seed", range(20))
def test_faults_overlap_on_different_targets_and_are_healed_in_time(seed: int) -> None:
    planned = draw(KINDS, seed, SECONDS)
    assert {fault.name for fault in planned} == {kind.name for kind in KINDS}
    assert max(fault.ends_at for fault in planned) < SECONDS
    for fault in planned:
        others = _lasting(planned, fault.at)
        assert len(others) <= MOST_AT_ONCE
        assert len({other.target for other in others}) == len(others)


def _lasting(planned: Sequence[Planned], at: float) -> list[Planned]:
    return [fault for fault in planned if fault.at <= at < fault.ends_at]

"""The clock of a process' host against PostgreSQL's."""

import time
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from service.telemetry.clocks import Clock
from service.telemetry.metrics import Metrics
from tests.support.factories import Connection


@pytest.mark.parametrize("ahead", [600.0, -600.0])
async def test_a_wrong_clock_is_measured_and_told_once(
    database: Connection, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    metrics = Metrics()
    clock = Clock(metrics)
    with capture_logs() as events:
        await clock.measure(database)
        monkeypatch.setattr("service.telemetry.clocks.time", SimpleNamespace(time=lambda: time.time() + ahead))
        for _ in range(3):
            await clock.measure(database)
        assert clock.ahead_seconds == pytest.approx(ahead, abs=60)
        assert metrics.clock_skew._value.get() == clock.ahead_seconds
        monkeypatch.undo()
        await clock.measure(database)
    assert [event["event"] for event in events] == ["clock_differs", "clock_agrees"]
    assert events[0]["ahead_seconds"] == pytest.approx(ahead, abs=60)

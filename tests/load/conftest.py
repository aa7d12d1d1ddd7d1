"""`make load`: what many and slow clients do to one process, with the figures printed."""

from collections.abc import Callable

import pytest

Report = Callable[[str], None]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    def say(line: str) -> None:
        with capsys.disabled():
            print(f"    {line}", flush=True)  # noqa: T201 (the figures are what these are run for)

    return say

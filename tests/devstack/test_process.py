import os
import sys
from pathlib import Path

import pytest

from devstack.process import ChildProcess
from service.errors import ConfigurationError


async def never() -> bool:
    return False


async def test_a_failure_is_one_sentence_with_the_end_of_the_log(tmp_path: Path) -> None:
    child = ChildProcess("child", tmp_path)
    for run in ("one", "two"):
        command: list[str | Path] = ["/bin/sh", "-c", f"echo {run}; echo; echo wrong >&2; exit 3"]
        with pytest.raises(ConfigurationError) as failure:
            await child.run(command, {})
        assert failure.value.detail == f"child failed with status 3; its log ends: {run} | wrong"
        with pytest.raises(ConfigurationError, match=f"^child ended with status 3; its log ends: {run}"):
            await child.start(command, {}, answers=never)


async def test_a_server_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstack.process.START_TIMEOUT_SECONDS", 0.1)
    child = ChildProcess("child", tmp_path)
    with pytest.raises(ConfigurationError, match=r"^child did not answer within 0\.1 seconds; its log ends: \(empty\)"):
        await child.start(["/bin/sleep", "100"], {}, answers=never)
    assert await child.wait() == -15


async def test_a_deaf_child_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstack.process.STOP_TIMEOUT_SECONDS", 0.1)
    child = ChildProcess("child", tmp_path)

    async def ignores_sigterm() -> bool:
        return child.log_path.read_text() == "ready\n"

    command: list[str | Path] = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
    await child.start(command, {"PATH": "/usr/bin:/bin"}, answers=ignores_sigterm)
    await child.stop()
    assert await child.wait() == -9


async def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^child can't be run: .*No such file"):
        await ChildProcess("child", tmp_path).spawn([tmp_path / "nothing"], {})


async def test_a_child_cannot_change_its_recorded_pid(tmp_path: Path) -> None:
    """Its account may be another one, and the next start signals the process that the file names."""
    child = ChildProcess("child", tmp_path)
    writing = """
import os
for fd in range(3, 64):
    try:
        os.pwrite(fd, b"1 9", 0)
        print("wrote")
    except OSError:
        pass
"""
    await child.spawn([sys.executable, "-c", writing], {"PATH": os.environ["PATH"]})
    assert await child.wait() == 0
    assert "wrote" not in child.log_path.read_text()
    assert (tmp_path / "child.pid").read_text().split()[1] == "15"

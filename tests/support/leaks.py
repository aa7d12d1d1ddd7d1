"""No secret in any log: after a run, all logs of its processes are searched for secrets.

A plugin of pytest, registered by conftest.py. Tests put CELL_CANARY into every text cell that they export.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.factories import CANARY

CELL_CANARY = "canary-in-a-cell"
OWN_ADDRESSES = frozenset({b"carryout@example.com"})  # CARRYOUT_MAIL_FROM of the embedded stack
SHOWN_LEAKS = 20
SHOWN_CHARACTERS = 300

Patterns = Mapping[str, re.Pattern[bytes]]
PATTERNS: Patterns = {
    "token": re.compile(rb"eyJ[\w-]+\.[\w-]+\.[\w-]*"),
    "API key": re.compile(rb"\bco_[a-z0-9]{8}_[\w-]{20,}"),
    "link signature": re.compile(rb"\bsignature(?:=|%3[Dd])[\w-]{20,}"),
    "presigned URL": re.compile(rb"X-Amz-(?:Signature|Credential|Security-Token)[^\s\"]*"),
    "address": re.compile(rb"[\w.+-]{1,64}(?:@|%40)[\w-]+(?:\.[\w-]+)+"),
    "cell": re.compile(b"|".join(re.escape(canary.encode()) for canary in (CANARY, CELL_CANARY))),
}


class Leak(NamedTuple):
    """A line of a log with at least one secret of this kind, and every secret in it masked."""

    path: Path
    line: int
    kind: str
    masked: str


class Search(NamedTuple):
    files: int
    size_bytes: int
    leaks: list[Leak]
    stacks: int

    @property
    def failure(self) -> str | None:
        if self.leaks:
            return f"{len(self.leaks)} secrets are in the logs"
        # Every stack's servers write some: then it is the search that is broken.
        return "no log was found, though servers ran" if self.stacks and not self.files else None


def search_logs(folder: Path) -> Search:
    """Search every `*.log` below `folder`, also for the secrets of the stacks that ran there."""
    found = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    stacks = [path for path in found if path.name == "secrets.json"]
    logs = sorted(path for path in found if path.suffix == ".log")
    patterns = {**PATTERNS, **_stack_secrets(stacks)}
    leaks = [leak for path in logs for leak in _find_leaks(path, patterns)]
    return Search(len(logs), sum(path.stat().st_size for path in logs), leaks, len(stacks))


def _stack_secrets(stacks: list[Path]) -> Patterns:
    secrets = [secret.encode() for path in stacks for secret in json.loads(path.read_bytes()).values()]
    return {"setting": re.compile(b"|".join(map(re.escape, secrets)))} if secrets else {}


def _find_leaks(path: Path, patterns: Patterns) -> Iterator[Leak]:
    log = path.read_bytes()
    for kind, pattern in patterns.items():
        for hit in pattern.finditer(log):
            if hit[0] not in OWN_ADDRESSES:
                start = log.rfind(b"\n", 0, hit.start()) + 1
                line = log[start:].partition(b"\n")[0]
                yield Leak(path, log.count(b"\n", 0, start) + 1, kind, _mask(line, patterns))


def _mask(line: bytes, patterns: Patterns) -> str:
    for kind, pattern in patterns.items():
        line = pattern.sub(f"[{kind}]".encode(), line)
    return line.decode(errors="replace")[:SHOWN_CHARACTERS]


SEARCH = pytest.StashKey[Search]()


@pytest.hookimpl(trylast=True)  # when xdist's workers have ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return  # the controller searches what all of them wrote
    search = search_logs(session.config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]
    session.config.stash[SEARCH] = search
    if search.failure and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    search = config.stash[SEARCH]
    result = search.failure or "nothing found"
    if search.failure:
        terminalreporter.section("leak check", red=True)
    for leak in search.leaks[:SHOWN_LEAKS]:
        terminalreporter.write_line(f"{leak.path}:{leak.line}: {leak.kind}: {leak.masked}")
    terminalreporter.write_line(f"(leak check: {search.files} files, {search.size_bytes} bytes, {result})")

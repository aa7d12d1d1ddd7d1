"""That a secret in a log is found, and fails the run."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.factories import CANARY
from tests.support.leaks import CELL_CANARY, search_logs

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
SIGNATURE = "Zm9ydHktdGhyZWUtY2hhcmFjdGVycy1vZi1iYXNlNjQ"
SECRET = "5e" * 32
LEAKS = {
    "token": [TOKEN, f"/#token={TOKEN}"],
    "API key": [f"co_ab12cd34_{SIGNATURE}"],
    "link signature": [f"signature={SIGNATURE}", f"signature%3D{SIGNATURE}"],
    "presigned URL": ["X-Amz-Signature=0123abcd", "X-Amz-Credential=key%2F20260101"],
    "address": ["ada@example.com", "ada.l+x@mail.example.co.uk", "ada%40example.com", "pass@127.0.0.1"],
    "cell": [CANARY, CELL_CANARY],
    "setting": [SECRET],
}
HARMLESS = [
    "carryout@example.com",
    "co_ab12cd34",
    "signature=[redacted]",
    "eyJhbGciOiJIUzI1NiJ9",
    "@app.route",
    "5e5e5e5e5e5e",
]
RUN = """
def test_that_logs(tmp_path):
    (tmp_path / "api.log").write_text({text!r})
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not `tmp_path`, where the end of this very run would find what these tests made up."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def write_log(folder: Path, *lines: str) -> None:
    """Where a worker of xdist has its stack's logs."""
    run_dir = folder / "popen-gw1" / "stack0" / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir.parent / "secrets.json").write_text(json.dumps({"link_secret": SECRET}))
    (run_dir / "api.log").write_text("\n".join(lines))


@pytest.mark.parametrize(("kind", "secret"), [(kind, secret) for kind, secrets in LEAKS.items() for secret in secrets])
@pytest.mark.parametrize("after", [[], ["another line"]])
def test_each_is_found_and_masked(folder: Path, kind: str, secret: str, after: list[str]) -> None:
    write_log(folder, "harmless", f'{{"event":"request","url":"{secret}"}}', *after)
    search = search_logs(folder)
    (leak,) = search.leaks
    assert (leak.path.name, leak.line, leak.kind) == ("api.log", 2, kind)
    assert f"[{kind}]" in leak.masked
    assert secret not in leak.masked
    assert leak.masked.startswith('{"event":"request"')
    assert search.failure == "1 secrets are in the logs"


def test_all_of_a_line_are_masked(folder: Path) -> None:
    write_log(folder, f"{TOKEN} for ada@example.com")
    assert [leak.masked for leak in search_logs(folder).leaks] == ["[token] for [address]"] * 2


def test_harmless_lines_are_not_reported(folder: Path) -> None:
    write_log(folder, *HARMLESS)
    search = search_logs(folder)
    assert (search.files, search.size_bytes) == (1, len("\n".join(HARMLESS)))
    assert (search.leaks, search.failure) == ([], None)


def test_servers_without_logs_are_a_broken_search(folder: Path) -> None:
    write_log(folder)
    (log,) = folder.rglob("api.log")
    log.rename(log.with_suffix(".txt"))
    assert search_logs(folder).failure == "no log was found, though servers ran"


def test_without_servers_there_is_nothing_to_search(folder: Path) -> None:
    search = search_logs(folder)
    assert (search.files, search.failure) == (0, None)


@pytest.mark.parametrize(
    ("text", "options", "status", "summary"),
    [
        ("harmless", [], 0, "(leak check: 1 files, 8 bytes, nothing found)"),
        (f"key co_ab12cd34_{SIGNATURE}", ["-n", "1"], 1, "api.log:1: API key: key [API key]"),
    ],
    ids=["clean", "leaking"],
)
def test_it_decides_over_a_run(folder: Path, text: str, options: list[str], status: int, summary: str) -> None:
    (folder / "test_made_up.py").write_text(RUN.format(text=text))
    (folder / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.leaks", "-c", str(folder / "pytest.ini")]
    command += [f"--basetemp={folder / 'base'}", str(folder), *options]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert "1 passed" in ended.stdout, ended.stdout + ended.stderr
    assert summary in ended.stdout
    assert ended.returncode == status

"""A command in a terminal of its own, as an operator works with it: a pseudo-terminal of 80 columns."""

import asyncio
import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.support.forking import ROOT
from tests.support.processes import CARRYOUT, child_environ

COLUMNS: Final = 80


class Terminal:
    """`text` is all that the command has printed so far, without carriage returns."""

    def __init__(self, process: "subprocess.Popen[bytes]", descriptor: int) -> None:
        self._process = process
        self._descriptor = descriptor
        self.text = ""

    async def until(self, wanted: str, *, since: int = 0) -> str:
        """The output after `since`, as soon as it holds `wanted`."""
        while wanted not in self.text[since:]:
            if not (printed := await asyncio.to_thread(self._read)):
                raise AssertionError(f"ended without {wanted!r}: {self.text[since:]}")
            self.text += printed
        return self.text[since:]

    async def press(self, keys: str, then: str) -> str:
        """Type the keys, and return what the command prints up to `then` and with it."""
        since = len(self.text)
        os.write(self._descriptor, keys.encode())
        return await self.until(then, since=since)

    async def end(self) -> int:
        """The exit code, once all is printed."""
        while printed := await asyncio.to_thread(self._read):
            self.text += printed
        return await asyncio.to_thread(self._process.wait)

    def _read(self) -> str:
        try:
            return os.read(self._descriptor, 65536).decode().replace("\r\n", "\n")
        except OSError:  # Linux: the other side is closed
            return ""


@asynccontextmanager
async def open_terminal(*arguments: str | Path, **environ: str) -> AsyncIterator[Terminal]:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = _start(theirs, arguments, environ)
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _start(terminal: int, arguments: Sequence[str | Path], environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*CARRYOUT, *map(str, arguments)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=child_environ({"TERM": "dumb", **environ}),
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509 (one system call, and no thread holds a lock that it needs)
    )


def _take_terminal() -> None:
    """Make stdin the terminal whose Ctrl-C the process gets."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

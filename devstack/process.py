"""Child processes that don't outlive the process that owns them."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from devstack.files import try_lock
from service.errors import ConfigurationError

START_TIMEOUT_SECONDS: Final = 30
STOP_TIMEOUT_SECONDS: Final = 20
POLL_SECONDS: Final = 0.02
LOG_TAIL_LINES: Final = 5
LOG_TAIL_BYTES: Final = 2_000

Command: TypeAlias = list[str | Path]

PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Account:
    """The account for a child that must not run as root."""

    uid: int
    gid: int


class ChildProcess:
    """A named child; its output is appended to `run_dir/NAME.log`.

    A child doesn't outlive a killed owner. On Linux the kernel then sends the child its stop signal. The owner's event
    loop must run in the main thread for this, because the kernel watches the thread that forked. On other systems, and
    if that fails, the next start stops the child: the child holds a lock on `run_dir/NAME.pid`, so while the lock is
    held, the pid in the file is the child's.
    """

    def __init__(self, name: str, run_dir: Path, *, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        self.name = name
        self.log_path = run_dir / f"{name}.log"
        self._pid_path = run_dir / f"{name}.pid"
        self._stop_signal = stop_signal
        self._process: asyncio.subprocess.Process | None = None
        self._log_start_bytes = 0

    async def start(
        self,
        command: Command,
        environ: Mapping[str, str],
        *,
        answers: Callable[[], Awaitable[bool]],
        account: Account | None = None,
    ) -> None:
        """Start it, and return when `answers` is true. Otherwise stop it and raise ConfigurationError."""
        await self.spawn(command, environ, account=account)
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                while not await answers():
                    self._raise_if_ended()
                    await asyncio.sleep(POLL_SECONDS)
            self._raise_if_ended()  # if it has, another process answered
        except TimeoutError:
            await self.stop()
            raise self._failure(f"did not answer within {START_TIMEOUT_SECONDS} seconds") from None
        except BaseException:
            await self.stop()
            raise

    async def run(self, command: Command, environ: Mapping[str, str], *, account: Account | None = None) -> None:
        """Run to the end. Raises ConfigurationError if the status isn't 0."""
        await self.spawn(command, environ, account=account)
        try:
            status = await self.wait()
        finally:
            await self.stop()
        if status:
            raise self._failure(f"failed with status {status}")

    async def spawn(self, command: Command, environ: Mapping[str, str], *, account: Account | None = None) -> None:
        with (
            await _take_lock(self._pid_path) as lock,
            self._pid_path.open("r+b") as record,
            self.log_path.open("ab") as log,
        ):
            self._log_start_bytes = log.tell()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    env=environ,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock.fileno()],
                    start_new_session=True,  # Ctrl-C must reach only the owner, which stops its children in order
                    preexec_fn=partial(_tie_to_owner, os.getpid(), self._stop_signal, record.fileno()),
                    **_switch(account),
                )
            except OSError as error:
                raise ConfigurationError(f"{self.name} can't be run: {error}") from error

    async def wait(self) -> int:
        """Wait for the exit status; a negative one is the signal that ended it."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return await self._process.wait()

    async def stop(self) -> None:
        """Stop it, and return when it has ended; harmless if it isn't running."""
        if self._process is None:
            return
        for number in (self._stop_signal, signal.SIGKILL):
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_SECONDS)
                return

    def kill(self) -> None:
        """Send SIGKILL, without waiting; harmless if it isn't running."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def _raise_if_ended(self) -> None:
        if self._process is not None and self._process.returncode is not None:
            raise self._failure(f"ended with status {self._process.returncode}")

    def _failure(self, fact: str) -> ConfigurationError:
        log = self.log_path.read_bytes()[self._log_start_bytes :]
        lines = [line.strip() for line in log[-LOG_TAIL_BYTES:].decode(errors="replace").split("\n")]
        tail = " | ".join([line for line in lines if line][-LOG_TAIL_LINES:])
        return ConfigurationError(f"{self.name} {fact}; its log ends: {tail or '(empty)'}")


def _switch(account: Account | None) -> dict[str, Any]:
    """Options of `subprocess`. Another account may be unable to read the current working directory."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": [], "cwd": "/"}


def _tie_to_owner(owner_pid: int, stop_signal: signal.Signals, record_fd: int) -> None:
    """Runs in the child before the server, and after the switch of accounts, which would reset the signal.

    Between fork and exec only code without locks is safe: system calls.
    """
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, int(stop_signal))
    if os.getppid() != owner_pid:
        os._exit(1)
    os.ftruncate(record_fd, 0)
    os.write(record_fd, b"%d %d\n" % (os.getpid(), stop_signal))


async def stop_leftovers(run_dir: Path) -> None:
    """Stop children of a killed owner. Raises ConfigurationError if one can't be stopped."""
    for pid_path in run_dir.glob("*.pid"):
        (await _take_lock(pid_path)).close()


async def _take_lock(pid_path: Path) -> BinaryIO:
    """The child inherits the lock, read-only: it can't name another process for the next start to signal."""
    pid_path.touch()
    lock = pid_path.open("rb")
    if try_lock(lock.fileno()):
        return lock
    for force in (False, True):
        _signal_holder(pid_path, force=force)
        if await _wait_for_lock(lock.fileno()):
            return lock
    lock.close()
    raise ConfigurationError(f"{pid_path.stem} of an earlier run can't be stopped; its pid is in {pid_path}")


def _signal_holder(pid_path: Path, *, force: bool) -> None:
    with suppress(ProcessLookupError, ValueError):  # ValueError: the child ended before it wrote its pid
        pid, stop_signal = map(int, pid_path.read_bytes().split())
        os.kill(pid, signal.SIGKILL if force else stop_signal)


async def _wait_for_lock(fd: int) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
            while not try_lock(fd):  # noqa: ASYNC110 (another process holds it)
                await asyncio.sleep(POLL_SECONDS)
            return True
    return False

"""Processes of `carryout` forked from one that has imported it already: that takes most of a second of CPU.

As a program, this module is that one process: it forks for each request until the tests close its channel. A request
is one byte with five descriptors: what to run, in JSON; stdin, stdout and stderr; and where pid and status are told.
"""

import asyncio
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from tempfile import TemporaryFile
from typing import IO, Any, Final, NamedTuple

from devstack.process import _LIBC, PR_SET_PDEATHSIG
from service.cli.commands import COMMANDS
from service.settings import SQL_DIR

ROOT: Final = SQL_DIR.parent
# Commands import these only when they run.
LATE: Final = ("service.api.server", "worker.main", "client.work", "botocore.exceptions", "redis.asyncio.sentinel")
DESCRIPTORS: Final = 5
FIRST_OWN: Final = 3
# The interpreter and its libraries have read these before a fork.
EARLY_VARIABLES: Final = ("PYTHON", "LC_", "LANG", "LD_")


class Forked:
    """As `asyncio.subprocess.Process`, but for its streams."""

    def __init__(self, pid: int, status: asyncio.StreamReader) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.create_task(self._read(status))

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def _read(self, status: asyncio.StreamReader) -> int:
        self.returncode = int(await status.read())
        return self.returncode


class _Server(NamedTuple):
    channel: socket.socket
    process: "subprocess.Popen[bytes]"


_SERVERS: Final[list[_Server]] = []


def can_fork(environ: Mapping[str, str]) -> bool:
    return not any(name.startswith(EARLY_VARIABLES) for name in environ)


async def fork(
    base: Mapping[str, str],
    environ: Mapping[str, str],
    module: str,
    arguments: Sequence[str],
    streams: tuple[IO[Any], IO[Any], IO[Any]],
) -> Forked:
    """Run a module with stdin, stdout and stderr of `streams`, in the environment of `base` and `environ`."""
    status, told = os.pipe()
    with TemporaryFile("w+") as request:
        json.dump([module, arguments, {**base, **environ}], request)
        request.flush()
        descriptors = [request.fileno(), *(stream.fileno() for stream in streams), told]
        socket.send_fds(_serve(base).channel, [b"x"], descriptors)
    os.close(told)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(status, "rb", buffering=0)
    )
    return Forked(int(await reader.readline()), reader)


def stop() -> None:
    """End the server, if there is one, and wait until it has stored what was measured of it."""
    while _SERVERS:
        server = _SERVERS.pop()
        server.channel.close()
        server.process.wait()


def _serve(environ: Mapping[str, str]) -> _Server:
    """The server of this process of pytest."""
    if not _SERVERS:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environ, cwd=ROOT)
        _SERVERS.append(_Server(ours, process))
    return _SERVERS[0]


def _accept(channel: socket.socket) -> str | None:
    """Fork for each request. Returns the module to run in a child, and None at the end of the tests."""
    waiting: dict[int, int] = {}

    def reap(*_: object) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                _tell(waiting[ended[0]], os.waitstatus_to_exitcode(ended[1]))
                os.close(waiting.pop(ended[0]))

    signal.signal(signal.SIGCHLD, reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the tests and for children
    while descriptors := socket.recv_fds(channel, 1, DESCRIPTORS)[1]:
        request, *streams, told = descriptors
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        if not (pid := os.fork()):
            channel.detach()
            return _become(request, streams)
        waiting[pid] = told
        _tell(told, pid)
        for descriptor in (request, *streams):
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    return None


def _tell(descriptor: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the test has ended
        os.write(descriptor, b"%d\n" % number)


def _become(request: int, streams: Sequence[int]) -> str:
    """Make this process one as `exec` would, but that it ends with the server. Returns the module to run."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    os.lseek(request, 0, os.SEEK_SET)
    with os.fdopen(request) as file:
        module, arguments, environ = json.load(file)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(FIRST_OWN, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(environ)
    sys.argv[1:] = arguments
    return str(module)


if __name__ == "__main__":
    for name in (*LATE, *(name for name, _ in COMMANDS.values())):
        import_module(name)
    gc.collect()
    gc.freeze()  # or each child would look through all of it again when it ends
    if wanted := _accept(socket.socket(fileno=int(sys.argv[1]))):
        runpy.run_module(wanted, run_name="__main__", alter_sys=True)

"""Carryout's processes, run as operators, users and supervisors run them. Tests start them in no other way."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final, NamedTuple

from devstack.ports import ask, keep_port
from devstack.process import ChildProcess, Command
from tests.support.forking import ROOT, Forked, can_fork, fork
from tests.support.waiting import until

ENTRY: Final = "service.cli.main"
CARRYOUT: Final[Command] = [sys.executable, "-m", ENTRY]


class Ended(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def table(self) -> list[list[str]]:
        return [re.split(r" {2,}", line) for line in self.out.splitlines()]


Run = Callable[..., Awaitable[Ended]]


def child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Nothing of pytest's own environment but what finds programs, modules and the measurement of coverage."""
    measured = {name: text for name, text in os.environ.items() if name.startswith(("COVERAGE_", "COV_"))}
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    return {**measured, **base, **environ}


async def start(  # noqa: PLR0913 (a process has as many streams)
    environ: Mapping[str, str],
    *arguments: str | Path,
    program: Sequence[str | Path] = CARRYOUT,
    cwd: str | Path = ROOT,
    stdin: int | None = None,
    stdout: int | IO[Any] = PIPE,
    stderr: int | IO[Any] = PIPE,
) -> Process:
    return await asyncio.create_subprocess_exec(
        *program, *arguments, env=child_environ(environ), cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr
    )


async def start_forked(environ: Mapping[str, str], *arguments: str, log: IO[Any], module: str = ENTRY) -> Forked:
    """As `start`, but without imports; `module` is to be run as `-m` does."""
    assert can_fork(environ)
    with TemporaryFile() as nothing:
        return await fork(child_environ({}), environ, module, arguments, (nothing, log, log))


async def run(environ: Mapping[str, str], *arguments: str | Path, stdin: str = "") -> Ended:
    """Run a command to its end, in a process that is forked unless its interpreter must see the environment."""
    if not can_fork(environ):
        return await run_anew(environ, *arguments, stdin=stdin)
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        process = await fork(child_environ({}), environ, ENTRY, [*map(str, arguments)], (given, out, err))
        status = await process.wait()
        out.seek(0)
        err.seek(0)
        return Ended(status, out.read().decode(), err.read().decode())


async def run_anew(environ: Mapping[str, str], *arguments: str | Path, stdin: str = "") -> Ended:
    """As `run`, with an interpreter of its own, for what importing does."""
    process = await start(environ, *arguments, stdin=PIPE)
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def open_api(environ: Mapping[str, str], folder: Path, name: str = "api") -> AsyncIterator[int]:
    """The port of an API that answers; `folder` gets its log, pid and port."""
    port = keep_port(folder / f"{name}.port")
    async with _open_child(name, folder, environ, port, "serve", "--port", str(port)):
        yield port


@asynccontextmanager
async def open_worker(environ: Mapping[str, str], folder: Path, name: str = "worker") -> AsyncIterator[int]:
    """The port of its metrics; as `open_api`."""
    port = keep_port(folder / f"{name}.port")
    async with _open_child(name, folder, {**environ, "CARRYOUT_WORKER_METRICS_PORT": str(port)}, port, "worker"):
        yield port


async def kill(process: Process) -> None:
    """End it, if it hasn't ended."""
    if process.returncode is None:
        process.kill()
    await process.communicate()


@asynccontextmanager
async def _open_child(
    name: str, folder: Path, environ: Mapping[str, str], port: int, *arguments: str
) -> AsyncIterator[None]:
    child = ChildProcess(name, folder)
    try:
        await child.spawn([*CARRYOUT, *arguments], child_environ(environ))
        await until(lambda: _is_alive(port))
        yield
    finally:
        await child.stop()


async def _is_alive(port: int) -> bool:
    return b" 200 " in await ask(port, b"GET /livez HTTP/1.0\r\n\r\n")

"""The `carryout` command, run as operators run it."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from service.settings import SQL_DIR


@dataclass
class Ended:
    status: int
    out: str
    err: str

    @property
    def table(self) -> list[list[str]]:
        return [re.split(r" {2,}", line) for line in self.out.splitlines()]


Run = Callable[..., Awaitable[Ended]]


async def run_command(environ: Mapping[str, str], *arguments: str) -> Ended:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service.cli",
        *arguments,
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=SQL_DIR.parent,
    )
    out, err = await child.communicate()
    assert child.returncode is not None
    return Ended(child.returncode, out.decode(), err.decode())

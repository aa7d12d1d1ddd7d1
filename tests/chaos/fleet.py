"""The processes of a small installation, each restarted as its supervisor does in production."""

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from devstack.ports import keep_port
from devstack.process import ChildProcess
from tests.support.processes import CARRYOUT, child_environ

APIS = ("api-1", "api-2")
WORKERS = ("worker-1", "worker-2", "worker-3")
RESTART_SECONDS = 0.5
REFUSED_START = 2  # the service's exit status when a server it needs can't be reached
READY_SECONDS = 60.0
LAST_LINE_BYTES = 4_000
STARTED = re.compile(rb'"event": "export_started".*"job_id": "([0-9a-f-]{36})"')
USED = re.compile(r'carryout_pool_connections\{pool="(\w+)",state="used"\} ([\d.]+)')


def signal_child(run_dir: Path, name: str, number: signal.Signals) -> None:
    """Signal the server or process that `run_dir/NAME.pid` names, if it runs."""
    with suppress(ProcessLookupError, FileNotFoundError, ValueError):
        os.kill(int((run_dir / f"{name}.pid").read_text().split()[0]), number)


class Member:
    """One process, on a port of its own. A caller that ends it takes it `down` first, and afterwards `up`."""

    def __init__(self, name: str, run_dir: Path, environ: Mapping[str, str]) -> None:
        self.name = name
        self.port = keep_port(run_dir / f"{name}.port")
        self.log_path = run_dir / f"{name}.log"
        self.endings: Counter[str] = Counter()
        self._run_dir = run_dir
        self._child = ChildProcess(name, run_dir)
        self._up = asyncio.Event()
        self._up.set()
        self._felled = False
        self._ended = asyncio.Event()
        self._given = dict(environ)
        if name in WORKERS:
            self._command = ["worker"]
            self._given["CARRYOUT_WORKER_METRICS_PORT"] = str(self.port)
        else:
            self._command = ["serve", "--host", "127.0.0.1", "--port", str(self.port)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return int((self._run_dir / f"{self.name}.pid").read_text().split()[0])

    def started_export(self) -> str | None:
        """The id of the export that a worker began, if that is the last thing it logged."""
        with self.log_path.open("rb") as log:
            log.seek(-min(LAST_LINE_BYTES, log.seek(0, os.SEEK_END)), os.SEEK_END)
            found = STARTED.search(log.read().rpartition(b"\n{")[2])
        return found[1].decode() if found else None

    def signal(self, number: signal.Signals) -> None:
        signal_child(self._run_dir, self.name, number)

    def down(self) -> None:
        self._felled = True
        self._up.clear()

    def up(self) -> None:
        self._up.set()

    async def restart(self, **settings: str) -> None:
        """End it by SIGTERM, and start it with other settings, as a deploy does."""
        await self.end()
        self._given |= settings
        self.up()

    async def end(self) -> None:
        """End it by SIGTERM, until it is `up` again."""
        self.down()
        self._ended.clear()
        self.signal(signal.SIGTERM)
        await self._ended.wait()

    async def keep_running(self) -> None:
        try:
            while True:
                await self._up.wait()
                self._felled = False
                await self._child.spawn([*CARRYOUT, *self._command], child_environ(self._given))
                self._note(await self._child.wait())
                self._ended.set()
                await asyncio.sleep(RESTART_SECONDS)
        finally:
            await self._child.stop()

    def _note(self, status: int) -> None:
        if self._felled:
            self.endings["by a fault"] += 1
        elif status == REFUSED_START:
            self.endings["start refused"] += 1
        else:
            self.endings[f"by itself, status {status}"] += 1


class Fleet:
    def __init__(self, run_dir: Path, environ: Mapping[str, str], workers: Sequence[str] = WORKERS) -> None:
        """`run_dir` gets the processes' logs, pids and ports."""
        # The two ways to hand out files, side by side.
        modes = {"api-2": {"CARRYOUT_DOWNLOAD_MODE": "proxy"}}
        self.members = {name: Member(name, run_dir, {**environ, **modes.get(name, {})}) for name in (*APIS, *workers)}

    @property
    def api_urls(self) -> list[str]:
        return [self.members[name].url for name in APIS]

    async def are_ready(self, http: aiohttp.ClientSession) -> bool:
        answers = await asyncio.gather(*(_status(http, f"{url}/readyz") for url in self.api_urls))
        return set(answers) == {200}

    async def are_alive(self, http: aiohttp.ClientSession) -> bool:
        urls = [f"{member.url}/livez" for member in self.members.values()]
        return set(await asyncio.gather(*(_status(http, url) for url in urls))) == {200}

    async def used_connections(self, http: aiohttp.ClientSession) -> dict[str, int]:
        """Those lent by the pools of each process."""
        used = {}
        for name, member in self.members.items():
            async with http.get(f"{member.url}/metrics") as answer:
                found: list[tuple[str, str]] = USED.findall(await answer.text())
            # The page is rendered while one connection counts the backlog or was just returned.
            used.update({f"{name} {pool}": int(float(count)) for pool, count in found if float(count)})
        return used

    async def resident_megabytes(self) -> dict[str, int]:
        pids = {str(member.pid): name for name, member in self.members.items()}
        ps = await asyncio.create_subprocess_exec(
            "ps", "-o", "pid=,rss=", "-p", ",".join(pids), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await ps.communicate()
        rows = [line.split() for line in output.decode().splitlines()]
        return {pids[pid]: int(kilobytes) // 1024 for pid, kilobytes in rows}


@asynccontextmanager
async def open_fleet(
    run_dir: Path, environ: Mapping[str, str], http: aiohttp.ClientSession, workers: Sequence[str] = WORKERS
) -> AsyncIterator[Fleet]:
    fleet = Fleet(run_dir, environ, workers)
    keepers = [asyncio.create_task(member.keep_running()) for member in fleet.members.values()]
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not (await fleet.are_ready(http) and await fleet.are_alive(http)):
                await asyncio.sleep(0.1)
        yield fleet
    finally:
        for member in fleet.members.values():
            member.signal(signal.SIGCONT)
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


async def _status(http: aiohttp.ClientSession, url: str) -> int:
    try:
        async with http.get(url) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return 0

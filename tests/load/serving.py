"""An API process of its own, with a database full of users, and a look at what it holds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from devstack.stack import Stack
from service.access.tokens import create_token
from service.settings import Settings, from_env
from tests.api.problems import bearer
from tests.conftest import PATIENCE_SECONDS, PUBLIC_URL
from tests.sql.databases import database_environ
from tests.support import processes
from tests.support.scraping import Scrape, scrape

KIBIBYTE = 1024
SAMPLE_SECONDS = 0.1


@dataclass
class Api:
    settings: Settings
    port: int
    pid: int
    client: httpx.AsyncClient

    async def scrape(self) -> Scrape:
        return await scrape(self.client)

    def resident_mib(self) -> float:
        return self._status("VmRSS")

    def peak_mib(self) -> float:
        """Since the start, or the last `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # proc(5)

    def sign_in(self, user_id: object) -> dict[str, str]:
        """The headers of a user's requests."""
        return bearer(create_token(self.settings, str(user_id), 3_600))

    def _status(self, field: str) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
        return int(kibibytes) / KIBIBYTE


@asynccontextmanager
async def open_api(stack: Stack, database_url: str, folder: Path, **environ: str) -> AsyncIterator[Api]:
    settings = {
        **stack.environ,
        "CARRYOUT_PUBLIC_URL": PUBLIC_URL,
        **database_environ(stack, database_url),
        **environ,
    }
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with (
        processes.open_api(settings, folder) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS, limits=limits, trust_env=False
        ) as client,
    ):
        yield Api(from_env(settings), port, int((folder / "api.pid").read_text().split()[0]), client)


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, seconds: float = 120) -> float:
    """How long it took, in seconds."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    while not await condition():
        assert loop.time() - began_at < seconds, f"Waited in vain for {what}"
        await asyncio.sleep(SAMPLE_SECONDS)
    return loop.time() - began_at

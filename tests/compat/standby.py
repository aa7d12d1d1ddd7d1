"""A hot standby of the embedded PostgreSQL, copied with pg_basebackup."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from devstack.process import Account, ChildProcess
from devstack.servers import CLEAN_ENVIRON, Postgres


class Standby(Postgres):
    """Replays what the primary does, until it is promoted."""

    def __init__(self, folder: Path, run_dir: Path, *, primary_url: str, password: str) -> None:
        super().__init__(folder, run_dir, password=password)
        self._primary_url = primary_url
        self._copying = ChildProcess("pg_basebackup", run_dir)

    async def _make_cluster(self, binaries: Path, cluster: Path, account: Account | None) -> None:
        await self._copying.run(
            [binaries / "pg_basebackup", "-d", self._primary_url, "-D", cluster, "-R", "-c", "fast", "-X", "stream"],
            CLEAN_ENVIRON,
            account=account,
        )


@asynccontextmanager
async def open_standby(folder: Path, primary_url: str, *, password: str) -> AsyncIterator[Standby]:
    """It has all that the primary has by now."""
    standby = Standby(folder / "postgres", folder, primary_url=primary_url, password=password)
    try:
        await standby.start()
        yield standby
    finally:
        await standby.stop()


async def written(primary_url: str) -> int:
    """The position of what the primary has written by now."""
    return await _ask(primary_url, "SELECT pg_current_wal_insert_lsn()")


async def has_replayed(standby_url: str, position: int) -> bool:
    return await _ask(standby_url, "SELECT pg_last_wal_replay_lsn()") >= position


async def caught_up(primary_url: str, standby_url: str) -> bool:
    """Whether the standby has replayed what the primary has written by now."""
    return await has_replayed(standby_url, await written(primary_url))


async def _ask(url: str, query: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        position: int = await connection.fetchval(query)
    finally:
        await connection.close()
    return position

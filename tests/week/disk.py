"""A disk of PostgreSQL that can be filled: a tablespace on a file system of its own."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.backends.database import Connection, connect

SPARE_BYTES = 64 * 2**20  # what PostgreSQL may need to move the database, and the load to write before it is full
CHUNKS = (2**20, 2**12)


@dataclass
class Disk:
    """`open` moves the database to a small file system, `close` back: as root, while no process of ours runs."""

    admin_url: str
    database: str
    folder: Path = Path()

    async def open(self) -> None:
        async with connect(self.admin_url) as server:
            cluster = Path(await server.fetchval("SHOW data_directory"))
            size = await server.fetchval("SELECT pg_database_size($1::text)", self.database) + SPARE_BYTES
            owner = cluster.stat()
            self.folder = cluster.parent / "small"
            self.folder.mkdir()
            rights = f"size={size},uid={owner.st_uid},gid={owner.st_gid},mode=700"
            await _run("mount", "-t", "tmpfs", "-o", rights, "tmpfs", self.folder)
            await server.execute(f"CREATE TABLESPACE small LOCATION '{self.folder}'")
            await self._move(server, "small")

    def fill(self) -> None:
        """To the last page, as another program does."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in CHUNKS:
                with suppress(OSError):
                    while ballast.write(bytes(size)):
                        pass

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    async def close(self) -> None:
        async with connect(self.admin_url) as server:
            await self._move(server, "pg_default")
            await server.execute("DROP TABLESPACE small")
        await _run("umount", self.folder)
        self.folder.rmdir()

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    async def _move(self, server: Connection, tablespace: str) -> None:
        """PostgreSQL moves a database that no session uses."""
        await server.execute(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS false")
        await server.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", self.database
        )
        await server.execute(f"ALTER DATABASE {self.database} SET TABLESPACE {tablespace}")
        await server.execute(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS true")


async def _run(*command: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command

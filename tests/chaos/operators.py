"""Operators who download lists again and again, and compare what they get with the tables.

They use the client that is made for them. They leave at any row, and go on later, at either process.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from yarl import URL

from client.api import Api
from client.errors import ClientError, IncompleteError
from client.http import open_session
from client.lists import ListDownload, create_layout, download_whole
from client.outputs import Output, open_output
from client.retries import Backoff
from service.access.api_keys import KeyRepository, list_permission
from service.backends.database import Connection
from tests.chaos.client import PATIENCE_SECONDS, Ledger
from tests.faults.world import World
from tests.support.own_lists import FILES, Row, create_lists, read_list

OPERATORS = 4
ROWS = 5_000
XLSX = "xlsx"
FORMATS = ("csv", "json", "ndjson", XLSX)
THINK_SECONDS = (1.0, 6.0)
LEAVING_SHARE = 0.4
BACKOFF = Backoff(first_seconds=0.2, max_seconds=3.0, tries=8)


class LeftError(Exception):
    """The operator ends the client in the middle of a list."""


@dataclass(frozen=True)
class Lists:
    """The rows of each list, which nothing changes; a key for each operator; the folder of files and downloads."""

    tables: Mapping[str, list[Row]]
    keys: list[str]
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        return {"CARRYOUT_LISTS_DIR": str(self.folder)}


@asynccontextmanager
async def open_lists(world: World, folder: Path) -> AsyncIterator[Lists]:
    """The lists, for processes that start afterwards."""
    async with world.database() as connection:
        await create_lists(connection, folder, rows=ROWS)
        records = {name: await connection.fetch(sql) for name, sql in FILES.items()}
        keys = [await _create_key(connection, f"operator {number}") for number in range(OPERATORS)]
    yield Lists({name: [_row(record) for record in found] for name, found in records.items()}, keys, folder)


async def _create_key(connection: Connection, name: str) -> str:
    scopes = [list_permission(list_) for list_ in FILES]
    _, text = await KeyRepository().create(connection, name=name, scopes=scopes, expires_in_days=None)
    return text


def _row(record: asyncpg.Record) -> Row:
    return {column: str(cell) for column, cell in record.items()}


class Operator:
    """Downloads lists until `over`."""

    def __init__(  # noqa: PLR0913 (who, where and with what)
        self,
        name: str,
        *,
        urls: list[str],
        lists: Lists,
        key: str,
        ledger: Ledger,
        over: asyncio.Event,
        chance: random.Random,
    ) -> None:
        self._name = name
        self._urls = urls
        self._lists = lists
        self._key = key
        self._ledger = ledger
        self._over = over
        self._chance = chance

    async def live(self) -> None:
        while not self._over.is_set():
            await self._download(self._chance.choice(list(FILES)), self._chance.choice(FORMATS))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._chance.uniform(*THINK_SECONDS))

    async def ask_again(self) -> None:
        """Everything that must work once all is healed."""
        for name in FILES:
            for format_ in FORMATS:
                await self._download(name, format_)

    async def _download(self, name: str, format_: str) -> None:
        """One whole list, by as many runs of the client as it takes."""
        path = self._lists.folder / f"{self._name}-{name}.{format_}"
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await self._run(path, name, format_):
                    pass
        except TimeoutError:
            self._ledger.broken.append(f"the list {name} as {format_} took more than {PATIENCE_SECONDS:.0f} seconds")
        except ClientError as error:
            self._ledger.broken.append(f"the list {name} as {format_} was refused: {error}")
        else:
            await asyncio.to_thread(self._check, path, name, format_)
            path.unlink()

    async def _run(self, path: Path, name: str, format_: str) -> bool:
        """Whether the list is complete now; what has come is kept for the next run."""
        try:
            with open_output(path, force=True, resume=format_ != XLSX) as output:
                await self._receive(output, name, format_)
        except LeftError:
            self._ledger.counts["lists left"] += 1
        except IncompleteError:
            self._ledger.counts["lists broken off"] += 1
        else:
            return True
        return False

    async def _receive(self, output: Output, name: str, format_: str) -> None:
        leaves_at = self._chance.randrange(ROWS) if self._chance.random() < LEAVING_SHARE else None

        def advance(received: int) -> None:
            if leaves_at is not None and received > leaves_at:
                raise LeftError

        path, query = f"api/v1/lists/{name}", {"format": format_}
        async with open_session() as session:
            url, credentials = URL(self._chance.choice(self._urls)), {"X-API-Key": self._key}
            api = Api(session, url, credentials, backoff=BACKOFF, say=self._note_retry)
            key = await api.find_list_key(name)
            if format_ == XLSX:
                await download_whole(api, path, query, output, advance)
                return
            layout = create_layout(format_, name, key)
            await ListDownload(api, path, query, layout, output=output, advance=advance).run()

    def _note_retry(self, _sentence: str) -> None:
        self._ledger.counts["lists asked for again"] += 1

    def _check(self, path: Path, name: str, format_: str) -> None:
        """Complete, in order, no row twice, and each cell as it is in the table."""
        if list(read_list(path, name, format_)) != self._lists.tables[name]:
            self._ledger.broken.append(f"the list {name} as {format_} differs from its table")
        self._ledger.counts["lists checked"] += 1

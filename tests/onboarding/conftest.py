"""Databases with the schemas of unlike applications, and the commands as an operator runs them."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from onboarding.checking import Findings, check
from onboarding.initializing import Options, Outcome, initialize
from service.backends.database import Connection
from tests.sql.databases import open_database
from tests.sql.sources import FORBIDDEN, OPERATORS_FORBIDDEN

SCHEMAS = Path(__file__).parent / "schemas"


class Given(NamedTuple):
    """A database that tests share, and what `init` makes of it."""

    url: str
    directory: Path
    outcome: Outcome


OpenSchema = Callable[[str], Awaitable[Given]]


class Application:
    """An application's database, and a folder for its datasets."""

    def __init__(self, url: str, connection: Connection, directory: Path, given: "Given | None" = None) -> None:
        self.url = url
        self.connection = connection
        self.directory = directory
        self._given = given

    def given(self) -> Outcome:
        """The result of `initialize` before a test has changed anything, with a copy of its files."""
        assert self._given
        shutil.copytree(self._given.directory, self.directory)
        return self._given.outcome

    async def initialize(self, **options: object) -> Outcome:
        defaults = {
            "directory": self.directory,
            "lists_directory": self.lists,
            "forbidden": FORBIDDEN,
            "list_forbidden": OPERATORS_FORBIDDEN,
        }
        return await initialize(self.connection, Options(**(defaults | options)))

    @property
    def lists(self) -> Path:
        return self.directory / "lists"

    async def check(self) -> Findings:
        return await check(self.connection, self.directory)

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()

    def live_lines(self, name: str) -> list[str]:
        """A file without its comments."""
        return [line.strip() for line in self.read(name).splitlines() if not line.strip().startswith("--")]

    def replace(self, name: str, old: str, new: str) -> None:
        text = self.read(name)
        assert old in text
        (self.directory / name).write_text(text.replace(old, new))

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir() if path.is_file()}


@pytest.fixture(scope="session")
async def open_schema(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpenSchema]:
    """Makes a schema's database at the first call."""
    made: dict[str, Given] = {}
    async with AsyncExitStack() as databases:

        async def open_once(schema: str) -> Given:
            if schema not in made:
                url = await databases.enter_async_context(open_database(server_url))
                made[schema] = await _initialize(url, schema, tmp_path_factory.mktemp(schema))
            return made[schema]

        yield open_once


async def _initialize(url: str, schema: str, directory: Path) -> Given:
    await _create(url, schema)
    connection = await asyncpg.connect(url)
    outcome = await Application(url, connection, directory).initialize()
    await connection.close()
    return Given(url, directory, outcome)


@pytest.fixture
async def application(
    request: pytest.FixtureRequest, server_url: str, open_schema: OpenSchema, tmp_path: Path
) -> AsyncIterator[Application]:
    """A test's changes are rolled back, unless it asked for a database of its own."""
    schema, is_committed = request.param
    given = None
    async with AsyncExitStack() as opened:
        if is_committed:
            url = await opened.enter_async_context(open_database(server_url))
            await _create(url, schema)
        else:
            given = await open_schema(schema)
            url = given.url
        connection = await asyncpg.connect(url)
        opened.push_async_callback(connection.close)
        if not is_committed:
            transaction = connection.transaction()
            await transaction.start()
            opened.push_async_callback(transaction.rollback)
        yield Application(url, connection, tmp_path / "datasets", given)


async def _create(url: str, schema: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute((SCHEMAS / f"{schema}.sql").read_text())
    await connection.close()


def of(schema: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("application", [(schema, False)], indirect=True, ids=[schema])


def committed(schema: str) -> pytest.MarkDecorator:
    """For tests whose further connections see the schema, too."""
    return pytest.mark.parametrize("application", [(schema, True)], indirect=True, ids=[schema])

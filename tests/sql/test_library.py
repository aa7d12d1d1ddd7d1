"""The second application's schema, with numbers for users; `datasets/` there is for `CARRYOUT_USER_ID_TYPE=bigint`."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from service.backends.database import Connection
from tests.sql.databases import open_database, open_transaction

CANARY = "canary-never-exported-"
LIBRARY = Path(__file__).parent.parent / "library"


def read(path: str) -> str:
    return (LIBRARY / path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
async def library_url(server_url: str) -> AsyncIterator[str]:
    async with open_database(server_url) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(read("schema.sql"))
        await connection.execute(read("data.sql"))
        await connection.close()
        yield url


@pytest.fixture
async def library(library_url: str) -> AsyncIterator[Connection]:
    async with open_transaction(library_url) as connection:
        yield connection


@pytest.mark.parametrize("name", ["profile", "loans", "reviews", "reading_rooms"])
async def test_library_datasets_run_for_bigint_users(library: Connection, name: str) -> None:
    sql = read(f"datasets/{name}.sql")
    statement = await library.prepare(sql)
    rows = [
        row[0]
        for member_no in (1, 2, 2**63 - 1)
        for row in await library.fetch(f"SELECT to_json(dataset)::text FROM ({sql}) AS dataset", member_no)
    ]

    assert [parameter.name for parameter in statement.get_parameters()] == ["int8"]
    assert len(rows) >= 3
    assert CANARY not in "".join(rows)


async def test_library_secrets_are_there_to_be_kept(library: Connection) -> None:
    pins = await library.fetch("SELECT pin_hash FROM library.members")

    assert [CANARY in row["pin_hash"] for row in pins] == [True, True, True]


async def test_library_profile_gives_what_an_export_needs(library: Connection) -> None:
    profile = await library.prepare(read("datasets/profile.sql"))

    types = {attribute.name: attribute.type.name for attribute in profile.get_attributes()}

    assert (types["id"], types["email"]) == ("int8", "text")

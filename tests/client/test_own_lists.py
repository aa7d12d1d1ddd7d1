"""Operators' lists of any key over connections that break anywhere, while rows come and go."""

import asyncio
import ctypes
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from yarl import URL

from client.api import Api
from client.errors import IncompleteError, RefusedError
from client.http import open_session
from client.lists import Layout, ListDownload, create_layout, download_whole
from client.outputs import open_output
from service.api.app import create_app
from service.backends.database import connect
from service.resources import open_resources
from service.settings import Settings
from tests.api.serving import serve
from tests.client.conftest import STUBBORN, Doors
from tests.conftest import Report
from tests.support.documents import read_xlsx
from tests.support.factories import Connection
from tests.support.operators import create_key
from tests.support.own_lists import FILES, KEYS, create_lists, read_list

CHANGE = """
WITH numbers AS (SELECT md5(n::text) AS code FROM generate_series($1::int, $1 + 9) n),
  gone AS (DELETE FROM public.tickets USING numbers WHERE id = code::uuid),
  sold AS (DELETE FROM public.stock USING numbers WHERE stock.code = numbers.code),
  opened AS (INSERT INTO public.tickets SELECT gen_random_uuid(), 'new' FROM generate_series(1, 10))
INSERT INTO public.stock SELECT 'a,b', gen_random_uuid()::text, 'new' FROM generate_series(1, 10)
"""
ROWS_CUT = 20_000
MEMORY_BYTES = 40 * 1024 * 1024  # less than either document of a million rows
ROWS = [b'{"id":1,"t":["a"]}', b'{"id":2,"t":"]}"}', b'{"id":3}']
DOCUMENTS = {
    "json": b'{"exported_at":"x",\n"filter":{"a":"b"},\n"orders":[' + b",\n".join(ROWS) + b"]}\n",
    "ndjson": b"".join(b'{"section":"orders","row":%b}\n' % row for row in ROWS) + b'{"section":"end","records":3}\n',
}


def _layout(format_: str) -> Layout:
    return create_layout(format_, "orders", ["id"])


class TestLayouts:
    @pytest.mark.parametrize("format_", DOCUMENTS)
    def test_any_two_cuts(self, format_: str) -> None:
        text = DOCUMENTS[format_]
        for first in range(len(text)):
            for second in range(first, len(text), 7):
                layout = _layout(format_)
                layout.begin()
                pieces = (text[:first], text[first:second], text[second:])
                assert b"".join(map(layout.take, pieces)) + layout.end() == text
                assert layout.rows == 3

    @pytest.mark.parametrize("format_", DOCUMENTS)
    def test_a_document_without_its_end_is_not_whole(self, format_: str) -> None:
        text = DOCUMENTS[format_]
        for end in range(len(text)):
            layout = _layout(format_)
            taken = layout.take(text[:end])
            assert text.startswith(taken)
            with pytest.raises(IncompleteError):
                layout.end()

    @pytest.mark.parametrize("format_", DOCUMENTS)
    def test_what_comes_behind_the_end_is_refused(self, format_: str) -> None:
        layout = _layout(format_)
        layout.take(DOCUMENTS[format_])
        with pytest.raises(RefusedError, match="not a list"):
            layout.take(b"{}\n")

    def test_a_wrong_count_is_not_whole(self) -> None:
        layout = _layout("ndjson")
        layout.take(b'{"section":"orders","row":{"id":1}}\n{"section":"end","records":2}\n')
        with pytest.raises(IncompleteError, match="1 row, but counted 2"):
            layout.end()


@asynccontextmanager
async def open_lists(
    settings: Settings, database_url: str, doors: Doors, folder: Path, rows: int
) -> AsyncIterator[tuple[Api, Connection]]:
    """The client's API through a door, of a service with both lists; and a connection that may change their rows."""
    async with connect(database_url) as connection:
        await create_lists(connection, folder, rows=rows)
        key = await create_key(connection, "lists:tickets", "lists:stock", name=f"of {folder}")
        async with (
            open_resources(msgspec.structs.replace(settings, lists_dir=str(folder))) as resources,
            serve(create_app(resources)) as served,
            open_session() as session,
        ):
            doors.api.target = served.port
            credentials = {"X-API-Key": key, "Connection": "close"}  # the next request takes the next cut
            yield Api(session, URL(doors.api.url), credentials, backoff=STUBBORN, say=lambda _: None), connection


@asynccontextmanager
async def changing(connection: Connection, begin: int, end: int) -> AsyncIterator[None]:
    """Meanwhile, the rows with numbers from `begin` to `end` are deleted one after the other, and others inserted."""
    is_over = asyncio.Event()

    async def change() -> None:
        for number in range(begin, end, 10):
            if is_over.is_set():
                return
            await connection.execute(CHANGE, number)

    task = asyncio.create_task(change())
    try:
        yield
    finally:
        is_over.set()
        await task


class Disturbed(NamedTuple):
    """`grown_bytes` is how much this process grew, the service and the client in one."""

    resumptions: int
    grown_bytes: int


def _forget_peak() -> None:
    """And give back what earlier tests have used, so that it can't be used again unseen."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5)


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def read_notes(path: Path, name: str, format_: str) -> tuple[Counter[tuple[str, ...]], Counter[str]]:
    """How often each key is in the document, and each note's first word."""
    keys, notes = Counter[tuple[str, ...]](), Counter[str]()
    for row in read_list(path, name, format_):
        keys[tuple(row[column] for column in KEYS[name])] += 1
        notes[row["note"].split()[0]] += 1
    return keys, notes


async def check_cut_download(  # noqa: PLR0913 (a list, and how it is disturbed)
    api: Api, connection: Connection, doors: Doors, path: Path, *, name: str, format_: str, rows: int, cuts: list[int]
) -> Disturbed:
    """Download the list over cut connections while a tenth of the rows is deleted, and others are inserted."""
    doors.api.reset()
    doors.api.cuts = cuts
    key = await api.find_list_key(name)
    assert key == KEYS[name]
    _forget_peak()
    before = _peak_bytes()
    async with changing(connection, rows - rows // 10 + 1, rows):
        with open_output(path, force=False, resume=False) as output:
            layout = create_layout(format_, name, key)
            query = {"format": format_}
            count = await ListDownload(
                api, f"api/v1/lists/{name}", query, layout, output=output, advance=lambda _rows: None
            ).run()
    grown_bytes = _peak_bytes() - before
    keys, notes = read_notes(path, name, format_)
    assert sum(keys.values()) == len(keys) == count
    assert rows - rows // 10 <= notes["kept"] <= rows
    kept = await connection.fetch(
        f"SELECT {', '.join(f'{column}::text' for column in KEYS[name])} FROM public.{name} WHERE note LIKE 'kept%'"
    )
    assert {tuple(row) for row in kept} <= keys.keys()
    return Disturbed(doors.api.asked.count(b"after="), grown_bytes)


@pytest.mark.parametrize("format_", ["csv", "json", "ndjson"])
async def test_cut_anywhere_it_ends_complete(
    settings: Settings, database_url: str, doors: Doors, tmp_path: Path, format_: str
) -> None:
    at_random = random.Random(7)  # noqa: S311 (the same cuts each time)
    async with open_lists(settings, database_url, doors, tmp_path / "lists", rows=ROWS_CUT) as (api, connection):
        try:
            for name in FILES:
                cuts = [at_random.randrange(10_000, 150_000) for _ in range(10)]
                path = tmp_path / f"{name}.{format_}"
                disturbed = await check_cut_download(
                    api, connection, doors, path, name=name, format_=format_, rows=ROWS_CUT, cuts=cuts
                )
                assert disturbed.resumptions >= 2
        finally:
            await connection.execute("DROP TABLE public.tickets, public.stock")


async def test_xlsx_begins_anew(settings: Settings, database_url: str, doors: Doors, tmp_path: Path) -> None:
    async with open_lists(settings, database_url, doors, tmp_path / "lists", rows=1_000) as (api, connection):
        try:
            doors.api.cuts = [5_000, 15_000]
            path = tmp_path / "stock.xlsx"
            with open_output(path, force=False, resume=False) as output:
                await download_whole(api, "api/v1/lists/stock", {"format": "xlsx"}, output, lambda _bytes: None)
            assert len(read_xlsx(path.read_bytes())["stock"]) == 1_001
            assert doors.api.asked.count(b"format=xlsx") == 3
        finally:
            await connection.execute("DROP TABLE public.tickets, public.stock")


@pytest.mark.large
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize(("name", "format_"), [("tickets", "csv"), ("stock", "ndjson")])
async def test_a_million_rows_cut_at_fifty_places(  # noqa: PLR0913 (fixtures)
    settings: Settings, database_url: str, doors: Doors, tmp_path: Path, report: Report, *, name: str, format_: str
) -> None:
    at_random = random.Random(7)  # noqa: S311 (the same cuts each time)
    cuts = [at_random.randrange(1, 1_000_000) for _ in range(50)]
    async with open_lists(settings, database_url, doors, tmp_path / "lists", rows=1_000_000) as (api, connection):
        try:
            path = tmp_path / f"{name}.{format_}"
            disturbed = await check_cut_download(
                api, connection, doors, path, name=name, format_=format_, rows=1_000_000, cuts=cuts
            )
            assert disturbed.resumptions > 30
            assert disturbed.grown_bytes < MEMORY_BYTES
            report(
                f"{name} as {format_}, {path.stat().st_size / 1e6:.0f} MB:"
                f" {disturbed.resumptions} resumptions, {disturbed.grown_bytes / 1e6:+.1f} MB of memory"
            )
        finally:
            await connection.execute("DROP TABLE public.tickets, public.stock")

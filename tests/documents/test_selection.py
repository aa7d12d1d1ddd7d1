"""Ranges of time around a dataset's query: for each type of time, with every value, by an index."""

import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from service.backends import database as servers
from service.documents.chunks import short_lines
from service.documents.datasets import Dataset
from service.documents.encoders import create_encoder
from service.documents.selection import select_datasets
from service.documents.streaming import open_document
from service.errors import DocumentError
from service.export_spec import ExportSpec
from service.formats import Format
from tests.sql.sources import PROFILE, load, open_source, refusal
from tests.support.factories import Connection, create_user

NEW_YEAR = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TIMES = ["-infinity", "2025-12-31", "2026-01-01", "2026-01-02", "infinity", None]
TIMED = "-- time: at\nSELECT n, at FROM public.timed WHERE user_id = $1 ORDER BY n\n"
ROWS = 20_000


@pytest.fixture(scope="module")
async def source(server_url: str) -> AsyncIterator[servers.Connection]:
    async with open_source(server_url) as connection:
        yield connection


async def read_section(pool: servers.Pool, datasets: tuple[Dataset, ...], spec: ExportSpec) -> list[int]:
    async with open_document(pool, datasets, spec, max_records=1_000, acquire_timeout_seconds=10) as document:
        chunks = [chunk async for chunk in document.chunks(create_encoder(spec.format))]
        assert document.records_done == document.records_total
    return [row["n"] for row in json.loads(b"".join(chunks))["timed"]]


@pytest.mark.parametrize("type_", ["timestamptz", "timestamp", "date"])
async def test_every_type_of_time(database: Connection, pool: servers.Pool, tmp_path: Path, type_: str) -> None:
    user_id = await create_user(database)
    await database.execute(f"CREATE TABLE public.timed (n int PRIMARY KEY, user_id uuid NOT NULL, at {type_})")
    await database.execute("SET timezone = 'UTC'")
    insert = (
        f"INSERT INTO public.timed SELECT n, $1, time::{type_} FROM unnest($2::text[]) WITH ORDINALITY AS t (time, n)"
    )
    await database.execute(insert, user_id, TIMES)
    files = {"profile.sql": "SELECT id, email FROM public.users WHERE id = $1", "timed.sql": TIMED}
    datasets = await load(database, tmp_path, {**files})
    spec = ExportSpec(user_id, Format.JSON, start=NEW_YEAR)

    assert await read_section(pool, datasets, spec) == [3, 4, 5, 6]
    assert await read_section(pool, datasets, ExportSpec(user_id, Format.JSON, end=NEW_YEAR)) == [1, 2, 6]
    next_day = msgspec.structs.replace(spec, end=NEW_YEAR + dt.timedelta(days=1))
    assert await read_section(pool, datasets, next_day) == [3, 6]


async def test_reads_its_rows_alone_by_the_index(database: Connection, datasets: tuple[Dataset, ...]) -> None:
    """Neither everybody's rows in that time, nor all rows of the user."""
    users: list[UUID] = [await create_user(database, activity=ROWS) for _ in range(2)]
    await database.execute("VACUUM ANALYZE public.activity")
    spec = ExportSpec(users[0], Format.CSV, start=NEW_YEAR, end=NEW_YEAR + dt.timedelta(seconds=ROWS // 100))
    activity = next(one for one in select_datasets(datasets, spec) if one.dataset.name == "activity")
    for query in activity.queries:
        lines = short_lines(create_encoder(Format.CSV).row_text(query.dataset))
        explained = await database.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {lines}", *query.arguments)
        (root,) = msgspec.json.decode(explained)
        assert root["Plan"]["Shared Hit Blocks"] + root["Plan"]["Shared Read Blocks"] < ROWS // 50


def test_section_that_is_gone(datasets: tuple[Dataset, ...]) -> None:
    spec = ExportSpec("ada", Format.CSV, sections=("orders",))
    with pytest.raises(DocumentError, match="Section orders isn't exported any more"):
        select_datasets(datasets, spec)


class TestFacts:
    """The lines `-- title:`, `-- about:` and `-- time:` of a dataset."""

    async def test_are_read(self, source: servers.Connection, tmp_path: Path) -> None:
        sql = (
            "-- title: Your posts\n-- about: Posts, with drafts\n-- about title: Its first line\n--time: none\n"
            "-- time: at\nSELECT id, at, title, '-- time: id\n' AS text FROM posts WHERE user_id = $1 ORDER BY id"
        )
        _, posts = await load(source, tmp_path, {"profile.sql": PROFILE, "posts.sql": sql})
        assert (posts.facts.title, posts.facts.about) == ("Your posts", "Posts, with drafts")
        assert posts.facts.columns == {"title": "Its first line"}
        assert posts.time
        assert posts.time.name == "at"

    @pytest.mark.parametrize(
        ("facts", "said"),
        [
            ("-- time: created_at", "`-- time: created_at` names none of its columns"),
            ("-- time: id", "must name a timestamptz, timestamp or date column; it is int8"),
            ("-- time: at\n-- time: at", "it has two lines `-- time:`"),
            ("-- about text: x", "`-- about text:` names none of its columns"),
            ("-- file: id", "must read as `-- file: key_column from store as name_column`"),
            ("-- file id: id from uploads", "must read as `-- file: key_column from store as name_column`"),
            ("-- file: id from uploads as", "must read as `-- file: key_column from store as name_column`"),
            ("-- file: url from uploads", "`-- file: url from uploads` needs a column url, which it lacks"),
            ("-- file: id from uploads as url", "`-- file: id from uploads` needs a column url, which it lacks"),
            ("-- file: id from a\n-- file: id from b", "it has two lines `-- file: id from …`"),
            ("-- about id: x\n-- about id: y", "it has two lines `-- about id:`"),
        ],
    )
    async def test_stop_the_start(self, source: servers.Connection, tmp_path: Path, facts: str, said: str) -> None:
        sql = f"{facts}\nSELECT id, at FROM posts WHERE user_id = $1 ORDER BY id"
        assert said in await refusal(source, tmp_path, {"profile.sql": PROFILE, "posts.sql": sql})

    async def test_profile_has_no_time(self, source: servers.Connection, tmp_path: Path) -> None:
        assert "take out its line" in await refusal(source, tmp_path, {"profile.sql": f"-- time: name\n{PROFILE}"})

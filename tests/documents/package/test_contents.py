"""Packages as other programs read them: whole, described by their manifest, and without markup of the data's own."""

import csv
import datetime as dt
import hashlib
import io
import json
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from uuid import UUID

import hypothesis
import pytest
from hypothesis import strategies as st

from service.backends.database import Pool
from service.documents.datasets import Dataset
from service.documents.package.contents import package_chunks
from service.documents.streaming import open_document
from service.errors import DocumentError, UnavailableError
from service.export_spec import ExportSpec
from service.formats import Format
from tests.documents.package.reading import read_manifest, read_page, unpack
from tests.documents.test_round_trip import TEXT
from tests.sql.sources import load
from tests.support.documents import POOL_NAME, make_package, open_package, read_chunks, read_csv
from tests.support.factories import Connection, create_user, create_user_with

PROFILE = "SELECT id, email FROM public.users WHERE id = $1"
MEGABYTE = 1024 * 1024


async def test_the_manifest_describes_every_file(
    pool: Pool, datasets: tuple[Dataset, ...], database: Connection
) -> None:
    user_id = await create_user_with(database, 3_000)
    async with open_package(pool, datasets, user_id) as document:
        files = unpack(await read_chunks(package_chunks(document)))
        assert document.records_done == document.records_total == 3_000

    resources = read_manifest(files)["resources"]

    assert {one["path"]: (one["hash"], one["bytes"]) for one in resources} == {
        name: ("sha256:" + hashlib.sha256(content).hexdigest(), len(content))
        for name, content in files.items()
        if name != "datapackage.json"
    }
    tables = [one for one in resources if one.get("type") == "table"]
    assert len(tables) == len(datasets)
    for table in tables:
        header, *rows = read_csv(files[table["path"]].decode())
        assert [field["name"] for field in table["schema"]["fields"]] == header
        assert table["rows"] == len(rows)
    *lines, end = files["data/export.ndjson"].splitlines()
    assert json.loads(end) == {"section": "end", "records": len(lines)}
    assert len(lines) == 3_000


@pytest.mark.parametrize(("rows", "sizes"), [(0, [0]), (1, [1]), (500, [500]), (501, [500, 1]), (1_000, [500, 500])])
async def test_a_page_has_500_rows(
    pool: Pool, datasets: tuple[Dataset, ...], database: Connection, rows: int, sizes: list[int]
) -> None:
    files = unpack(await make_package(pool, datasets, await create_user(database, activity=rows)))
    paths = [f"activity{'' if number == 1 else f'-{number}'}.html" for number in range(1, len(sizes) + 1)]
    assert [path for path in files if path.startswith("activity")] == paths
    read = [read_page(files[path]) for path in paths]
    assert [len(page.rows) for page in read] == sizes
    assert [row[0] for page in read for row in page.rows] == [
        row[0] for row in read_csv(files["data/activity.csv"].decode())[1:]
    ]


async def test_every_link_leads_to_a_file(pool: Pool, datasets: tuple[Dataset, ...], database: Connection) -> None:
    files = unpack(await make_package(pool, datasets, await create_user(database, activity=1_200)))
    linked = set()
    for path, content in files.items():
        if path.endswith(".html"):
            linked |= set(read_page(content).links)
    assert linked == set(files)


async def test_equal_data_makes_equal_bytes(pool: Pool, datasets: tuple[Dataset, ...], database: Connection) -> None:
    user_id = await create_user(database, activity=700)
    async with open_package(pool, datasets, user_id) as document:
        first = await read_chunks(package_chunks(document))
        second = await read_chunks(package_chunks(document))
    assert first == second


async def test_a_section_may_have_the_name_of_a_page(pool: Pool, database: Connection, tmp_path: Path) -> None:
    index = "SELECT 'of the data' AS name WHERE $1::uuid IS NOT NULL"
    datasets = await load(database, tmp_path, {"profile.sql": PROFILE, "index.sql": index})
    files = unpack(await make_package(pool, datasets, await create_user(database)))
    assert read_page(files["section-index.html"]).rows == [["of the data"]]
    assert read_page(files["index.html"]).heading == "Your data"


async def test_a_filter_is_said(pool: Pool, datasets: tuple[Dataset, ...], database: Connection) -> None:
    spec = ExportSpec(
        await create_user(database, activity=70),
        Format.ZIP,
        sections=("activity",),
        start=dt.datetime(2026, 1, 1, 0, 1, tzinfo=dt.UTC),
    )
    async with open_document(pool, datasets, spec, max_records=1_000, acquire_timeout_seconds=10) as document:
        files = unpack(await read_chunks(package_chunks(document)))
    assert "content.html" not in files
    assert len(read_page(files["activity.html"]).rows) == 11
    assert "2026-01-01" in read_page(files["index.html"]).text
    end = json.loads(files["data/export.ndjson"].splitlines()[-1])
    assert end["filter"]["from"].startswith("2026-01-01T00:01")


async def test_facts_are_told(pool: Pool, database: Connection, tmp_path: Path) -> None:
    notes = """-- title: Your <notes> & more
        -- about: All of "them"
        -- about n: A <number>
        -- purpose: To show <them>
        -- kept: As long as you want
        -- recipients: Carriers & you
        -- source: You
        -- deny secret: a <secret>
        SELECT 1 AS n WHERE $1::uuid IS NOT NULL"""
    datasets = await load(database, tmp_path, {"profile.sql": PROFILE, "notes.sql": notes})
    files = unpack(await make_package(pool, datasets, await create_user(database)))
    index, page = read_page(files["index.html"]), read_page(files["notes.html"])
    for fact in (
        "Your <notes> & more",
        'All of "them"',
        "To show <them>",
        "As long as you want",
        "Carriers & you",
        "Your <notes> & more, secret: a <secret>",
    ):
        assert fact in index.text
    assert page.heading == "Your <notes> & more"
    [field] = next(one for one in read_manifest(files)["resources"] if one["name"] == "notes")["schema"]["fields"]
    assert field == {"name": "n", "type": "integer", "description": "A <number>"}


@pytest.fixture
async def hostile_datasets(database: Connection, tmp_path: Path) -> tuple[Dataset, ...]:
    """Datasets with a table for any cells."""
    await database.execute("CREATE TABLE public.hostile (n int PRIMARY KEY, user_id uuid NOT NULL, a text, b text)")
    hostile = 'SELECT a, b AS "<i>b</i>" FROM public.hostile WHERE user_id = $1 ORDER BY n'
    return await load(database, tmp_path, {"profile.sql": PROFILE, "hostile.sql": hostile})


@pytest.fixture
async def hostile_user(database: Connection) -> UUID:
    """One for all examples."""
    return await create_user(database)


@hypothesis.given(cells=st.lists(st.lists(st.none() | TEXT, min_size=2, max_size=2), min_size=1, max_size=5))
@hypothesis.example(cells=[["</td><script>alert(1)</script>", "\x02c\x02r\x02n\x02e\x02"], ["<!-- rows -->", "&lt;"]])
@hypothesis.example(cells=[[";", ";"]])  # looks as if `;` were the delimiter
@hypothesis.settings(
    max_examples=500,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@pytest.mark.slow
async def test_cells_are_text(
    *,
    pool: Pool,
    database: Connection,
    hostile_user: UUID,
    hostile_datasets: tuple[Dataset, ...],
    cells: list[list[str | None]],
) -> None:
    await database.execute("DELETE FROM public.hostile")
    await database.execute(
        "INSERT INTO public.hostile SELECT n, $1, a, b"
        " FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS cells (a, b, n)",
        hostile_user,
        *([row[column] for row in cells] for column in range(2)),
    )
    files = unpack(await make_package(pool, hostile_datasets, hostile_user))
    assert [len(row) for row in _rows_by_dialect(files, "hostile")] == [2] * len(cells)
    page = read_page(files["hostile.html"])
    assert page.rows == cells
    assert page.columns == ["a", "<i>b</i>"]
    plain = read_page(files["profile.html"])
    assert page.elements - {"span"} == plain.elements - {"span"}  # NULL is a span


def _rows_by_dialect(files: Mapping[str, bytes], name: str) -> list[list[str]]:
    """The section's CSV, read as the manifest says and no further."""
    (table,) = (table for table in json.loads(files["datapackage.json"])["resources"] if table["name"] == name)
    told = table["dialect"]
    rows = csv.reader(
        io.StringIO(files[table["path"]].decode(table["encoding"]), newline=""),
        delimiter=told["delimiter"],
        quotechar=told["quoteChar"],
        doublequote=told["doubleQuote"],
        lineterminator=told["lineTerminator"],
    )
    return list(rows)[1:]


async def test_paths_are_safe(pool: Pool, database: Connection, tmp_path: Path) -> None:
    one = "SELECT 1 AS n WHERE $1::uuid IS NOT NULL"
    datasets = await load(database, tmp_path, {"profile.sql": PROFILE, "a_1.sql": one})
    for path in unpack(await make_package(pool, datasets, await create_user(database))):
        assert not PurePosixPath(path).is_absolute()
        assert ".." not in PurePosixPath(path).parts
        assert path.isascii()


async def test_rows_that_do_not_match_their_count_break_it_off(
    pool: Pool, database: Connection, tmp_path: Path
) -> None:
    once = (
        "SELECT 1 AS n WHERE $1::uuid IS NOT NULL AND current_setting('test.seen', true) "
        "IS DISTINCT FROM set_config('test.seen', 'yes', true)"
    )
    datasets = await load(database, tmp_path, {"profile.sql": PROFILE, "once.sql": once})
    with pytest.raises(DocumentError, match=r"^Dataset once gave 0 rows, but counted 1$"):
        await make_package(pool, datasets, await create_user(database))


async def test_a_schema_exchanged_meanwhile_breaks_it_off(pool: Pool, database: Connection, tmp_path: Path) -> None:
    user_id = await create_user(database)
    for schema in ("shop", "next"):
        await database.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.notes (id int PRIMARY KEY, by uuid)")
        await database.execute(f"INSERT INTO {schema}.notes VALUES (1, $1)", user_id)
    notes = "SELECT id FROM shop.notes WHERE by = $1 ORDER BY id"
    datasets = await load(database, tmp_path, {"profile.sql": PROFILE, "notes.sql": notes})
    async with open_package(pool, datasets, user_id) as document:
        await database.execute("ALTER SCHEMA shop RENAME TO former; ALTER SCHEMA next RENAME TO shop")
        with pytest.raises(UnavailableError, match="was being rebuilt"):
            await read_chunks(package_chunks(document))


async def test_a_database_that_ends_meanwhile_breaks_it_off(
    pool: Pool, datasets: tuple[Dataset, ...], database: Connection
) -> None:
    user_id = await create_user_with(database, 20_000)
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND xact_start IS NOT NULL"
    )

    async def make() -> None:
        async with open_package(pool, datasets, user_id) as document:
            chunks = package_chunks(document)
            await anext(chunks)
            assert await database.fetch(end, POOL_NAME)
            await read_chunks(chunks)

    with pytest.raises(UnavailableError):
        await make()


async def test_a_package_cut_anywhere_is_none(pool: Pool, datasets: tuple[Dataset, ...], database: Connection) -> None:
    content = await make_package(pool, datasets, await create_user_with(database, 3))
    for end in range(len(content)):
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(io.BytesIO(content[:end]))


@pytest.mark.slow
async def test_memory_does_not_know_the_length(pool: Pool, datasets: tuple[Dataset, ...], database: Connection) -> None:
    peaks = []
    for records in (2_000, 40_000):
        user_id = await create_user_with(database, records)
        async with open_package(pool, datasets, user_id) as document:
            tracemalloc.start()
            async for _ in package_chunks(document):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2 * MEGABYTE

"""Ranges of time that split what is too large into exports that fit."""

import asyncio
import datetime as dt
import itertools
import json
import random
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends.database import Pool
from service.documents.datasets import Dataset
from service.documents.encoders import create_encoder
from service.documents.ranges import Piece, Split, split
from service.documents.streaming import open_document
from service.errors import ExportTooLargeError
from service.export_spec import ExportSpec
from service.formats import Format
from tests.sql.sources import Folder, load
from tests.support.factories import Connection, create_user

DAY = dt.timedelta(days=1)
ROOM = 100
MAX_RECORDS = 100_000
FOUR_YEARS = """
INSERT INTO public.{table} (user_id, {column}, {name})
SELECT $1, 'x', timestamptz '2022-01-01 00:00Z' + random() * interval '4 years' FROM generate_series(1, $2::int)
"""
INSERT_ACTIVITY = FOUR_YEARS.format(table="activity", column="kind", name="occurred_at")
INSERT_CONTENT = FOUR_YEARS.format(table="content", column="title", name="created_at")
TIMED = "-- time: at\nSELECT n, at FROM public.timed WHERE user_id = $1 ORDER BY n\n"
EXTREMES = (
    *("-infinity", "0044-03-15 BC", "0001-01-01", "1969-12-31"),
    *("2026-02-28", "9999-12-31", "10000-01-01", "infinity"),
)


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def cut(days: Mapping[str, int], start: str | None = None, end: str | None = None) -> Split:
    counted = {dt.date.fromisoformat(day): rows for day, rows in days.items()}
    return split(counted, at(start) if start else None, at(end) if end else None, room=ROOM)


async def read(
    pool: Pool, datasets: tuple[Dataset, ...], user_id: UUID, one: Mapping[str, Any], *, max_records: int
) -> dict[str, Any]:
    """The document of a range, as the user asks for it: by its texts."""
    start, end = (at(one[name]) if one[name] else None for name in ("from", "to"))
    spec = ExportSpec(user_id, Format.JSON, start=start, end=end)
    async with (
        open_document(pool, datasets, spec, max_records=max_records, acquire_timeout_seconds=60) as document,
        aclosing(document.chunks(create_encoder(spec.format))) as chunks,
    ):
        read_back: dict[str, Any] = json.loads(b"".join([chunk async for chunk in chunks]))
    return read_back


async def refuse(pool: Pool, datasets: tuple[Dataset, ...], user_id: UUID, *, max_records: int) -> dict[str, Any]:
    """The fields of the refusal."""
    spec = ExportSpec(user_id, Format.JSON)
    with pytest.raises(ExportTooLargeError) as refused:
        async with open_document(
            pool, datasets, spec, max_records=max_records, acquire_timeout_seconds=60, ranges_seconds=60
        ):
            pass
    return refused.value.fields


@pytest.mark.slow
async def test_all_ranges_hold_all_rows_while_others_are_inserted(
    database: Connection, database_url: str, pool: Pool, datasets: tuple[Dataset, ...]
) -> None:
    user_id = await create_user(database)
    await database.execute(INSERT_ACTIVITY, user_id, 150_000)
    await database.execute(INSERT_CONTENT, user_id, 100_000)
    ids = {
        name: {row["id"] for row in await database.fetch(f"SELECT id FROM public.{name}")}
        for name in ("activity", "content")
    }
    writer = await asyncpg.connect(database_url)

    async def write() -> None:
        while True:
            await writer.execute(INSERT_ACTIVITY, user_id, 1)
            await asyncio.sleep(0.01)

    writing = asyncio.create_task(write())
    refused = await refuse(pool, datasets, user_id, max_records=MAX_RECORDS)
    ranges = refused["ranges"]
    random.Random(1).shuffle(ranges)  # noqa: S311 (the order in which a user asks)
    found = [await read(pool, datasets, user_id, one, max_records=MAX_RECORDS) for one in ranges]
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await writer.close()

    assert "too_large" not in refused
    for name, expected in ids.items():
        rows = [row["id"] for document in found for row in document[name]]
        assert len(set(rows)) == len(rows)
        assert expected <= set(rows)


@pytest.mark.parametrize("type_", ["timestamptz", "timestamp", "date"])
async def test_every_time_is_in_a_range(database: Connection, pool: Pool, tmp_path: Path, type_: str) -> None:
    user_id = await create_user(database)
    await database.execute(f"CREATE TABLE public.timed (n int PRIMARY KEY, user_id uuid NOT NULL, at {type_})")
    await database.execute("SET timezone = 'UTC'")
    given = "unnest($2::text[]) WITH ORDINALITY AS given (time, n)"
    times = [*EXTREMES, None]
    await database.execute(f"INSERT INTO public.timed SELECT n, $1, time::{type_} FROM {given}", user_id, times)
    files: Folder = {"profile.sql": "SELECT id, email FROM public.users WHERE id = $1", "timed.sql": TIMED}
    datasets = await load(database, tmp_path, files)
    refused = await refuse(pool, datasets, user_id, max_records=6)
    found = [await read(pool, datasets, user_id, one, max_records=6) for one in refused["ranges"]]
    numbers = [row["n"] for document in found for row in document["timed"] if row["at"] is not None]
    assert sorted(numbers) == list(range(1, len(EXTREMES) + 1))
    assert all([row["n"] for row in document["timed"] if row["at"] is None] == [len(times)] for document in found)
    assert [1 + len(document["timed"]) for document in found] == [one["record_count"] for one in refused["ranges"]]


async def test_no_more_than_a_hundred(database: Connection, pool: Pool, datasets: tuple[Dataset, ...]) -> None:
    user_id = await create_user(database)
    await database.execute(
        "INSERT INTO public.activity (user_id, kind, occurred_at) "
        "SELECT $1, 'x', timestamptz '2000-01-01 00:00Z' + n * interval '1 month' FROM generate_series(0, 239) AS n",
        user_id,
    )
    refused = await refuse(pool, datasets, user_id, max_records=3)
    assert len(refused["ranges"]) == 100
    assert refused["more"] == {"from": "2016-09-01", "to": None, "record_count": 41}
    assert refused["ranges"][-1]["to"] == "2016-09-01"


def test_months_are_joined_as_far_as_they_fit() -> None:
    found = cut({"2024-01-05": 40, "2024-02-29": 40, "2024-03-01": 40, "2024-07-31": 50})
    assert found.ranges == [Piece(None, at("2024-03-01"), 80), Piece(at("2024-03-01"), None, 90)]
    assert not found.too_large


def test_month_that_does_not_fit_is_cut_into_days() -> None:
    found = cut({"2024-01-05": 60, "2024-02-01": 60, "2024-02-20": 60, "2024-03-09": 30})
    assert [(piece.start, piece.rows) for piece in found.ranges] == [
        (None, 60),
        (at("2024-02-01"), 60),
        (at("2024-02-20"), 90),
    ]


def test_day_that_does_not_fit_is_named() -> None:
    found = cut({"2024-02-03": 10, "2024-02-04": 101, "2024-02-09": 10})
    assert found.too_large == [Piece(at("2024-02-04"), at("2024-02-05"), 101)]
    assert found.ranges == [Piece(None, at("2024-02-04"), 10), Piece(at("2024-02-05"), None, 10)]


def test_bounds_of_the_request_are_kept() -> None:
    found = cut({"2024-02-03": 60, "2024-03-04": 60}, "2024-02-03T10:00:00", "2024-03-04T11:00:00")
    assert [(piece.start, piece.end) for piece in found.ranges] == [
        (at("2024-02-03T10:00:00"), at("2024-03-01")),
        (at("2024-03-01"), at("2024-03-04T11:00:00")),
    ]


def test_full_range_leaves_room_for_new_rows() -> None:
    assert [piece.rows for piece in cut({"2024-01-01": 99, "2024-02-01": 1}).ranges] == [99, 1]


@given(
    st.dictionaries(st.dates(), st.integers(1, 150), max_size=40),
    st.none() | st.datetimes(timezones=st.just(dt.UTC)),
    st.integers(1, 120),
)
def test_each_row_is_in_one_range_or_named(days: dict[dt.date, int], start: dt.datetime | None, room: int) -> None:
    inside = {day: rows for day, rows in days.items() if start is None or day > start.date()}
    found = split(inside, start, None, room=room)
    assert all(piece.rows <= room for piece in found.ranges)
    pieces = sorted([*found.ranges, *found.too_large], key=lambda piece: (piece.start is not None, piece.start))
    for earlier, later in itertools.pairwise(pieces):
        assert earlier.end is not None
        assert later.start is not None
        assert earlier.end <= later.start
    for piece in pieces:
        within = [
            rows
            for day, rows in inside.items()
            if (piece.start is None or at(str(day)) >= piece.start) and (piece.end is None or at(str(day)) < piece.end)
        ]
        assert sum(within) == piece.rows
    assert sum(piece.rows for piece in pieces) == sum(inside.values())

"""Ranges of time that split data over the cap into exports that fit.

Each section is read once, in the snapshot that was found too large. Rows are counted by day, in UTC. Rows without a
time, and sections without a time column, are in every range.
"""

import datetime as dt
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog

from guard.text import quote_identifier
from service.backends.database import Connection
from service.documents.datasets import Dataset
from service.documents.selection import Selected, instant_text
from service.documents.snapshots import naming_failures
from service.errors import UnavailableError
from service.export_spec import ExportSpec

MAX_RANGES = 100
# Rows that are inserted before the user asks for a range must not make it too large at once.
HEADROOM = 0.02
ONE_DAY = dt.timedelta(days=1)
SET_TIMEOUT = "SELECT pg_catalog.set_config('statement_timeout', $1, true)"

logger = structlog.get_logger()


class Piece(NamedTuple):
    """`rows` in [`start`, `end`); without a bound, from the beginning or to the end."""

    start: dt.datetime | None
    end: dt.datetime | None
    rows: int


class Split(NamedTuple):
    """Adjoining ranges that fit, and the days that don't."""

    ranges: list[Piece]
    too_large: list[Piece]


class _Tally(NamedTuple):
    """Rows by day, and the number of those that are in every range."""

    days: Counter[dt.date]
    common: int


async def suggest_ranges(
    connection: Connection, selected: Sequence[Selected], spec: ExportSpec, *, max_records: int, seconds: float
) -> dict[str, object]:
    """The members of a refusal: `ranges`, empty if time runs out or none can fit, and `too_large` and `more`."""
    try:
        with naming_failures():
            async with connection.transaction():  # a savepoint: its end restores the timeout
                tally = await _count_days(connection, selected, deadline=time.monotonic() + seconds)
    except UnavailableError as error:
        await logger.ainfo("ranges_not_found", seconds=seconds, exc_info=error)
        return {"ranges": []}
    room = max_records - tally.common
    if room < 1:
        return {"ranges": []}
    return _members(split(tally.days, spec.start, spec.end, room=room), tally.common)


def split(days: Mapping[dt.date, int], start: dt.datetime | None, end: dt.datetime | None, *, room: int) -> Split:
    """Months are joined as far as they fit; one that doesn't fit is cut into days."""
    found = Split([], [])
    limit = room - int(room * HEADROOM)
    begun, rows = start, 0
    for piece in _pieces(days, start, room):
        if rows and rows + piece.rows > limit:
            found.ranges.append(Piece(begun, piece.start, rows))
            begun, rows = piece.start, 0
        if piece.rows > room:
            found.too_large.append(piece)
            begun = piece.end
        else:
            rows += piece.rows
    if rows:
        found.ranges.append(Piece(begun, end, rows))
    return found


def _pieces(days: Mapping[dt.date, int], start: dt.datetime | None, room: int) -> Iterator[Piece]:
    """The months, or their days, that have rows, with the bounds that each would have as a range."""
    for _, month in itertools.groupby(sorted(days.items()), key=lambda item: (item[0].year, item[0].month)):
        counts = list(month)
        total = sum(count for _, count in counts)
        if total <= room:
            counts = [(counts[0][0].replace(day=1), total)]
        for day, count in counts:
            first = _midnight(day)
            yield Piece(first if start is None or first > start else start, _next_midnight(day), count)


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time.min, dt.UTC)


def _next_midnight(day: dt.date) -> dt.datetime | None:
    return None if day == dt.date.max else _midnight(day + ONE_DAY)


def _members(found: Split, common: int) -> dict[str, object]:
    ranges = found.ranges[:MAX_RANGES]
    rest = found.ranges[MAX_RANGES:]
    members: dict[str, object] = {"ranges": [_member(piece, common) for piece in ranges]}
    if rest:
        more = Piece(rest[0].start, rest[-1].end, sum(piece.rows for piece in rest))
        members["more"] = _member(more, common)
    if found.too_large:
        members["too_large"] = [_member(piece, common) for piece in found.too_large[:MAX_RANGES]]
    return members


def _member(piece: Piece, common: int) -> dict[str, object]:
    return {
        "from": instant_text(piece.start),
        "to": instant_text(piece.end),
        "record_count": piece.rows + common,
    }


async def _count_days(connection: Connection, selected: Sequence[Selected], *, deadline: float) -> _Tally:
    tally = _Tally(Counter(), 1)
    for section in selected[1:]:
        for query in section.queries:
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            await connection.execute(SET_TIMEOUT, str(left_ms))
            for day, count in await connection.fetch(_days_query(query.dataset), *query.arguments):
                if day is None:
                    tally = tally._replace(common=tally.common + count)
                else:
                    tally.days[day] += count
    return tally


def _days_query(dataset: Dataset) -> str:
    """Rows by day, in UTC; the day is NULL for rows without a time. Times beyond its dates are in the outermost."""
    rows = f'FROM ({dataset.sql}) AS "row"'
    if dataset.time is None:
        return f"SELECT NULL::pg_catalog.date, pg_catalog.count(*) {rows}"
    value = f'"row".{quote_identifier(dataset.time.name)}'
    if dataset.time.type_name != "date":  # date_bin takes half the time of date_trunc
        value = f"pg_catalog.date_bin('1 day', {value}, '1970-01-01')"
    counted = f"SELECT {value} AS bin, pg_catalog.count(*) AS rows {rows} GROUP BY 1"
    day = "GREATEST(LEAST(bin::pg_catalog.date, '9999-12-31'), '0001-01-01')"
    return f"SELECT CASE WHEN bin IS NOT NULL THEN {day} END, rows FROM ({counted}) AS counted"  # noqa: S608 (likewise)

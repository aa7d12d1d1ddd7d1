"""One statement about a user's data: how much it is, and all of it if it is little.

So a small document costs one round trip, and a large one is counted before the first of its rows is rendered. Sections
are counted one after the other, each up to what is left of the cap.
"""
# ruff: noqa: S608 (the datasets were checked at start-up, and the columns are rendered from them)

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import asyncpg

from service.backends.database import QUERIES
from service.documents.chunks import FIRST_FETCHED, TOO_LONG, short_lines
from service.documents.encoding import RowText
from service.documents.selection import Query, Selected
from service.documents.snapshots import Snapshot, naming_failures, refusing_foreign_characters
from service.documents.subjects import MOST_ROWS, QUERY_TIMEOUT_SECONDS, find_profiles, has_id
from service.errors import NO_SUCH_USER, SubjectNotFoundError
from service.export_spec import ExportSpec

# A document that is read at once has so many records, each shorter than a slice, and so many bytes. A stream's are
# fewer: its client waits for all of them.
FEW_RECORDS = 1_000
FEW_STREAMED = FIRST_FETCHED
FEW_BYTES = 256 * 1024


class Survey(NamedTuple):
    """`selected` are the sections, with those of their queries that give rows; `counts` and `lines` are theirs.

    A section's lines are None if a cursor is to read them: unless they were wanted, and are few or the profile's.
    `exported_at` is the snapshot's time.
    """

    exported_at: str
    selected: list[Selected]
    counts: list[int]
    lines: list[list[bytes] | None]

    @property
    def is_whole(self) -> bool:
        """Whether it has all lines of the document."""
        return None not in self.lines


async def take_survey(  # noqa: PLR0913 (a snapshot, what is selected in it, and bounds)
    snapshot: Snapshot,
    selected: Sequence[Selected],
    spec: ExportSpec,
    row_text: RowText | None,
    *,
    max_records: int,
    few_records: int,
) -> Survey:
    """Counts one more than `max_records` at most; no section if no row of the profile has exactly the user's id.

    `row_text` gives the lines, if they are wanted and not more than `few_records`.
    """
    profile = selected[0].dataset
    if not str(spec.user_id).isascii():  # only such an id can lack in the database's encoding
        with naming_failures(), refusing_foreign_characters(SubjectNotFoundError(NO_SUCH_USER)):
            await find_profiles(snapshot.connection, profile, spec.user_id)
    queries = [query for section in selected for query in section.queries]
    given = max((query.arguments for query in queries), key=len)
    statement = _statement(queries, row_text, given=len(given), few_records=few_records)
    with naming_failures():
        row = await snapshot.connection.fetchrow(
            statement, *given, max_records + 1, snapshot.replayed_at, timeout=QUERY_TIMEOUT_SECONDS
        )
    assert row is not None
    return _read(row, selected, spec)


def _read(row: asyncpg.Record, selected: Sequence[Selected], spec: ExportSpec) -> Survey:
    ids, exported_at, totals, _, *lines = row
    if not any(has_id(text, spec.user_id) for text in ids):
        return Survey(exported_at, [], [0], [None])
    numbers = iter([len(ids), *(after - before for before, after in pairwise(totals))])
    query_lines = iter(lines)
    survey = Survey(exported_at, [], [], [])
    for section in selected:
        counts = [next(numbers) for _ in section.queries]
        present = tuple(query for query, count in zip(section.queries, counts, strict=True) if count)
        survey.selected.append(Selected(section.dataset, present))
        survey.counts.append(sum(counts))
        survey.lines.append(_join([next(query_lines, None) for _ in section.queries]))
    return survey


def _join(queries: Sequence[list[bytes] | None]) -> list[bytes] | None:
    if any(lines is None or TOO_LONG in lines for lines in queries):
        return None
    return [line for lines in queries if lines for line in lines]


def _statement(queries: Sequence[Query], row_text: RowText | None, *, given: int, few_records: int) -> str:
    """The ids of the profile's rows, the snapshot's time, the records up to each query, and the lines of each query.

    Each step is a CTE whose name no dataset has. A step that isn't read isn't executed, so many lines aren't rendered.
    The totals end at the cap, the parameter after those of the queries; without a user, they begin there.

    PostgreSQL may keep a plan of this statement, which takes longer to plan than to execute for few records. Those that
    follow it in its transaction are planned for their arguments.
    """
    cap = f"${given + 1}::pg_catalog.int8"
    moment = QUERIES["find_snapshot_time"].replace("$1", f"${given + 2}")
    profile, *others = [query.dataset.sql for query in queries]
    ids = f'SELECT "row".id::pg_catalog.text FROM ({profile}) AS "row" LIMIT {MOST_ROWS}'
    first = f"CASE WHEN pg_catalog.cardinality(ids) OPERATOR(pg_catalog.=) 1 THEN 1::pg_catalog.int8 ELSE {cap} END"
    steps = {"ids": f"SELECT ARRAY({ids}) AS ids", "total 0": f"SELECT {first} AS total FROM {_step('ids')}"}
    for number, sql in enumerate(others, start=1):
        before = f"(SELECT total FROM {_step(f'total {number - 1}')})"
        rows = f'SELECT FROM ({sql}) AS "row" LIMIT (SELECT {cap} OPERATOR(pg_catalog.-) {before})'
        counted = f"{before} OPERATOR(pg_catalog.+) pg_catalog.count(*)"
        steps[f"total {number}"] = f"SELECT {counted} AS total FROM ({rows}) AS bounded"
    numbers = range(len(queries))
    totals = ", ".join(f"(SELECT total FROM {_step(f'total {number}')})" for number in numbers)
    columns, tables = f"ids, ({moment}), ARRAY[{totals}], ({QUERIES['plan_for_arguments']})", _step("ids")
    if row_text:
        steps |= _line_steps(queries, row_text, few_records)
        profile_lines = f"ARRAY(SELECT line FROM {_step('lines 0')} LIMIT {MOST_ROWS})"
        lines = ", ".join(
            f"CASE WHEN few THEN ARRAY(SELECT line FROM {_step(f'lines {number}')}) END AS lines_{number}"
            for number in numbers[1:]
        )
        columns, tables = ", ".join(filter(None, [columns, profile_lines, lines])), f"{tables}, {_step('few')}"
    with_steps = ", ".join(f"{_step(name)} AS MATERIALIZED ({step})" for name, step in steps.items())
    return f"WITH {with_steps} SELECT {columns} FROM {tables}"


def _line_steps(queries: Sequence[Query], row_text: RowText, few_records: int) -> dict[str, str]:
    """The lines of each query, and whether they are few."""
    steps = {
        f"lines {number}": f"SELECT line FROM ({short_lines(row_text(query.dataset))}) AS short (line)"
        for number, query in enumerate(queries)
    }
    all_lines = " UNION ALL ".join(f"SELECT line FROM {_step(name)}" for name in steps)
    size = "pg_catalog.octet_length(line)"
    short = f"pg_catalog.bool_and({size} OPERATOR(pg_catalog.>) 0)"
    little = f"pg_catalog.sum({size}) OPERATOR(pg_catalog.<=) {FEW_BYTES}"
    few = f"(SELECT total FROM {_step(f'total {len(queries) - 1}')}) OPERATOR(pg_catalog.<=) {few_records}"
    steps["few"] = f"SELECT CASE WHEN {few} THEN (SELECT {short} AND {little} FROM ({all_lines}) AS lines) END AS few"
    return steps


def _step(name: str) -> str:
    return f'"carryout {name}"'

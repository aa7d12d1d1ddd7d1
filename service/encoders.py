"""CSV and JSON: rows become text inside PostgreSQL, and only whole lines travel and are joined here.

PostgreSQL's own output functions are exact for every type (infinities, BC, intervals, inet, arrays …) and run in C.
A session that evaluates these expressions needs the settings of the query `use_portable_formats`.
"""

import re
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from service.datasets import Column, Dataset, csv_names

Format: TypeAlias = Literal["csv", "json"]
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
CRLF = b"\r\n"
BOM = b"\xef\xbb\xbf"
# pg_type.typcategory: array, boolean, date/time, geometric, network, numeric, range, timespan, bit string. None of
# them is text to a spreadsheet, and none can hold a formula.
UNGUARDED_CATEGORIES = frozenset("ABDGINRTV")
UNGUARDED_TYPES = frozenset({"uuid", "bytea", "json", "jsonb"})
# In the text of records: the last semicolon of a cell that isn't quoted, and seldom one of a cell that is.
SEMICOLON = re.compile(rb';[^;\s",()\\]*[,)]')
# In what of it is outside of quotes: a cell that has a semicolon.
CELL_WITH_SEMICOLON = re.compile(rb"(?<![^,()\\])[^,()\\;]*;[^,()\\]*")


class Encoder(Protocol):
    """Turns one document's rows into its bytes; made anew for each document, as it remembers the profile."""

    media_type: str

    def row_text(self, dataset: Dataset) -> str:
        """The SQL query that gives `dataset`'s rows as one text column, in order."""

    def begin(self, datasets: Sequence[Dataset], exported_at: str, profile: bytes) -> bytes:
        """All up to and including the profile; `datasets` begins with it, `profile` is its row of `row_text`."""

    def rows(self, position: int, rows: Sequence[bytes], *, first: bool) -> bytes:
        """Rows of the dataset at `position`; never empty, `first` if none of that dataset went before."""

    def added_bytes(self, position: int) -> int:
        """How much longer a row of the dataset at `position` gets than its text."""

    def end_dataset(self, position: int, *, empty: bool) -> bytes:
        """What closes the dataset at `position`."""

    def end(self) -> bytes:
        """What closes the document."""


class CsvEncoder:
    """RFC 4180 with NULL empty and '' quoted. Every row repeats the profile's cells; other datasets' cells are empty.

    Cells with semicolons are quoted, because spreadsheets may split lines there as well, and would run `x;=1+1`.

    Text cells that a spreadsheet would run get a leading apostrophe, and so do cells that begin with apostrophes
    before such a character: taking one apostrophe off `'…=` gives back the original, always.
    """

    media_type = MEDIA_TYPES["csv"]

    def __init__(self, *, bom: bool = False) -> None:
        self._bom = BOM if bom else b""
        self._prefixes: list[bytes] = []
        self._suffixes: list[bytes] = []

    def row_text(self, dataset: Dataset) -> str:
        cells = ", ".join(map(_csv_cell, dataset.columns))
        return f'SELECT ROW({cells})::text FROM ({dataset.sql}) AS "row"'  # noqa: S608 (checked at start-up)

    def begin(self, datasets: Sequence[Dataset], exported_at: str, profile: bytes) -> bytes:  # noqa: ARG002 (CSV has no place for it)
        widths = [len(dataset.columns) for dataset in datasets]
        cells = _with_semicolons_quoted(profile)[1:-1]
        for position in range(len(datasets)):
            self._prefixes.append(cells + b"," * (sum(widths[1:position]) + 1))
            self._suffixes.append(b"," * sum(widths[position + 1 :]) + CRLF)
        return self._bom + _csv_header(csv_names(datasets)) + _single_backslashes(cells) + self._suffixes[0]

    def begin_list(self, dataset: Dataset) -> bytes:
        """Instead of `begin`, for a document of one dataset without a profile: its position is 0."""
        self._prefixes, self._suffixes = [b""], [CRLF]
        return self._bom + _csv_header([column.name for column in dataset.columns])

    def rows(self, position: int, rows: Sequence[bytes], *, first: bool) -> bytes:  # noqa: ARG002 (rows end, not begin, with their separator)
        """A record's text is a CSV line in parentheses with each backslash doubled, and in a quoted cell then.

        (PostgreSQL's manual, "Composite Type Input and Output Syntax".) So a single backslash between two parentheses
        can only be one that was put there.
        """
        prefix, suffix = self._prefixes[position], self._suffixes[position]
        lines = _with_semicolons_quoted(b"\\".join(rows))[1:-1].replace(b")\\(", suffix + prefix)
        return _single_backslashes(prefix + lines + suffix)

    def added_bytes(self, position: int) -> int:
        return len(self._prefixes[position]) + len(self._suffixes[position])

    def end_dataset(self, position: int, *, empty: bool) -> bytes:  # noqa: ARG002 (nothing to close)
        return b""

    def end(self) -> bytes:
        return b""


class JsonEncoder:
    """`{"exported_at":…,"user":{…},"activity":[…],…}` with one row a line (RFC 8259).

    A column that is NULL and one that holds JSON's null look the same.
    """

    media_type = MEDIA_TYPES["json"]

    def __init__(self) -> None:
        self._names: list[bytes] = []

    def row_text(self, dataset: Dataset) -> str:
        members = ", ".join(f"{_json_value(column)} AS {_quoted(column.name)}" for column in dataset.columns)
        objects = f'SELECT {members} FROM ({dataset.sql}) AS "row"'  # noqa: S608 (checked at start-up)
        return f'SELECT row_to_json("object")::text FROM ({objects}) AS "object"'  # noqa: S608 (likewise)

    def begin(self, datasets: Sequence[Dataset], exported_at: str, profile: bytes) -> bytes:
        self._names = [dataset.name.encode() for dataset in datasets]
        return b'{"exported_at":' + msgspec.json.encode(exported_at) + b',\n"user":' + profile

    def rows(self, position: int, rows: Sequence[bytes], *, first: bool) -> bytes:
        opening = self._opening(position) if first else b",\n"
        return opening + b",\n".join(rows)

    def added_bytes(self, position: int) -> int:  # noqa: ARG002 (of every dataset)
        return len(b",\n")

    def end_dataset(self, position: int, *, empty: bool) -> bytes:
        return self._opening(position) + b"]" if empty else b"]"

    def end(self) -> bytes:
        return b"}\n"

    def _opening(self, position: int) -> bytes:
        return b',\n"' + self._names[position] + b'":['


def create_encoder(format_: Format, *, bom: bool = False) -> Encoder:
    return CsvEncoder(bom=bom) if format_ == "csv" else JsonEncoder()


def _single_backslashes(text: bytes) -> bytes:
    return text.replace(b"\\\\", b"\\")


def _with_semicolons_quoted(records: bytes) -> bytes:
    """The text of records, with every cell quoted that has a semicolon; PostgreSQL sees no need to."""
    if b";" not in records or not SEMICOLON.search(records):  # the former takes a tenth of the latter's time
        return records
    # PostgreSQL's text holds no NUL. With pairs of quotes out of the way, a cell is few parts, whatever is in it.
    parts = records.replace(b'""', b"\0\0").split(b'"')
    parts[::2] = [CELL_WITH_SEMICOLON.sub(rb'"\g<0>"', part) if b";" in part else part for part in parts[::2]]
    return b'"'.join(parts).replace(b"\0\0", b'""')


def _csv_header(names: Sequence[str]) -> bytes:
    return ",".join(map(_csv_quoted, names)).encode() + CRLF


def _csv_quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(c in name for c in '",;\r\n') else name


def _csv_cell(column: Column) -> str:
    if not _never_holds_a_formula(column):
        return _guarded(f'"row".{_quoted(column.name)}::text')
    cell = _unless_retyped(column)
    if column.type_name == "bool":
        return f"{cell}::text"
    if column.type_name == "json":
        return f"btrim({cell}::text, E' \\t\\r\\n')"
    return _iso_timestamp(cell) if column.type_name in {"timestamptz", "timestamp"} else cell


def _unless_retyped(column: Column) -> str:
    """The cell, in a query that PostgreSQL refuses once the column has become text, which would need the guard.

    CASE wants results of one kind (PostgreSQL's manual, "UNION, CASE, and Related Constructs"), so an integer may
    become a bigint; what is never chosen is gone from the plan, and costs nothing.
    """
    cell = f'"row".{_quoted(column.name)}'
    same = f"{cell} -> 0" if column.type_name in {"json", "jsonb"} else f"NULL::{column.cast_name}"
    return f"CASE WHEN false THEN {same} ELSE {cell} END"


def _guarded(text: str) -> str:
    # "char", the first byte, is cheap and lets nearly every cell pass without the regular expression. That knows no
    # nondeterministic collation.
    return (
        rf"""CASE WHEN {text}::"char" IN (E'\t', E'\r', '''', '+', '-', '=', '@') """
        rf"""AND {text} COLLATE "C" ~ '^''*[-+=@\t\r]' THEN '''' || {text} ELSE {text} END"""
    )


def _never_holds_a_formula(column: Column) -> bool:
    if column.cast_name is None:
        return False  # the application's own type: it may be anything
    if column.category == "N" and column.type_name.startswith("reg"):
        return False  # regoperator and the like: numbers to PostgreSQL, but they are read as names
    return column.category in UNGUARDED_CATEGORIES or column.type_name in UNGUARDED_TYPES


def _json_value(column: Column) -> str:
    value = f'"row".{_quoted(column.name)}'
    return _iso_timestamp(value) if column.type_name in {"timestamptz", "timestamp"} else value


def _iso_timestamp(value: str) -> str:
    """RFC 3339; what that can't express (BC, infinities) stays in PostgreSQL's ISO form, which it reads back."""
    return (
        f"CASE WHEN {value} < '0001-01-01' THEN replace({value}::text, '+00', 'Z') "
        f"ELSE replace(replace({value}::text, ' ', 'T'), '+00', 'Z') END"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

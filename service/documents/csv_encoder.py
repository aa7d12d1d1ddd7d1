"""CSV, for spreadsheets: which cells are guarded, and how records become lines."""

import re
from collections.abc import Callable, Sequence

from service.documents.datasets import Column, Dataset, csv_names
from service.documents.encoding import DEFAULTS, EncoderOptions, iso_timestamp, text_of, unless_retyped
from service.formats import Format

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


class CsvEncoder:
    """RFC 4180 with NULL empty and '' quoted. Every row repeats the profile's cells; other datasets' cells are empty.

    Cells with semicolons are quoted, because spreadsheets may split lines there as well, and would run `x;=1+1`.

    Text cells that a spreadsheet would run get a leading apostrophe, and so do cells that begin with apostrophes
    before such a character: taking one apostrophe off `'…=` gives back the original, always. Machines may ask for none.
    """

    media_type = Format.CSV.media_type
    in_thread = False

    def __init__(self, options: EncoderOptions = DEFAULTS) -> None:
        self._bom = BOM if options.bom else b""
        self._guard = text_of if options.unguarded else _guarded_text
        self._prefixes: list[bytes] = []
        self._suffixes: list[bytes] = []

    def row_text(self, dataset: Dataset) -> str:
        cells = ", ".join(_csv_cell(column, self._guard) for column in dataset.columns)
        return f'SELECT ROW({cells})::pg_catalog.text FROM ({dataset.sql}) AS "row"'  # noqa: S608 (checked at start-up)

    def begin(self, datasets: Sequence[Dataset], exported_at: str, profile: bytes) -> bytes:  # noqa: ARG002 (CSV has no place for it)
        widths = [len(dataset.columns) for dataset in datasets]
        cells = _with_semicolons_quoted(profile)[1:-1]
        for position in range(len(datasets)):
            self._prefixes.append(cells + b"," * (sum(widths[1:position]) + 1))
            self._suffixes.append(b"," * sum(widths[position + 1 :]) + CRLF)
        return self._bom + _csv_header(csv_names(datasets)) + _single_backslashes(cells) + self._suffixes[0]

    def begin_list(self, dataset: Dataset, exported_at: str) -> bytes:  # noqa: ARG002 (CSV has no place for it)
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


def _single_backslashes(text: bytes) -> bytes:
    return text.replace(b"\\\\", b"\\")


def _with_semicolons_quoted(records: bytes) -> bytes:
    """The text of records, with every cell quoted that has a semicolon; PostgreSQL sees no need to."""
    if b";" not in records or not SEMICOLON.search(records):  # the former takes a tenth of the latter's time
        return records
    # PostgreSQL's text holds no NUL. Without pairs of quotes, every cell splits into few parts.
    parts = records.replace(b'""', b"\0\0").split(b'"')
    parts[::2] = [CELL_WITH_SEMICOLON.sub(rb'"\g<0>"', part) if b";" in part else part for part in parts[::2]]
    return b'"'.join(parts).replace(b"\0\0", b'""')


def _csv_header(names: Sequence[str]) -> bytes:
    return ",".join(map(_csv_quoted, names)).encode() + CRLF


def _csv_quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(c in name for c in '",;\r\n') else name


def _csv_cell(column: Column, text: Callable[[Column], str]) -> str:
    if not _never_holds_a_formula(column):
        return text(column)
    cell = unless_retyped(column)
    if column.type_name == "bool":
        return f"{cell}::pg_catalog.text"
    if column.type_name == "json":
        return f"pg_catalog.btrim({cell}::pg_catalog.text, E' \\t\\r\\n')"
    return iso_timestamp(cell) if column.type_name in {"timestamptz", "timestamp"} else cell


def _guarded_text(column: Column) -> str:
    # "char", the first byte, is cheap and lets nearly every cell pass without the regular expression. That knows no
    # nondeterministic collation.
    text = text_of(column)
    first = f'({text})::pg_catalog."char" OPERATOR(pg_catalog.=)'
    return (
        rf"""CASE WHEN {first} ANY (ARRAY[E'\t', E'\r', '''', '+', '-', '=', '@']::pg_catalog."char"[]) """
        rf"""AND ({text}) COLLATE pg_catalog."C" OPERATOR(pg_catalog.~) '^''*[-+=@\t\r]' """
        rf"""THEN ''''::pg_catalog.text OPERATOR(pg_catalog.||) ({text}) ELSE {text} END"""
    )


def _never_holds_a_formula(column: Column) -> bool:
    if column.cast_name is None:
        return False  # the application's own type: it may be anything
    if column.category == "N" and column.type_name.startswith("reg"):
        return False  # regoperator and the like: numbers to PostgreSQL, but they are read as names
    return column.category in UNGUARDED_CATEGORIES or column.type_name in UNGUARDED_TYPES

"""XLSX, for people: a sheet for each section, in which text is text and no formula can run."""

import re
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, unescape

from guard.text import quote_identifier
from service.documents.datasets import Column, Dataset
from service.documents.encoding import DEFAULTS, EncoderOptions, plain_text, text_of, unless_retyped
from service.documents.workbook import CONTINUED_STYLE, HEADER_STYLE, Workbook
from service.formats import Format

MAX_CELL_UNITS = 32_767  # of UTF-16; Excel's limit
MAX_EXACT_INTEGER = 10**15 - 1  # Excel keeps 15 digits of what a person types or edits
SMALLEST_NORMAL = "2.2250738585072014e-308"  # Excel takes smaller ones for 0
MAX_CONCATENATED = 90  # PostgreSQL takes 100 arguments
CELL_BYTES = 80
# They hold nothing to be escaped, and no spaces at their ends.
UNESCAPED_TYPES = frozenset({"timestamptz", "timestamp", "date", "uuid", "inet", "cidr"})
TEXT = '<c t="inlineStr"><is><t>', "</t></is></c>"
SPACED_TEXT = '<c t="inlineStr"><is><t xml:space="preserve">', "</t></is></c>"
HEADER = f'<c s="{HEADER_STYLE}" t="inlineStr"><is><t xml:space="preserve">', "</t></is></c>"
CONTINUED = f'<c s="{CONTINUED_STYLE}" t="inlineStr"><is><t xml:space="preserve">', "</t></is></c>"
NUMBER = "<c><v>", "</v></c>"
BOOLEAN = '<c t="b"><v>', "</v></c>"
EMPTY = "<c/>"
CELL = re.compile(rb'<c/>|<c(?: t="b")?><v>.*?</c>|<c t="inlineStr"><is><t[^>]*>(?P<text>.*?)</t></is></c>', re.DOTALL)
CONTROLS = bytes({*range(1, 32)} - {*b"\t\n"})
NO_CHARACTERS = b"\xef\xbf"  # begins U+FFFE and U+FFFF, which XML forbids
# ECMA-376, ST_Xstring: `_x000D_` is a CR, so the `_` of a text that looks like that is escaped, also where only the
# escape behind it makes it look so.
ESCAPED = re.compile(
    rb"[\x01-\x08\x0b-\x1f]|\xef\xbf[\xbe\xbf]|_(?=x[0-9A-Fa-f]{4}(?:_|[\x01-\x08\x0b-\x1f]|\xef\xbf[\xbe\xbf]))"
)
NOTE = "A cell holds at most 32,767 characters. A longer text goes on in italics in the rows below it."


class XlsxEncoder:
    """A sheet for the user, one for each section, and `about`: the moment the data is of, and the part of it selected.

    A text too long for a cell goes on in the same column of further rows, in italics.
    """

    media_type = Format.XLSX.media_type
    in_thread = True

    def __init__(self, options: EncoderOptions = DEFAULTS) -> None:
        self._filter = options.filter or {}
        self._book = Workbook()
        self._datasets: Sequence[Dataset] = ()
        self._exported_at = ""
        self._records = 0
        self._continued = 0

    def row_text(self, dataset: Dataset) -> str:
        row = _concatenated([_cell(column) for column in dataset.columns])
        return f'SELECT {row} FROM ({dataset.sql}) AS "row"'  # noqa: S608 (checked at start-up)

    def begin(self, datasets: Sequence[Dataset], exported_at: str, profile: bytes) -> bytes:
        self._datasets, self._exported_at, self._records = datasets, exported_at, 1
        self._begin_sheet("user", [column.name for column in datasets[0].columns])
        self._add([profile])
        self._book.end_sheet()
        return self._book.take()

    def begin_list(self, dataset: Dataset, exported_at: str) -> bytes:
        self._datasets, self._exported_at = [dataset], exported_at
        return b""

    def rows(self, position: int, rows: Sequence[bytes], *, first: bool) -> bytes:
        if first:
            self._begin_dataset(position)
        self._records += len(rows)
        self._add(rows)
        return self._book.take()

    def added_bytes(self, position: int) -> int:
        return CELL_BYTES * len(self._datasets[position].columns)

    def end_dataset(self, position: int, *, empty: bool) -> bytes:
        if empty:
            self._begin_dataset(position)
        self._book.end_sheet()
        return self._book.take()

    def end(self) -> bytes:
        facts: dict[str, object] = {"exported_at": self._exported_at, "records": self._records, **self._filter}
        if self._continued:
            facts |= {"continued_rows": self._continued, "note": NOTE}
        self._begin_sheet("about", ["about", "value"])
        self._add([_text_cell(SPACED_TEXT, name) + _fact(value) for name, value in facts.items()])
        self._book.end_sheet()
        self._book.finish()
        return self._book.take()

    def _begin_dataset(self, position: int) -> None:
        dataset = self._datasets[position]
        self._begin_sheet(dataset.name, [column.name for column in dataset.columns])

    def _begin_sheet(self, name: str, columns: Sequence[str]) -> None:
        header = b"".join(_text_cell(HEADER, column) for column in columns)
        self._book.begin_sheet(name, _xml([header]), len(columns))

    def _add(self, rows: Sequence[bytes]) -> None:
        if max(map(len, rows)) > MAX_CELL_UNITS:
            lines = [line for row in rows for line in _lines(row)]
            self._continued += len(lines) - len(rows)
            rows = lines
        while rows:
            if not self._book.rows_left:
                self._book.next_sheet()
            taken, rows = rows[: self._book.rows_left], rows[self._book.rows_left :]
            self._book.add(_xml(taken), len(taken))


def _xml(rows: Sequence[bytes]) -> bytes:
    text = b"<row>" + b"</row>\n<row>".join(rows) + b"</row>\n"
    if b"_x" in text or NO_CHARACTERS in text or len(text.translate(None, CONTROLS)) < len(text):
        return ESCAPED.sub(lambda found: b"_x%04X_" % ord(found[0].decode()), text)
    return text


def _lines(row: bytes) -> Iterator[bytes]:
    """The row, and the rows in which its long texts go on."""
    cells = [(found[0], _parts(found["text"])) for found in CELL.finditer(row)]
    for line in range(max(len(parts) for _, parts in cells)):
        yield b"".join(_line_cell(whole, parts, line) for whole, parts in cells)


def _line_cell(whole: bytes, parts: Sequence[str], line: int) -> bytes:
    if len(parts) <= 1 and line == 0:
        return whole
    if line >= len(parts):
        return EMPTY.encode()
    return _text_cell(CONTINUED if line else SPACED_TEXT, parts[line])


def _parts(xml: bytes | None) -> list[str]:
    """Parts of a text that fit into a cell each; no character is cut."""
    if xml is None or len(xml) <= MAX_CELL_UNITS:
        return [""]
    units = unescape(xml.decode()).encode("utf-16-le")
    parts = []
    while units:
        parts.append(units[: 2 * MAX_CELL_UNITS].decode("utf-16-le", "ignore"))  # half a character is left to the next
        units = units[len(parts[-1].encode("utf-16-le")) :]
    return parts


def _text_cell(around: tuple[str, str], text: str) -> bytes:
    return f"{around[0]}{escape(text)}{around[1]}".encode()


def _fact(value: object) -> bytes:
    if value is None:
        return EMPTY.encode()
    if isinstance(value, int):
        return f"{NUMBER[0]}{value}{NUMBER[1]}".encode()
    return _text_cell(SPACED_TEXT, ", ".join(value) if isinstance(value, list | tuple) else str(value))


def _concatenated(cells: Sequence[str]) -> str:
    if len(cells) == 1:
        return cells[0]
    parts = [cells[start : start + MAX_CONCATENATED] for start in range(0, len(cells), MAX_CONCATENATED)]
    if len(parts) > 1:
        return _concatenated(list(map(_concatenated, parts)))
    return f"pg_catalog.concat({', '.join(cells)})"


def _cell(column: Column) -> str:
    if column.cast_name is None:
        return _marked(SPACED_TEXT, _escaped(text_of(column)))
    if column.type_name == "bool":
        value = unless_retyped(column)
        return _marked(BOOLEAN, f"CASE WHEN {value} THEN '1' WHEN NOT {value} THEN '0' END")
    text = plain_text(column)
    if (exact := _exact(column)) is not None:
        return f"CASE WHEN {exact} THEN {_joined(NUMBER, text)} ELSE {_marked(TEXT, text)} END"
    if column.type_name in UNESCAPED_TYPES:
        return _marked(TEXT, text)
    return _marked(SPACED_TEXT, _escaped(text))


def _exact(column: Column) -> str | None:
    """Whether a spreadsheet holds the number as it is; None if the column has no numbers."""
    value = f'"row".{quote_identifier(column.name)}'
    match column.type_name:
        case "int2" | "int4" | "int8":
            return _between(value, f"{-MAX_EXACT_INTEGER}", f"{MAX_EXACT_INTEGER}")
        case "float4" | "float8":
            number = f"{value}::pg_catalog.float8"
            size = f"pg_catalog.abs({number})"
            smallest = f"'{SMALLEST_NORMAL}'::pg_catalog.float8"
            return (
                f"({size} OPERATOR(pg_catalog.<) 'Infinity'::pg_catalog.float8 "
                f"AND ({number} OPERATOR(pg_catalog.=) 0 OR {size} OPERATOR(pg_catalog.>=) {smallest}))"
            )
        case "numeric":
            trimmed = f"pg_catalog.trim_scale({value})"
            digits = f"pg_catalog.ltrim(pg_catalog.translate({trimmed}::pg_catalog.text, '-.', ''), '0')"
            return (
                f"({_between(value, f'{-MAX_EXACT_INTEGER}', f'{MAX_EXACT_INTEGER}')} "
                f"AND pg_catalog.scale({trimmed}) OPERATOR(pg_catalog.<=) 300 "
                f"AND pg_catalog.length({digits}) OPERATOR(pg_catalog.<=) 15)"
            )
    return None


def _between(value: str, low: str, high: str) -> str:
    return f"({value} OPERATOR(pg_catalog.>=) {low} AND {value} OPERATOR(pg_catalog.<=) {high})"


def _escaped(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = f"pg_catalog.replace({text}, '{character}', '{entity}')"
    return text


def _marked(around: tuple[str, str], text: str) -> str:
    return f"COALESCE({_joined(around, text)}, '{EMPTY}')"


def _joined(around: tuple[str, str], text: str) -> str:
    joined = "OPERATOR(pg_catalog.||)"
    return f"('{around[0]}' {joined} {text} {joined} '{around[1]}')"

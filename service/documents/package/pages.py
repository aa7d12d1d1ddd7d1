"""The pages of a package: HTML that a browser opens from a folder, without a script and without a request."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jinja2
from markupsafe import escape

from languages.templates import localize
from languages.words import find_words
from service.documents.datasets import Column, Dataset
from service.documents.encoding import plain_text, text_of

ROWS_PER_PAGE = 500
INDEX = "index"
# In the text of rows, the mark \x02 and a letter stand for markup; a mark of the data's own is followed by `e`.
ROW_END = b"\x02r"
# A parser would make a line feed of a CR, and takes control characters as references alone (HTML, 13.2.3.5).
REPLACEMENTS = (
    (b"&", b"&amp;"),
    (b"<", b"&lt;"),
    (b">", b"&gt;"),
    (b"\r", b"&#13;"),
    (b"\x02c", b"</td><td>"),
    (b"\x02n", b'<span class="null"></span>'),
    (b"\x02e", b"&#2;"),
)
# Types whose texts have no control characters. A column that becomes text while the service runs ends the query.
NUMBERS = {"int2", "int4", "int8", "float4", "float8", "numeric"}
UNMARKED_TYPES = NUMBERS | {"bool", "uuid", "inet", "cidr", "date", "timestamp", "timestamptz", "json", "jsonb"}
# The only mark that stays until the row's number is known.
FILE_CELL = b"\x02f"
MARKED_CELL = "E'\\x02c'::pg_catalog.text"
MARKED_NULL = "E'\\x02n'::pg_catalog.text"
MARKED_FILE = "E'\\x02f'::pg_catalog.text"

# A cell that may lead to a row of another section: the place of the link among its dataset's, and the key.
MARKED_LINK = "(E'\\x02l%d=' OPERATOR(pg_catalog.||) %s OPERATOR(pg_catalog.||) E'\\x02m')"
LINK_CELL = b"\x02l"
LINK = re.compile(rb"\x02l(\d+)=([^\x02]*)\x02m")
ROW_LINK = b'<a href="%b#row-%d">%b</a>'

FILE_LINK = b'<a href="%b#row-%d">%b</a>'
FILES = "files"
# Those that browsers show, and that run no script.
PICTURES = frozenset({"avif", "bmp", "gif", "jpeg", "jpg", "png", "webp"})

Lead: TypeAlias = Callable[[int, bytes], bytes]
"""The HTML of a cell that may lead to another row: of the place of the link, and the cell's own HTML."""

TEMPLATES_DIR = Path(__file__).parent / "templates"


@cache
def find_templates(language: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES_DIR),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return localize(environment, find_words(language))


def row_text(dataset: Dataset) -> str:
    """The SQL query that gives `dataset`'s rows as one text column, in order."""
    between = f" OPERATOR(pg_catalog.||) {MARKED_CELL} OPERATOR(pg_catalog.||) "
    places = {link.column: place for place, link in enumerate(dataset.facts.links)}
    cells = [_cell(column, places.get(column.name)) for column in dataset.columns]
    return f'SELECT {between.join([*cells, *_file_cell(dataset)])} FROM ({dataset.sql}) AS "row"'  # noqa: S608 (checked at start-up)


def table_rows(rows: Sequence[bytes], lead: Lead) -> bytes:
    """Rows of `row_text` as rows of an HTML table."""
    return b"<tr><td>" + _linked(rows, lead).replace(ROW_END, b"</td></tr>\n<tr><td>") + b"</td></tr>\n"


def numbered_rows(rows: Sequence[bytes], lead: Lead, *, first: int, files: bytes, language: str) -> bytes:
    """The same, with the number of each as its id, `first` the first one's, so that other pages can lead to them.

    `files` is the path of the page with these rows' files.
    """
    text = _linked(rows, lead)
    lines = list(enumerate(text.split(ROW_END), start=first))
    if FILE_CELL in text:
        word = escape(find_words(language).gettext("File")).encode()
        lines = [(number, line.replace(FILE_CELL, FILE_LINK % (files, number, word))) for number, line in lines]
    return b"".join([b'<tr id="row-%d"><td>%b</td></tr>\n' % line for line in lines])


def column_text(dataset: Dataset, name: str) -> str:
    """The SQL query that gives one column's cells, as `row_text` does."""
    cells = [_cell(column) for column in dataset.columns if column.name == name]
    return f'SELECT {cells[0]} FROM ({dataset.sql}) AS "row"'  # noqa: S608 (likewise)


def cells_of(rows: Sequence[bytes]) -> list[bytes]:
    """Rows of `column_text` as HTML."""
    return _escaped(rows).split(ROW_END)


class ShownFile(NamedTuple):
    """A row's file; one without a path isn't in the package, for a reason."""

    row: int
    title: str
    path: str = ""
    size_bytes: int = 0
    reason: str = ""

    @property
    def is_picture(self) -> bool:
        return self.path.rpartition(".")[2].lower() in PICTURES


def render(language: str, template: str, **facts: object) -> bytes:
    return find_templates(language).get_template(template).render(facts).encode()


def page_path(dataset: Dataset, number: int) -> str:
    """The path of a section's page; the first has number 1."""
    stem = f"section-{dataset.name}" if dataset.name == INDEX else dataset.name
    return f"{stem}.html" if number == 1 else f"{stem}-{number}.html"


def files_path(dataset: Dataset, number: int) -> str:
    """The path of the page with the files of the rows of a section's page."""
    stem = page_path(dataset, 1).removesuffix(".html")
    return f"{stem}-{FILES}.html" if number == 1 else f"{stem}-{FILES}-{number}.html"


def page_of(row: int) -> int:
    """The number of the page that has the row; both are counted from 1."""
    return (row - 1) // ROWS_PER_PAGE + 1


def _linked(rows: Sequence[bytes], lead: Lead) -> bytes:
    text = _escaped(rows)
    return LINK.sub(lambda found: lead(int(found[1]), found[2]), text) if LINK_CELL in text else text


def _escaped(rows: Sequence[bytes]) -> bytes:
    text = ROW_END.join(rows)
    for old, new in REPLACEMENTS:
        text = text.replace(old, new)
    return text


def _file_cell(dataset: Dataset) -> list[str]:
    """A last cell, if rows have files: whether the row has one."""
    if not dataset.facts.files:
        return []
    columns = {column.name: text_of(column) for column in dataset.columns}
    has_key = " OR ".join(f"{columns[file.key]} OPERATOR(pg_catalog.<>) ''" for file in dataset.facts.files)
    return [f"CASE WHEN {has_key} THEN {MARKED_FILE} ELSE {MARKED_NULL} END"]


def _cell(column: Column, place: int | None = None) -> str:
    value = plain_text(column) if column.cast_name else text_of(column)
    if column.cast_name is None or column.type_name not in UNMARKED_TYPES:
        value = f"pg_catalog.replace({value}, E'\\x02', E'\\x02e')"
    if place is not None:
        value = MARKED_LINK % (place, value)
    return f"COALESCE({value}, {MARKED_NULL})"

"""Workbooks as openpyxl, calamine and LibreOffice read them: all lines of each sheet, in one form of their cells.

A missing cell is an empty text, and ends of lines are all the same.
"""

import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import openpyxl
from python_calamine import CalamineWorkbook

from tests.support.documents import unescape_xlsx

Cell: TypeAlias = str | float | tuple[str, bool]
Sheets: TypeAlias = Mapping[str, list[list[Cell]]]
Reader: TypeAlias = Callable[[bytes, Path], Sheets]

# The tokens: comma, quote, UTF-8, first line, columns, language; texts quoted, numbers as shown, cells as they are
# stored, no formulas, spaces kept, all sheets.
LIBREOFFICE_CSV = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,true,true,false,false,false,-1"
LIBREOFFICE_CELL = re.compile(r'(?:"((?:[^"]|"")*)"|[^",\n]*)(,|\n)')
NAMES_IN_CALAMINE = {"_xFFFE_": "\ufffe", "_xFFFF_": "\uffff"}  # it knows the escapes of control characters alone


def convert(target: str, folder: Path, *paths: Path) -> None:
    """Convert by LibreOffice, which takes seconds to start; the profile keeps users' settings and instances out."""
    profile = f"-env:UserInstallation={(folder / 'profile').as_uri()}"
    command: list[str | Path] = ["soffice", profile, "--headless", "--convert-to", target, "--outdir", folder, *paths]
    subprocess.run(command, check=True, capture_output=True)


def read_with_openpyxl(document: bytes, _: Path) -> Sheets:
    book = openpyxl.load_workbook(io.BytesIO(document))
    return {sheet.title: _lines(map(unescape_xlsx, row) for row in sheet.values) for sheet in book.worksheets}


def read_with_calamine(document: bytes, _: Path) -> Sheets:
    book = CalamineWorkbook.from_filelike(io.BytesIO(document))
    return {
        name: _lines(map(_calamine_value, row) for row in book.get_sheet_by_name(name).to_python())
        for name in book.sheet_names
    }


def read_with_libreoffice(document: bytes, folder: Path) -> Sheets:
    """Texts by the CSV that it writes, which rounds numbers; the others by its XLS, in which it loses U+FEFF."""
    path = folder / "book.xlsx"
    path.write_bytes(document)
    for target in (LIBREOFFICE_CSV, "xls"):
        convert(target, folder, path)
    book = CalamineWorkbook.from_path(path.with_suffix(".xls"))
    sheets = {}
    for name in book.sheet_names:
        texts = _parse((folder / f"book-{name}.csv").read_bytes().decode())
        rows = zip(texts, book.get_sheet_by_name(name).to_python(), strict=True)
        sheets[name] = _lines(map(_texts_or_others, *row) for row in rows)
    return sheets


OTHERS: dict[str, Reader] = {"calamine": read_with_calamine}
"""The readers beside openpyxl that there are."""
if shutil.which("soffice"):
    OTHERS["LibreOffice"] = read_with_libreoffice


def list_formulas(document: bytes, folder: Path) -> list[str]:
    """LibreOffice's, of all sheets, but for those that it makes of booleans, which it has no cells for."""
    (folder / "book.xlsx").write_bytes(document)
    convert("fods", folder, folder / "book.xlsx")
    found = re.findall(r'table:formula="([^"]*)"', (folder / "book.fods").read_text(encoding="utf-8"))
    return [formula for formula in found if formula not in {"of:=TRUE()", "of:=FALSE()"}]


def _lines(rows: Iterable[Iterable[Any]]) -> list[list[Cell]]:
    """Without the empty cells at their ends, which LibreOffice leaves out."""
    return [_cut(list(map(_cell, row))) for row in rows]


def _cut(line: list[Cell]) -> list[Cell]:
    while line and line[-1] == "":
        del line[-1]
    return line


def _cell(value: object) -> Cell:
    match value:
        case bool():
            return ("boolean", value)
        case int() | float():
            return float(value)
        case _:
            return re.sub(r"\r\n?", "\n", str(value or ""))


def _calamine_value(value: object) -> object:
    if isinstance(value, str):
        for escape, character in NAMES_IN_CALAMINE.items():
            value = value.replace(escape, character)
    return value


def _texts_or_others(text: str | None, other: object) -> object:
    return other if text is None else text


def _parse(text: str) -> Iterator[list[str | None]]:
    """Rows of LibreOffice's CSV; None for what isn't a text."""
    line: list[str | None] = []
    end = 0
    while end < len(text):
        cell = LIBREOFFICE_CELL.match(text, end)
        assert cell is not None, f"No cell of LibreOffice's: {text[end : end + 80]!r}"
        quoted, separator = cell.groups()
        line.append(quoted and quoted.replace('""', '"'))
        if separator == "\n":
            yield line
            line = []
        end = cell.end()

"""An XLSX file, written once from its first byte to its last: sheets, and the parts that name them (ECMA-376).

No entry needs Zip64, which Excel wants to repair: a sheet goes on in a further sheet before it is that large.
"""

import itertools
import zipfile
from collections.abc import Iterator
from typing import IO, Final
from xml.sax.saxutils import quoteattr

from service.documents.archive_sink import Sink, deflate_fast

MAX_ROWS: Final = 1_048_576
MAX_SHEET_BYTES: Final = 1 << 30
MAX_NAME_CHARACTERS: Final = 31
DECLARATION = b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
CONTENT = "application/vnd.openxmlformats-officedocument.spreadsheetml"
HEADER_STYLE = 1
CONTINUED_STYLE = 2
STYLES = (
    f'<styleSheet xmlns="{MAIN}"><fonts count="3">'
    '<font><sz val="11"/><name val="Calibri"/></font>'
    '<font><b/><sz val="11"/><name val="Calibri"/></font>'
    '<font><i/><sz val="11"/><name val="Calibri"/></font></fonts>'
    '<fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill>'
    '</fills><borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>'
    '<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs><cellXfs count="3">'
    '<xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/>'
    '<xf numFmtId="0" fontId="1" fillId="0" borderId="0" xfId="0" applyFont="1"/>'
    '<xf numFmtId="0" fontId="2" fillId="0" borderId="0" xfId="0" applyFont="1"/></cellXfs>'
    '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>'
)
ROOT = (
    f'<Relationships xmlns="{RELATIONS}">'
    f'<Relationship Id="rId1" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
)
SHEET_HEAD = (
    f'<worksheet xmlns="{MAIN}"><sheetViews><sheetView workbookViewId="0">'
    '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/></sheetView></sheetViews>'
    '<cols><col min="1" max="{width}" width="20" customWidth="1"/></cols><sheetData>'
)


class Workbook:
    """Sheets are written one after the other; `take` gives the bytes that were made since it was called last."""

    def __init__(self, max_sheet_bytes: int = MAX_SHEET_BYTES) -> None:
        self._made = Sink()
        self._max_sheet_bytes = max_sheet_bytes
        self._entry: IO[bytes] | None = None
        self._zip = zipfile.ZipFile(self._made, "w", zipfile.ZIP_DEFLATED)
        self._sheets: list[tuple[str, str]] = []
        self._taken = {"history"}  # Excel's own
        self._name, self._header = "", b""
        self._width = self._part = self.rows_left = self._bytes_left = 0
        self._write("_rels/.rels", ROOT)
        self._write("xl/styles.xml", STYLES)

    def begin_sheet(self, name: str, header: bytes, width: int) -> None:
        """`header` is a whole row of `width` cells; it is repeated where the sheet goes on in a further one."""
        self._name, self._header, self._width, self._part = name, header, width, 0
        self._open()

    def add(self, rows: bytes, number: int) -> None:
        """Whole rows, `rows_left` at most."""
        if len(rows) > self._bytes_left:
            self.next_sheet()
        self._add(rows, number)

    def next_sheet(self) -> None:
        self.end_sheet()
        self._open()

    def end_sheet(self) -> None:
        assert self._entry is not None
        range_ = f"$A$1:${_letters(self._width)}${MAX_ROWS - self.rows_left}"
        self._sheets[-1] = (self._sheets[-1][0], range_)
        end = f'</sheetData><autoFilter ref="{range_.replace("$", "")}"/></worksheet>'
        self._entry.write(end.encode())
        self._entry.close()

    def finish(self) -> None:
        sheets, names, relations, types = [], [], [], []
        for number, (name, range_) in enumerate(self._sheets, start=1):
            sheets.append(f'<sheet name={quoteattr(name)} sheetId="{number}" r:id="rId{number}"/>')
            names.append(
                f'<definedName name="_xlnm._FilterDatabase" localSheetId="{number - 1}" hidden="1">'
                f"'{name}'!{range_}</definedName>"
            )
            relations.append(
                f'<Relationship Id="rId{number}" Type="{OFFICE}/worksheet" Target="worksheets/sheet{number}.xml"/>'
            )
            types.append(
                f'<Override PartName="/xl/worksheets/sheet{number}.xml" ContentType="{CONTENT}.worksheet+xml"/>'
            )
        self._write(
            "xl/workbook.xml",
            f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><bookViews><workbookView/></bookViews>'
            f"<sheets>{''.join(sheets)}</sheets><definedNames>{''.join(names)}</definedNames></workbook>",
        )
        self._write(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{RELATIONS}">{"".join(relations)}'
            f'<Relationship Id="rId{len(relations) + 1}" Type="{OFFICE}/styles" Target="styles.xml"/></Relationships>',
        )
        self._write(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="xml" ContentType="application/xml"/>'
            f'<Override PartName="/xl/workbook.xml" ContentType="{CONTENT}.sheet.main+xml"/>'
            f'<Override PartName="/xl/styles.xml" ContentType="{CONTENT}.styles+xml"/>{"".join(types)}</Types>',
        )
        self._zip.close()

    def take(self) -> bytes:
        return self._made.take()

    def _open(self) -> None:
        self._part += 1
        name = self._free_name(self._name, f" ({self._part})" if self._part > 1 else "")
        self._sheets.append((name, ""))
        # By its name, an entry's time is 1980 on every machine.
        self._entry = self._begin_entry(f"xl/worksheets/sheet{len(self._sheets)}.xml")
        self._entry.write(DECLARATION + SHEET_HEAD.format(width=self._width).encode())
        self.rows_left, self._bytes_left = MAX_ROWS, self._max_sheet_bytes
        self._add(self._header, 1)

    def _add(self, rows: bytes, number: int) -> None:
        assert self._entry is not None
        self._entry.write(rows)
        self.rows_left -= number
        self._bytes_left -= len(rows)

    def _free_name(self, name: str, suffix: str) -> str:
        """Excel compares names without regard to case; those of datasets hold no characters that it forbids."""
        found = next(each for each in _names(name, suffix) if each.casefold() not in self._taken)
        self._taken.add(found.casefold())
        return found

    def _write(self, path: str, xml: str) -> None:
        with self._begin_entry(path) as entry:
            entry.write(DECLARATION + xml.encode())

    def _begin_entry(self, path: str) -> IO[bytes]:
        entry = self._zip.open(path, "w")
        deflate_fast(entry)
        return entry


def _names(name: str, suffix: str) -> Iterator[str]:
    for number in itertools.count(1):
        end = suffix if number == 1 else f"_{number}{suffix}"
        yield name[: MAX_NAME_CHARACTERS - len(end)] + end


def _letters(column: int) -> str:
    """The letters of the column with this number: A is 1, AA is 27."""
    letters = ""
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters

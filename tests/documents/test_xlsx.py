"""XLSX as openpyxl and calamine read it; tests/documents/test_xlsx_readers.py compares them with LibreOffice."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import hypothesis
import openpyxl
import pytest
from hypothesis import strategies as st
from python_calamine import CalamineWorkbook

from service.backends.database import Connection, Pool
from service.documents.datasets import Column, Dataset
from service.documents.encoding import DEFAULTS, EncoderOptions
from service.documents.workbook import Workbook
from service.documents.xlsx_encoder import XlsxEncoder
from service.errors import DocumentError
from tests.documents.test_encoders import USER_ID
from tests.documents.test_round_trip import TEXT
from tests.sql.sources import load
from tests.support.documents import make_document, read_xlsx

PROFILE = Dataset("profile", "", (Column("id", "int4", "N", "int4"), Column("email", "text", "S", "text")), ())
EXPORTED_AT = "2026-03-01T09:30:00Z"
LIMIT = 32_767
MAX_ROWS = 1_048_576
ESCAPE_LIKE = st.lists(
    st.sampled_from(["_", "x", "X", "005F", "_x0041_", "_x005f_", "\x01", "\r", "\x1f", "\uffff", "e", "c", "s", "S"])
).map("".join)
NUMBERS: dict[str, Any] = {
    "0": 0,
    "-1": -1,
    "999999999999999": 999_999_999_999_999,
    "-999999999999999": -999_999_999_999_999,
    "1000000000000001": "1000000000000001",
    "9007199254740993": "9007199254740993",
    "(-9223372036854775808)": "-9223372036854775808",
    "12345678901234567890": "12345678901234567890",
    "0.1": 0.1,
    "1.50": 1.5,
    "1.00000000000000000000": 1.0,
    "123456789012345.6": "123456789012345.6",
    "(1 + 1e-16383)": "1." + "0" * 16_382 + "1",
    "'NaN'::numeric": "NaN",
    "'-Infinity'::numeric": "-Infinity",
    "0.1::float8 + 0.2::float8": 0.30000000000000004,
    "1e308::float8": 1e308,
    "1.7976931348623157e308::float8": 1.7976931348623157e308,
    "5e-324::float8": "5e-324",
    "'-0'::float8": 0,
    "'NaN'::float8": "NaN",
    "'-Infinity'::float4": "-Infinity",
    "0.1::float4": 0.1,
    "true": True,
    "false": False,
    "NULL::int": None,
    "NULL::bool": None,
    "NULL::text": None,
    "''": "",
    "'12'": "12",
    "'TRUE'": "TRUE",
    "inet '10.0.0.1'": "10.0.0.1",
    "timestamptz '2026-01-31 12:00Z'": "2026-01-31T12:00:00Z",
    "date '2026-01-31'": "2026-01-31",
    """'{"a": "<&>"}'::jsonb""": '{"a": "<&>"}',
}
HOSTILE = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")', "http://example.com", "#REF!", "{=1}"),
    *("<f>1+1</f>", "</t></is></c><c><f>1</f></c>", "]]>", "<![CDATA[x]]>", "&amp;", "&#61;", "&lt;", '"', "'"),
    *(" x ", "\n", "\r", "\r\n", "a\tb", "\x01", "\x01x0041_", "\x1b[31m", "\x7f", "\x85", "\u2028"),
    *("\U0001f680", "\u202eabc", "\u05d0", "\ufeff", "\ufffe", "\uffff", "_x0041_", "_x005F_", "_x005F\x02", "_X0041_"),
]


def encode(rows: list[bytes], options: EncoderOptions = DEFAULTS, *, portion: int = 1_000) -> bytes:
    encoder = XlsxEncoder(options)
    section = Dataset("things", "", (Column("v", "text", "S", "text"),), ())
    made = encoder.begin([PROFILE, section], EXPORTED_AT, b"<c><v>1</v></c>" + row("ada@example.com"))
    for start in range(0, len(rows), portion):
        made += encoder.rows(1, rows[start : start + portion], first=start == 0)
    return made + encoder.end_dataset(1, empty=not rows) + encoder.end()


def row(text: str) -> bytes:
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'.encode()


def calamine(document: bytes) -> dict[str, list[list[Any]]]:
    book = CalamineWorkbook.from_filelike(io.BytesIO(document))
    return {name: book.get_sheet_by_name(name).to_python() for name in book.sheet_names}


async def make_values(pool: Pool, database: Connection, folder: Path, values: str) -> bytes:
    files: dict[str, str | bytes] = {
        "profile.sql": "SELECT $1::uuid AS id, 'ada@example.com' AS email",
        "value.sql": f"SELECT {values} WHERE $1::uuid IS NOT NULL",
    }
    return await make_document(pool, await load(database, folder, files), USER_ID, XlsxEncoder())


async def test_values_are_numbers_where_these_are_exact(pool: Pool, database: Connection, tmp_path: Path) -> None:
    values = ", ".join(f"{value} AS c{position}" for position, value in enumerate(NUMBERS))

    document = await make_values(pool, database, tmp_path, values)

    found = dict(zip(NUMBERS, read_xlsx(document)["value"][1], strict=True))
    assert found == NUMBERS
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in NUMBERS.items()
    }
    empty_or_same = ["" if value is None else value for value in NUMBERS.values()]
    assert calamine(document)["value"][1] == empty_or_same


async def test_an_empty_string_is_a_cell_and_null_is_none(pool: Pool, database: Connection, tmp_path: Path) -> None:
    document = await make_values(pool, database, tmp_path, "'' AS a, NULL::text AS b, 1 AS c")

    sheet = zipfile.ZipFile(io.BytesIO(document)).read("xl/worksheets/sheet2.xml")
    assert b'<t xml:space="preserve"></t></is></c><c/><c><v>1</v></c></row>' in sheet


async def test_wide_rows(pool: Pool, database: Connection, tmp_path: Path) -> None:
    values = ", ".join(f"{position} AS c{position}" for position in range(1_000))

    document = await make_values(pool, database, tmp_path, values)

    assert read_xlsx(document)["value"][1] == list(range(1_000))
    assert openpyxl.load_workbook(io.BytesIO(document))["value"].auto_filter.ref == "A1:ALL2"


async def test_hostile_texts_are_text(pool: Pool, database: Connection, tmp_path: Path) -> None:
    await database.execute("CREATE TABLE public.hostile (id int PRIMARY KEY, v text)")
    await database.executemany("INSERT INTO public.hostile VALUES ($1, $2)", list(enumerate(HOSTILE)))
    files: dict[str, str | bytes] = {
        "profile.sql": "SELECT $1::uuid AS id, 'ada@example.com' AS email",
        "value.sql": "SELECT id, v FROM public.hostile WHERE $1::uuid IS NOT NULL ORDER BY id",
    }
    document = await make_document(pool, await load(database, tmp_path, files), USER_ID, XlsxEncoder())

    assert [text for _, text in read_xlsx(document)["value"][1:]] == HOSTILE
    as_calamine_shows = {"\ufffe": "_xFFFE_", "\uffff": "_xFFFF_"}  # it knows the escapes of control characters alone
    assert [text for _, text in calamine(document)["value"][1:]] == [as_calamine_shows.get(t, t) for t in HOSTILE]
    archive = zipfile.ZipFile(io.BytesIO(document))
    for name in archive.namelist():
        assert not re.search(rb"<f\b|<hyperlink|TargetMode|<!DOCTYPE|<!ENTITY", archive.read(name)), name
    cells = [cell for _, cell in openpyxl.load_workbook(io.BytesIO(document))["value"].iter_rows(min_row=2)]
    assert {cell.data_type for cell in cells} == {"s"}
    assert {cell.hyperlink for cell in cells} == {None}


@hypothesis.given(st.lists(TEXT | ESCAPE_LIKE, min_size=1, max_size=20))
def test_every_text_is_read_back(texts: list[str]) -> None:
    document = encode(list(map(row, texts)))
    assert [text or "" for (text,) in read_xlsx(document)["things"][1:]] == texts


@pytest.mark.parametrize(
    "text",
    [
        *("x" * LIMIT, "x" * (LIMIT + 1), "\U0001f680" * LIMIT, "x" * (LIMIT - 1) + "\U0001f680" + "y" * LIMIT * 2),
        *("\x01" * (LIMIT + 1), "\r" * (LIMIT + 1), "<" * (LIMIT + 1), "\u20ac" * LIMIT, "_x0041_" * LIMIT),
    ],
)
def test_a_text_too_long_for_a_cell_goes_on_below(text: str) -> None:
    document = encode([row("before"), row(text), row("after")])

    sheets = read_xlsx(document)
    assert sheets["things"] == [["v"], ["before"], [text], ["after"]]
    lengths = [
        len(re.sub("_x[0-9A-F]{4}_", "?", value).encode("utf-16-le")) // 2
        for _, _, *rest in [calamine_texts(document)]
        for value in rest
    ]
    assert max(lengths) <= LIMIT
    more = -(-len(text.encode("utf-16-le")) // 2 // LIMIT) - 1
    assert dict(sheets["about"]).get("continued_rows", 0) in {more, more + 1} - ({1} if more == 0 else set())


def calamine_texts(document: bytes) -> list[str]:
    return [line[0] for line in calamine(document)["things"]]


@pytest.mark.slow
def test_more_rows_than_a_sheet_holds_go_on_in_a_further_one() -> None:
    rows = [b"<c><v>%d</v></c>" % number for number in range(MAX_ROWS + 1_000)]

    document = encode(rows)

    sheets = calamine(document)
    assert [*sheets] == ["user", "things", "things (2)", "about"]
    assert [len(sheets[name]) for name in ("things", "things (2)")] == [MAX_ROWS, 1_002]
    found = [line[0] for name in ("things", "things (2)") for line in sheets[name][1:]]
    assert found == list(range(len(rows)))
    assert sheets["things (2)"][0] == ["v"]
    assert ["records", len(rows) + 1] in sheets["about"]


def test_a_sheet_goes_on_before_it_needs_zip64() -> None:
    book = Workbook(max_sheet_bytes=300)
    book.begin_sheet("things", b"<row><c><v>0</v></c></row>", 1)
    for number in range(30):
        book.add(b"<row><c><v>%d</v></c></row>" % number, 1)
    book.end_sheet()
    book.finish()

    sheets = calamine(book.take())

    assert len(sheets) > 2
    assert [line[0] for lines in sheets.values() for line in lines[1:]] == list(range(30))


def test_names_of_sheets_are_short_and_unique() -> None:
    long = "a_name_that_is_longer_than_excel_allows"
    book = Workbook(max_sheet_bytes=30)
    for name in ("history", "about", f"{long}_1", f"{long}_2", "about"):
        book.begin_sheet(name, b"<row/>", 1)
        book.add(b"<row><c><v>1</v></c></row>", 1)
        book.end_sheet()
    book.finish()

    names = openpyxl.load_workbook(io.BytesIO(book.take())).sheetnames

    assert len({name.casefold() for name in names}) == len(names)
    assert all(len(name) <= 31 for name in names)
    assert names[:4] == ["history_2", "history (2)", "about", "about (2)"]


def test_the_header_is_bold_frozen_and_filterable() -> None:
    book = openpyxl.load_workbook(io.BytesIO(encode([row("a"), row("b")])))

    for sheet, end in ((book["user"], "B2"), (book["things"], "A3")):
        assert sheet.freeze_panes == "A2"
        assert sheet.auto_filter.ref == f"A1:{end}"
        assert [cell.font.b for cell in sheet[1]] == [True] * sheet.max_column
        assert not sheet["A2"].font.b


def test_about_says_when_and_what() -> None:
    filter_ = {"sections": ["things", "others"], "from": "2025-01-01", "to": None, "unfiltered": ("others",)}

    about = dict(read_xlsx(encode([], EncoderOptions(filter=filter_)))["about"])

    assert about == {
        "about": "value",
        "exported_at": EXPORTED_AT,
        "records": 1,
        "sections": "things, others",
        "from": "2025-01-01",
        "to": None,
        "unfiltered": "others",
    }


def test_equal_data_makes_equal_files() -> None:
    rows = [row(f"{number} <=1+1>\r") for number in range(5_000)]
    assert encode(rows, portion=7) == encode(rows)


def test_a_cut_file_does_not_open() -> None:
    document = encode([row("x" * 100)])
    for length in range(len(document)):
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(io.BytesIO(document[:length]))


def test_no_entry_has_zip64() -> None:
    archive = zipfile.ZipFile(io.BytesIO(encode([])))
    assert {(entry.extra, entry.date_time[0]) for entry in archive.infolist()} == {(b"", 1980)}
    assert archive.testzip() is None


@pytest.mark.parametrize("type_", ["int", "float8", "bool", "uuid", "date"])
async def test_a_column_that_became_text_is_refused(
    pool: Pool, database: Connection, tmp_path: Path, type_: str
) -> None:
    await database.execute(f"CREATE TABLE public.retyped (id int PRIMARY KEY, v {type_})")
    await database.execute("INSERT INTO public.retyped VALUES (1)")
    files: dict[str, str | bytes] = {
        "profile.sql": "SELECT $1::uuid AS id, 'ada@example.com' AS email",
        "value.sql": "SELECT id, v FROM public.retyped WHERE $1::uuid IS NOT NULL ORDER BY id",
    }
    datasets = await load(database, tmp_path, files)
    await database.execute("ALTER TABLE public.retyped ALTER v TYPE text USING '1</v><f>1+1</f>'")
    with pytest.raises(DocumentError):
        await make_document(pool, datasets, USER_ID, XlsxEncoder())

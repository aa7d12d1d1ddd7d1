"""XLSX in openpyxl, calamine and, where it is installed, LibreOffice: the same cells in each, of every type."""

import re
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from service.backends.database import Connection, Pool
from service.documents.xlsx_encoder import XlsxEncoder
from tests.documents.test_encoders import USER_ID
from tests.documents.test_xlsx import HOSTILE, LIMIT, NUMBERS
from tests.sql.sources import Folder, load
from tests.support.documents import make_document, read_xlsx
from tests.support.spreadsheets import OTHERS, list_formulas, read_with_openpyxl

OF_OTHER_TYPES = {
    "0::int2": 0,
    "2147483647": 2147483647,
    "999999999999999::int8": 999_999_999_999_999,
    "1000000000000000::int8": "1000000000000000",
    "date '0044-03-15 BC'": "0044-03-15 BC",
    "date '1899-12-31'": "1899-12-31",
    "date '1900-02-28'": "1900-02-28",
    "date '10000-01-01'": "10000-01-01",
    "date '-infinity'": "-infinity",
    "timestamptz '1815-12-10 09:30:00.5+02'": "1815-12-10T07:30:00.5Z",
    "timestamptz '2026-01-31 23:59:59.999999-11:30'": "2026-02-01T11:29:59.999999Z",
    "timestamptz '12026-01-31 12:00Z'": "12026-01-31T12:00:00Z",
    "timestamptz 'infinity'": "infinity",
    "timestamp '1752-09-14 00:00'": "1752-09-14T00:00:00",
    "time '24:00'": "24:00:00",
    "timetz '12:00-05:30'": "12:00:00-05:30",
    "interval '-1 year 2 mons -3 days 04:05:06.7'": "P-10M-3DT4H5M6.7S",
    "money '12345.60'": "$12,345.60",
    """json '{ "=a": [1, null, "\\n"] }'""": '{ "=a": [1, null, "\\n"] }',
    "jsonb 'null'": "null",
    "ARRAY[1, NULL, -3]": "{1,NULL,-3}",
    "ARRAY['=1+1', 'a,b', '']": '{=1+1,"a,b",""}',
    "'\\xdeadbeef'::bytea": "\\xdeadbeef",
    "uuid '00000000-0000-4000-8000-000000000001'": "00000000-0000-4000-8000-000000000001",
    "cidr '10.0.0.0/8'": "10.0.0.0/8",
    "macaddr '08:00:2b:01:02:03'": "08:00:2b:01:02:03",
    "int4range(1, 5)": "[1,5)",
    "B'00101'": "00101",
    "point '(1,-2)'": "(1,-2)",
    "NULL::timestamptz": None,
    "NULL::jsonb": None,
}
VALUES = NUMBERS | OF_OTHER_TYPES
TEXTS = [
    *(*HOSTILE, "", " leading", "trailing ", "  ", "a  b", "first\nsecond\r\nthird\rfourth", "\n\n", "\x0b\x1e\x1f"),
    *("_x000D_", "_x000d_", "_x005F_x000D_", "_x000D", "a_x000D__x000A_b", "\U0001f469\u200d\U0001f680", "\ud7ff"),
    *("x" * LIMIT, "x" * (LIMIT + 1), "\U0001f680" * LIMIT, "=1+1" * LIMIT, "_x0041_" * LIMIT, "\r\n" * LIMIT),
]


@pytest.fixture
async def document(pool: Pool, database: Connection, tmp_path: Path) -> bytes:
    """A section of texts, in which some rows go on, between two of a row with a value of each type."""
    await database.execute("CREATE TABLE public.texts (id int PRIMARY KEY, v text)")
    await database.executemany("INSERT INTO public.texts VALUES ($1, $2)", list(enumerate([None, *TEXTS])))
    values = ", ".join(f"{value} AS c{position}" for position, value in enumerate(VALUES))
    files: Folder = {
        "profile.sql": "SELECT $1::uuid AS id, '=1+1@example.com' AS email",
        "a.sql": f"SELECT {values} WHERE $1::uuid IS NOT NULL",
        "texts.sql": "SELECT id, v, id AS again FROM public.texts WHERE $1::uuid IS NOT NULL ORDER BY id",
        "z.sql": f"SELECT {values} WHERE $1::uuid IS NOT NULL",
    }
    return await make_document(pool, await load(database, tmp_path, files), USER_ID, XlsxEncoder())


async def test_openpyxl_reads_the_values(document: bytes) -> None:
    sheets = read_xlsx(document)
    assert [*sheets] == ["user", "a", "texts", "z", "about"]
    assert sheets["user"][1] == [str(USER_ID), "=1+1@example.com"]
    for name in ("a", "z"):
        found = dict(zip(VALUES, sheets[name][1], strict=True))
        assert found == VALUES
        assert [*map(type, found.values())] == [*map(type, VALUES.values())]
    assert sheets["texts"][1:] == [[position, text, position] for position, text in enumerate([None, *TEXTS])]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.slow
async def test_others_read_the_same_cells(document: bytes, tmp_path: Path, name: str) -> None:
    assert OTHERS[name](document, tmp_path) == read_with_openpyxl(document, tmp_path)


async def test_no_cell_is_a_formula(document: bytes, tmp_path: Path) -> None:
    archive = zipfile.ZipFile(BytesIO(document))
    assert [name for name in archive.namelist() if re.search(rb"<f[ />]", archive.read(name))] == []
    if "LibreOffice" in OTHERS:
        assert list_formulas(document, tmp_path) == []

"""Two lists of an application, with a uuid and with a composite text key, and what their documents hold."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from service.backends.database import Connection
from tests.support.documents import read_xlsx

TABLES = """
CREATE TABLE public.tickets (id uuid PRIMARY KEY, note text NOT NULL);
CREATE TABLE public.stock (shop text, code text COLLATE "C", note text NOT NULL, PRIMARY KEY (shop, code));
GRANT SELECT ON public.tickets, public.stock TO carryout_reader;
"""
FILL = """
INSERT INTO public.tickets
SELECT md5(n::text)::uuid, 'kept' || CASE WHEN n % 10 = 0 THEN E'\\r\\n"' ELSE '' END
FROM generate_series(1, $1::int) n
"""
FILL_STOCK = """
INSERT INTO public.stock
SELECT (ARRAY['=1+1', 'é', 'a,b', '"', E'x\\r\\ny'])[n % 5 + 1], md5(n::text), 'kept' FROM generate_series(1, $1::int) n
"""
FILES = {
    "tickets": "SELECT note, id FROM public.tickets ORDER BY id",
    "stock": "SELECT shop, note, code FROM public.stock ORDER BY shop, code",
}
KEYS = {"tickets": ["id"], "stock": ["shop", "code"]}

Row = dict[str, str]


async def create_lists(connection: Connection, folder: Path, *, rows: int) -> None:
    """Their files, and their tables with so many rows each."""
    folder.mkdir()
    for name, sql in FILES.items():
        (folder / f"{name}.sql").write_text(sql)
    await connection.execute(TABLES)
    await connection.execute(FILL, rows)
    await connection.execute(FILL_STOCK, rows)
    await connection.execute("ANALYZE public.tickets; ANALYZE public.stock")


def read_list(path: Path, name: str, format_: str) -> Iterator[Row]:
    """The rows of a list's document, without the CSV's guard."""
    match format_:
        case "csv":
            with path.open(encoding="utf-8", newline="") as file:
                yield from map(_unguarded, csv.DictReader(file))
        case "json":
            yield from json.loads(path.read_bytes())[name]
        case "ndjson":
            yield from _read_ndjson(path)
        case "xlsx":
            header, *rows = read_xlsx(path.read_bytes())[name]
            yield from (dict(zip(header, row, strict=True)) for row in rows)


def _unguarded(row: Row) -> Row:
    return {column: cell.removeprefix("'") if cell.startswith("'=") else cell for column, cell in row.items()}


def _read_ndjson(path: Path) -> Iterator[Row]:
    records = 0
    with path.open("rb") as lines:
        for line in map(json.loads, lines):
            if line["section"] == "end":
                assert line == {"section": "end", "records": records}, f"{line} behind {records} rows"
                assert not next(lines, None), "a line behind the end"
                return
            records += 1
            yield line["row"]
    raise AssertionError("no end")

"""Every value that PostgreSQL can hold survives: exported, loaded into an equal table, and compared there."""

import json
import random
from collections.abc import AsyncIterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import asyncpg
import hypothesis
import pytest
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from guard.text import quote_identifier
from service.backends.database import Connection, Pool, open_pool
from service.documents.csv_encoder import CsvEncoder
from service.documents.datasets import Dataset, load_datasets, load_user_lists
from service.documents.encoding import EncoderOptions
from service.documents.json_encoder import JsonEncoder
from service.documents.lists import open_list
from service.documents.schema import create_schema
from service.documents.selection import Query
from service.documents.xlsx_encoder import XlsxEncoder
from tests.sql.databases import open_database
from tests.support.documents import make_document, read_csv, read_xlsx, unguard
from tests.support.spreadsheets import OTHERS, read_with_openpyxl

Text: TypeAlias = st.SearchStrategy[str]
Row: TypeAlias = Mapping[str, str | None]
Shape: TypeAlias = list[dict[str, str]]
Value = TypeVar("Value")

pytestmark = pytest.mark.slow  # its rows of every type take seconds to make

ROWS = 2_000
VALUES = 200
SHAPES = 6
USER_ID = 1
TYPES = r"""
CREATE TYPE mood AS ENUM
  ('ok', '=sad', '-', '@home', 'very "happy"', 'it''s, fine', '''=quoted', 'back\slash', '(so)', '');
CREATE TYPE address AS (street text, house_no int, moved_in date);
CREATE DOMAIN label AS text CHECK (length(value) <= 20);
CREATE DOMAIN flag AS boolean;
"""


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def array_of(elements: Text) -> Text:
    """An array's literal, with NULLs; quotes around everything else are always allowed."""
    cells = st.lists(st.none() | elements, max_size=3)
    return cells.map(lambda found: "{" + ",".join("NULL" if cell is None else quoted(cell) for cell in found) + "}")


def either(*special: str, usual: Text) -> Text:
    return st.one_of(usual, st.sampled_from(special))


def range_of(*bounds: str) -> Text:
    """Ranges between two of `bounds`, which ascend, with every kind of end."""
    indexes = range(len(bounds))
    pairs = [(bounds[low], bounds[high]) for low in indexes for high in indexes if low < high]
    ends = st.sampled_from([*pairs, ("", bounds[0]), (bounds[-1], ""), ("", "")])
    ranges = st.builds(
        lambda left, pair, right: f"{left}{pair[0]},{pair[1]}{right}",
        st.sampled_from("[("),
        ends,
        st.sampled_from("])"),
    )
    return ranges | st.just("empty")


def json_text(*, spaced: bool) -> Text:
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
    values = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=3
    )
    texts = st.builds(lambda value, indent: json.dumps(value, indent=indent), values, st.sampled_from([None, 2]))
    return st.builds(lambda left, text, right: left + text + right, SPACE, texts, SPACE) if spaced else texts


SPACE = st.sampled_from(["", " ", "\t", "\r\n"])
HOSTILE = [
    *("=", "+", "-", "@", "\t", "\r", "\n", "'", '"', "\\", ",", ";", "(", ")", " "),
    *("=1+1", "'=1", "''=", "'quoted'", '""', "\r\n", "a\r\nb", "\\.", "\\\\", r"\N", "NULL", " =1", "a,b"),
    *("\U0001f680", "\u200d", "\u202e", "\ufeff", "\x1b", "\x7f", "\x85", "\u00a0", "\u2028", "\ud7ff", ""),
]
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
TEXT = st.lists(st.sampled_from(HOSTILE) | st.text(CHARACTERS, max_size=3), max_size=3).map("".join)
ADDRESS = st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address)
NUMBERS = (
    "0",
    "-0.000",
    "1.500",
    "NaN",
    "Infinity",
    "-Infinity",
    "1e300",
    "-1e-300",
    "123456789012345678901234567890.0",
)
FLOATS = ("NaN", "Infinity", "-Infinity", "-0", "0.1", "1e-7", "100000000000000000000")
INSTANTS = ("infinity", "-infinity", "4714-11-24 00:00:00 BC", "0001-12-31 23:59:59.999999 BC", "0001-01-01 00:00:00")
LAST_INSTANT = "294276-12-31 23:59:59.999999"
DAYS = ("infinity", "-infinity", "4714-11-24 BC", "0044-03-15 BC", "5874897-12-31", "10000-01-01")
DURATIONS = ("1 mon -1 day 00:00:00.000001", "-00:00:00.000001", "-1 year 11 mons -30 days 178000 hours", "0")
NAME = st.text(CHARACTERS, min_size=1, max_size=15).filter(lambda name: name not in {"id", "the id", "?column?"})
instants = either(*INSTANTS, LAST_INSTANT, usual=st.datetimes().map(str))
COLUMNS: dict[str, tuple[str, Text]] = {
    "a_text": ("text", TEXT),
    "a_varchar": ("varchar(100)", TEXT),
    "a_char": ("char(10)", TEXT.map(lambda text: text[:10])),
    "a_label": ("label", TEXT.map(lambda text: text[:20])),
    "a_mood": (
        "mood",
        st.sampled_from(
            ["ok", "=sad", "-", "@home", 'very "happy"', "it's, fine", "'=quoted", "back\\slash", "(so)", ""]
        ),
    ),
    "a_bool": ("boolean", st.sampled_from(["true", "false"])),
    "a_flag": ("flag", st.sampled_from(["true", "false"])),
    "an_int2": ("smallint", st.integers(-(2**15), 2**15 - 1).map(str)),
    "an_int4": ("integer", st.integers(-(2**31), 2**31 - 1).map(str)),
    "an_int8": ("bigint", st.integers(-(2**63), 2**63 - 1).map(str)),
    "a_numeric": (
        "numeric",
        either(*NUMBERS, usual=st.decimals(allow_nan=False, allow_infinity=False, places=5).map(str)),
    ),
    "a_scaled": ("numeric(12, 4)", st.decimals(-99999999, 99999999, places=4).map(str)),
    "a_float4": ("real", either(*FLOATS, usual=st.floats(width=32).map(repr))),
    "a_float8": ("double precision", either(*FLOATS, "5e-324", usual=st.floats().map(repr))),
    "a_money": ("money", st.decimals(-(10**12), 10**12, places=2).map(str)),
    "a_timestamptz": (
        "timestamptz",
        instants.map(lambda text: text.replace(" BC", "") + "+00 BC" if "BC" in text else text),
    ),
    "a_timestamp": ("timestamp", instants),
    "a_date": ("date", either(*DAYS, usual=st.dates().map(str))),
    "a_time": ("time", either("24:00:00", usual=st.times().map(str))),
    "a_timetz": ("timetz", either("24:00-15:59:59", "00:00:00.000001+15:59", "12:00-05:30", usual=st.times().map(str))),
    "an_interval": (
        "interval",
        either(
            *DURATIONS,
            usual=st.builds("{} months {} days {} microseconds".format, *[st.integers(-(2**31) + 1, 2**31 - 1)] * 3),
        ),
    ),
    "an_inet": ("inet", either("10.0.0.1/8", "2001:db8::1/64", "::ffff:1.2.3.4", usual=ADDRESS.map(str))),
    "a_cidr": ("cidr", either("10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", usual=ADDRESS.map(str))),
    "a_macaddr": ("macaddr", st.binary(min_size=6, max_size=6).map(bytes.hex)),
    "a_uuid": ("uuid", st.uuids().map(str)),
    "a_bytea": ("bytea", st.binary(max_size=20).map(lambda octets: "\\x" + octets.hex())),
    "a_json": ("json", json_text(spaced=True)),
    "a_jsonb": ("jsonb", json_text(spaced=False)),
    "texts": ("text[]", array_of(TEXT)),
    "numbers": ("integer[]", either("{{1,2},{3,NULL}}", "{}", usual=array_of(st.integers(-5, 5).map(str)))),
    "instants": (
        "timestamptz[]",
        array_of(st.sampled_from(["infinity", "0044-03-15 00:00Z BC", "2026-01-01T00:00:00.5Z"])),
    ),
    "an_int4range": ("int4range", range_of("-7", "0", "9")),
    "a_numrange": ("numrange", range_of("-Infinity", "-0.50", "1e20", "Infinity")),
    "a_tstzrange": ("tstzrange", range_of("-infinity", "0044-03-15 00:00Z BC", "2026-01-01 00:00Z", "infinity")),
    "a_multirange": (
        "int4multirange",
        st.lists(range_of("1", "3", "7"), max_size=3).map(lambda found: "{" + ",".join(found) + "}"),
    ),
    "a_bit": ("bit(5)", st.text("01", min_size=5, max_size=5)),
    "a_varbit": ("bit varying", st.text("01", max_size=70)),
    "a_point": ("point", st.builds("({!r},{!r})".format, st.floats(), st.floats())),
    "an_address": (
        "address",
        st.builds(
            "({},{},{})".format, TEXT.map(quoted), either("", usual=st.integers(0, 99).map(str)), st.sampled_from(DAYS)
        ),
    ),
}
"""The column's type, and literals of that type."""
WIDEST = {"a_numeric": "1e131071", "a_text": "x" * 200_000, "a_bytea": "\\x" + "00" * 100_000}
NARROWEST = {"a_numeric": "1e-16383", "a_text": "", "a_varbit": ""}


@pytest.fixture(scope="module")
async def url(server_url: str) -> AsyncIterator[str]:
    async with open_database(server_url) as database_url:
        yield database_url


@pytest.fixture(scope="module")
async def connection(url: str) -> AsyncIterator[Connection]:
    opened = await asyncpg.connect(url)
    columns = ", ".join(f"{name} {type_}" for name, (type_, _) in COLUMNS.items())
    await opened.execute(f"{TYPES}; CREATE TABLE things (id bigint PRIMARY KEY, {columns})")
    await opened.execute("CREATE TABLE from_csv (LIKE things); CREATE TABLE from_json (LIKE things)")
    await opened.execute("CREATE TABLE from_list (LIKE things); CREATE TABLE from_xlsx (LIKE things)")
    await insert(opened, "things", [{"id": str(number), **row} for number, row in enumerate(generate_rows())])
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
async def pool(url: str) -> AsyncIterator[Pool]:
    async with open_pool(url, size=1, application_name="round-trip", own_search_path=True) as opened:
        yield opened


@pytest.fixture(scope="module")
async def datasets(connection: Connection, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, ...]:
    folder = tmp_path_factory.mktemp("datasets")
    (folder / "profile.sql").write_text("SELECT $1::bigint AS id, '=user@example.com' AS email")
    (folder / "things.sql").write_text(
        f"SELECT id, {', '.join(COLUMNS)} FROM things WHERE $1::bigint IS NOT NULL ORDER BY id"
    )
    return await load_datasets(connection, folder, user_id_type="bigint", forbidden=())


def generate_rows() -> list[Row]:
    """Values are generated column by column: of whole rows hypothesis makes few that differ, and takes its time."""
    chance = random.Random(1)  # noqa: S311 (which values meet in a row)
    values = {name: generate_values(strategy) for name, (_, strategy) in COLUMNS.items()}
    rows = [{name: chance.choice([None, chance.choice(each)]) for name, each in values.items()} for _ in range(ROWS)]
    return [WIDEST, NARROWEST, *rows]


def generate_values(strategy: st.SearchStrategy[Value], number: int = VALUES) -> list[Value]:
    values: list[Value] = []

    @hypothesis.settings(max_examples=number, database=None, deadline=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(strategy)
    def collect(value: Value) -> None:
        values.append(value)

    collect()
    return values


async def insert(connection: Connection, table: str, rows: list[Row]) -> None:
    types = {"id": "bigint"} | {name: type_ for name, (type_, _) in COLUMNS.items()}
    values = ", ".join(f"{name}::{type_}" for name, type_ in types.items())
    arrays = ", ".join(f"${position}::text[]" for position in range(1, len(types) + 1))
    await connection.execute(
        f"INSERT INTO {table} SELECT {values} FROM unnest({arrays}) AS rows ({', '.join(types)})",
        *([row.get(name) for row in rows] for name in types),
    )


async def list_differences(connection: Connection, table: str, texts: Mapping[str, str]) -> list[asyncpg.Record]:
    """Cells of one table that the other doesn't have. Their text is more than equality: it shows -0 and 1.50."""
    cells = ", ".join(f"('{name}', {texts.get(name, f'{name}::text')})" for name in COLUMNS)
    query = "SELECT id, name, text FROM {}, LATERAL (VALUES " + cells + ") AS cells (name, text)"
    original, copy = query.format("things"), query.format(table)
    return [
        *await connection.fetch(f"{original} EXCEPT {copy} LIMIT 5"),
        *await connection.fetch(f"{copy} EXCEPT {original} LIMIT 5"),
    ]


async def test_every_value_survives_csv(connection: Connection, pool: Pool, datasets: tuple[Dataset, ...]) -> None:
    document = await make_document(pool, datasets, USER_ID, CsvEncoder())
    header, _, *lines = read_csv(document.decode())
    names = [str(name).removeprefix("things_") for name in header]

    await insert(connection, "from_csv", [dict(zip(names, map(unguard, line), strict=True)) for line in lines])

    assert len(lines) >= ROWS
    assert await list_differences(connection, "from_csv", {"a_json": "a_json::jsonb::text"}) == []


async def test_every_value_survives_json(connection: Connection, pool: Pool, datasets: tuple[Dataset, ...]) -> None:
    document = await make_document(pool, datasets, USER_ID, JsonEncoder())

    inserted = await connection.execute(
        "INSERT INTO from_json SELECT * FROM json_populate_recordset(NULL::from_json, $1::json -> 'things')",
        document.decode(),
    )

    assert int(inserted.split()[-1]) >= ROWS
    # A column that is NULL and one that holds JSON's null are the same in JSON.
    texts = {name: f"nullif({name}::jsonb, 'null')::text" for name in ("a_json", "a_jsonb")}
    assert await list_differences(connection, "from_json", texts) == []


async def test_every_value_survives_xlsx(connection: Connection, pool: Pool, datasets: tuple[Dataset, ...]) -> None:
    document = await make_document(pool, datasets, USER_ID, XlsxEncoder())
    header, *rows = read_xlsx(document)["things"]

    await insert(connection, "from_xlsx", [dict(zip(header, map(literal, row), strict=True)) for row in rows])

    assert len(rows) >= ROWS
    # A number has no scale, and no -0.
    texts = {"a_json": "a_json::jsonb::text", "a_scaled": "trim_scale(a_scaled)::text"}
    texts |= {name: f"({name} + 0)::text" for name in ("a_float4", "a_float8")}
    texts |= {"a_numeric": "trim_scale(a_numeric)::text"}
    assert await list_differences(connection, "from_xlsx", texts) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", OTHERS)
async def test_every_value_is_the_same_in_other_readers(
    pool: Pool, datasets: tuple[Dataset, ...], tmp_path: Path, name: str
) -> None:
    document = await make_document(pool, datasets, USER_ID, XlsxEncoder())
    assert OTHERS[name](document, tmp_path) == read_with_openpyxl(document, tmp_path)


def literal(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def parse(document: bytes) -> Any:
    """Python refuses integers of more than 4,300 digits."""
    return json.loads(document, parse_int=lambda digits: int(digits) if len(digits) < 1_000 else float(digits))


async def test_every_value_satisfies_the_schema(pool: Pool, datasets: tuple[Dataset, ...]) -> None:
    schema = create_schema(datasets)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for options in (EncoderOptions(), EncoderOptions(big_as_text=True)):
        document = parse(await make_document(pool, datasets, USER_ID, JsonEncoder(options)))
        assert [error.message for error in validator.iter_errors(document)] == []
    document["things"][0]["a_bool"] = "true"
    del document["things"][1]["a_text"]
    assert len(list(validator.iter_errors(document))) == 2


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """The columns of each section, with their names there. Together the sections have all columns."""
    columns = draw(st.permutations(list(COLUMNS)))
    names = draw(st.lists(NAME, min_size=len(columns), max_size=len(columns), unique=True))
    named = list(zip(columns, names, strict=True))
    ends = draw(st.lists(st.integers(1, len(named) - 1), unique=True, max_size=3).map(sorted))
    return [dict(named[begin:end]) for begin, end in pairwise([0, *ends, len(named)])]


async def test_datasets_of_any_shape_satisfy_their_schema(connection: Connection, pool: Pool, tmp_path: Path) -> None:
    for number, shape in enumerate(generate_values(shapes(), SHAPES)):
        folder = tmp_path / str(number)
        write_datasets(folder, shape)
        datasets = await load_datasets(connection, folder, user_id_type="bigint", forbidden=())
        schema = create_schema(datasets)
        validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        document = parse(await make_document(pool, datasets, USER_ID, JsonEncoder()))
        assert [error.message for error in validator.iter_errors(document)] == [], shape
        for dataset in datasets[1:]:
            rows = document[dataset.name]
            assert rows
            assert all(list(row) == list(schema["properties"][dataset.name]["items"]["properties"]) for row in rows)


def write_datasets(folder: Path, shape: Shape) -> None:
    folder.mkdir()
    (folder / "profile.sql").write_text("SELECT $1::bigint AS id, 'user@example.com' AS email")
    for number, columns in enumerate(shape):
        cells = ", ".join(f"{column} AS {quote_identifier(name)}" for column, name in columns.items())
        rows = f"FROM things WHERE $1::bigint IS NOT NULL AND id % 40 = {number} ORDER BY id"
        (folder / f"section_{number}.sql").write_text(f'SELECT id AS "the id", {cells} {rows}', encoding="utf-8")


async def test_big_integers_as_text_are_the_same_numbers(pool: Pool, datasets: tuple[Dataset, ...]) -> None:
    exact = parse(await make_document(pool, datasets, USER_ID, JsonEncoder()))["things"]
    safe = parse(await make_document(pool, datasets, USER_ID, JsonEncoder(EncoderOptions(big_as_text=True))))
    found = [(one["an_int8"], other["an_int8"]) for one, other in zip(exact, safe["things"], strict=True)]
    assert {type(other) for one, other in found if one is not None and abs(one) >= 2**53} == {str}
    assert all(one == other for one, other in found if one is None or abs(one) < 2**53)
    assert all(str(one) == str(other) for one, other in found)


async def test_every_value_survives_an_operators_list(connection: Connection, pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "export.sql").write_text(
        f"SELECT id, {', '.join(COLUMNS)} FROM things "
        "WHERE ($1::text IS NULL OR a_text = $1) AND ($2::bigint IS NULL OR id > $2) ORDER BY id"
    )
    lists = await load_user_lists(connection, tmp_path, forbidden=())
    async with open_list(pool, Query(lists["export"], (None, None)), acquire_timeout_seconds=10) as document:
        made = b"".join([chunk async for chunk in document.chunks(CsvEncoder())])
    header, *lines = read_csv(made.decode())

    await insert(
        connection, "from_list", [dict(zip(map(str, header), map(unguard, line), strict=True)) for line in lines]
    )

    assert len(lines) >= ROWS
    assert await list_differences(connection, "from_list", {"a_json": "a_json::jsonb::text"}) == []

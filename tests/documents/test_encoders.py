"""The documents as other programs read them: Python's csv and json."""

import csv
import io
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from service.backends.database import Connection, Pool, open_pool
from service.documents.csv_encoder import BOM, CsvEncoder
from service.documents.datasets import Dataset
from service.documents.encoders import create_encoder
from service.documents.encoding import Encoder, EncoderOptions
from service.documents.json_encoder import JsonEncoder
from service.documents.ndjson_encoder import NdjsonEncoder
from service.errors import DocumentError
from service.formats import STREAMED_FORMATS, Format
from tests.sql.databases import open_database
from tests.sql.sources import load
from tests.support.documents import make_document, read_csv, read_strictly, read_xlsx, unguard

Retype: TypeAlias = Callable[[str, str, str, str], Awaitable[str]]

USER_ID = UUID("ada00000-0000-4000-8000-000000000000")
HEADER = [
    *("user_id", "email", "name", "created_at"),
    *("activity_id", "activity_kind", "activity_ip", "activity_detail", "activity_occurred_at"),
    *("content_id", "content_title", "content_body", "content_created_at"),
]
HOSTILE = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''=1", "'quoted'", "'"),
    *("a,b", 'say "hi"', '"', "a\r\nb", "a\nb", "\n", ";", "\\", "\\\\", r"\N", "(a)", "a)", "(", " ", " =1", ""),
    *("\U0001f680\u200d\u202e", "\ufeff=1", "\u2028", "x" * 300),
]
GUARDED = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''=1"]
DETAILS: list[Any] = [None, {"a": [1, None, "=x"]}, "text", -1, True, {}, {"ratio": 1.5, "\u00e9": '"\\'}]


@pytest.fixture
async def ada(database: Connection) -> UUID:
    """Her rows hold every hostile text, and are in the order of the lists above."""
    await database.execute(
        "INSERT INTO public.users (id, email, name, password_hash, created_at) VALUES ($1, $2, $3, 'x', $4)",
        *(USER_ID, "ada@example.com", '=Ada, "Countess"\r\n', datetime(2026, 1, 2, 3, 4, 5, 600_000, UTC)),
    )
    await database.executemany(
        "INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at) VALUES ($1, $2, '192.0.2.1', $3, $4)",
        [
            (
                USER_ID,
                f"kind {second}",
                None if detail is None else json.dumps(detail),
                datetime(2026, 1, 1, 0, 0, second, 0, UTC),
            )
            for second, detail in enumerate(DETAILS)
        ],
    )
    await database.executemany(
        "INSERT INTO public.content (user_id, title, body, created_at) VALUES ($1, $2, $3, $4)",
        [
            (USER_ID, text, None if second % 2 else text, datetime(2026, 1, 1, 0, 0, second, 0, UTC))
            for second, text in enumerate(HOSTILE)
        ],
    )
    return USER_ID


def parse(document: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(document.decode(), newline=""), strict=True))


async def export_values(pool: Pool, database: Connection, folder: Path, values: str, encoder: Encoder) -> bytes:
    """A document whose second dataset is one row of `values`."""
    files: dict[str, str | bytes] = {
        "profile.sql": "SELECT $1::uuid AS id, 'ada@example.com' AS email",
        "value.sql": f"SELECT {values} WHERE $1::uuid IS NOT NULL",
    }
    return await make_document(pool, await load(database, folder, files), USER_ID, encoder)


async def test_csv_has_the_header_of_the_contract(pool: Pool, datasets: tuple[Dataset, ...], ada: UUID) -> None:
    document = await make_document(pool, datasets, ada, CsvEncoder())

    assert document.partition(b"\r\n")[0].decode() == ",".join(HEADER)


async def test_csv_gives_other_programs_the_same_values(pool: Pool, datasets: tuple[Dataset, ...], ada: UUID) -> None:
    _, profile, *lines = parse(await make_document(pool, datasets, ada, CsvEncoder()))
    own = [str(USER_ID), "ada@example.com", '\'=Ada, "Countess"\r\n', "2026-01-02T03:04:05.6Z"]
    activity, content = lines[: len(DETAILS)], lines[len(DETAILS) :]

    assert profile == own + [""] * 9
    for second, (line, detail) in enumerate(zip(activity, DETAILS, strict=True)):
        assert line[:4] == own
        assert line[5:7] + line[8:] == [f"kind {second}", "192.0.2.1", f"2026-01-01T00:00:0{second}Z", "", "", "", ""]
        assert (json.loads(line[7]) if line[7] else None) == detail
    for second, (line, text) in enumerate(zip(content, HOSTILE, strict=True)):
        assert line[:9] == own + [""] * 5
        assert unguard(line[10]) == text
        assert unguard(line[11]) == ("" if second % 2 else text)
        assert line[12] == f"2026-01-01T00:00:{second:02}Z"


async def test_csv_keeps_to_rfc_4180(pool: Pool, datasets: tuple[Dataset, ...], ada: UUID) -> None:
    """Every line ends with CRLF and has as many cells as the header."""
    document = await make_document(pool, datasets, ada, CsvEncoder())

    lines = read_csv(document.decode())

    assert {len(line) for line in lines} == {len(HEADER)}
    assert [[cell or "" for cell in line] for line in lines] == parse(document)


async def test_csv_tells_null_from_the_empty_string(pool: Pool, database: Connection, tmp_path: Path) -> None:
    values = "NULL::text AS nothing, ''::text AS empty, NULL::json AS no_json"

    document = await export_values(pool, database, tmp_path, values, CsvEncoder())

    assert document.splitlines()[-1].endswith(b',,"",')


async def test_csv_guards_exactly_what_a_spreadsheet_would_run(
    pool: Pool, datasets: tuple[Dataset, ...], ada: UUID
) -> None:
    lines = parse(await make_document(pool, datasets, ada, CsvEncoder()))

    assert [line[10] for line in lines[-len(HOSTILE) :]] == [
        "'" + text if text in GUARDED else text for text in HOSTILE
    ]


async def test_csv_quotes_what_has_a_semicolon(pool: Pool, database: Connection, tmp_path: Path) -> None:
    """For spreadsheets that split lines there too, and would run what follows."""
    cells = {
        "'x;=1'": b'"x;=1"',
        "';;'": b'";;"',
        "'=1;=1'": b'"\'=1;=1"',
        "'{x;y}'::text[]": b'"{x;y}"',
        "'x'": b"x",
        "NULL": b"",
        "''": b'""',
        """'a;b,"'""": b'"a;b,"""',
        """'";=1'""": b'""";=1"',
        r"'\;'": b'"\\;"',
    }
    values = ", ".join(f'{value} AS "{position};"' for position, value in enumerate(cells))

    document = await export_values(pool, database, tmp_path, values, CsvEncoder())

    header, _, line = document.splitlines()
    assert header.startswith(b'user_id,email,"value_0;","value_1;"')
    assert line.endswith(b"," + b",".join(cells.values()))


async def test_csv_guards_text_of_other_types(pool: Pool, database: Connection, tmp_path: Path) -> None:
    await database.execute("CREATE TYPE sum AS ENUM ('=1'); CREATE DOMAIN label AS varchar(9)")
    values = "'=1'::sum AS e, '=1'::label AS d, '=1'::char(4) AS c, '=1'::varchar AS v, '=1'::name AS n"

    document = await export_values(pool, database, tmp_path, values, CsvEncoder())

    assert parse(document)[-1][2:] == ["'=1"] * 5


async def test_csv_guards_text_of_any_collation(pool: Pool, database: Connection, tmp_path: Path) -> None:
    """Nondeterministic where PostgreSQL was built with ICU; otherwise there are none."""
    has_icu = await database.fetchval("SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu')")
    options = "provider = icu, locale = 'und-u-ks-level2', deterministic = false" if has_icu else "locale = 'C'"
    await database.execute(f"CREATE COLLATION caseless ({options})")

    document = await export_values(pool, database, tmp_path, "'=1' COLLATE caseless AS v", CsvEncoder())

    assert parse(document)[-1][2:] == ["'=1"]


async def test_types_are_read_without_a_right_to_name_them(database: Connection, tmp_path: Path) -> None:
    role = f"reader_{uuid4().hex}"
    transaction = database.transaction()
    await transaction.start()
    try:
        await database.execute(
            f"""CREATE SCHEMA types; CREATE TYPE types.mood AS ENUM ('=1');
            CREATE TYPE types.span AS RANGE (subtype = int4); CREATE SCHEMA app;
            CREATE TABLE app.moods (id uuid, email text, e types.mood, a types.mood[], r types.span);
            INSERT INTO app.moods VALUES ('{USER_ID}', 'ada@example.com', '=1', '{{=1}}', '[1,2)');
            CREATE ROLE {role}; GRANT USAGE ON SCHEMA app TO {role}; GRANT SELECT ON app.moods TO {role};
            SET LOCAL ROLE {role}"""
        )
        (profile,) = await load(
            database, tmp_path, {"profile.sql": "SELECT id, email, e, a, r FROM app.moods WHERE id = $1"}
        )
        line = await database.fetchval(CsvEncoder().row_text(profile), USER_ID)
    finally:
        await transaction.rollback()

    assert line == f"""({USER_ID},ada@example.com,'=1,{{=1}},"[1,2)")"""


async def test_csv_guards_the_names_of_operators(pool: Pool, database: Connection, tmp_path: Path) -> None:
    values = "'=(integer,integer)'::regoperator AS a, '||/'::regoper AS b, 0::regclass AS c, 'int4'::regtype AS d"

    document = await export_values(pool, database, tmp_path, values, CsvEncoder())

    assert parse(document)[-1][2:] == ["'=(integer,integer)", "||/", "'-", "integer"]


@pytest.mark.parametrize(
    ("encoding", "word"), [("EUC_JP", "\u65e5\u672c"), ("EUC_KR", "\ud55c\uad6d"), ("LATIN1", "\u00e9t\u00e9")]
)
async def test_every_encoding_of_a_database_is_served(
    server_url: str, tmp_path: Path, encoding: str, word: str
) -> None:
    texts = [word, f"={word}", "=1", ""]
    values = ", ".join(f"'{text}' AS c{position}" for position, text in enumerate(texts))
    async with open_database(server_url, f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0") as url:
        connection = await asyncpg.connect(url)
        try:
            async with open_pool(url, size=1, application_name="encodings", own_search_path=True) as pool:
                document = await export_values(pool, connection, tmp_path, values, CsvEncoder())
                json_document = await export_values(pool, connection, tmp_path, values, JsonEncoder())
        finally:
            await connection.close()

    assert parse(document)[-1][2:] == [word, f"'={word}", "'=1", ""]
    assert list(json.loads(json_document)["value"][0].values()) == texts


async def test_csv_never_guards_what_is_not_text(pool: Pool, database: Connection, tmp_path: Path) -> None:
    await database.execute("CREATE DOMAIN flag AS boolean")
    cells = {
        "-1": "-1",
        "'-Infinity'::numeric": "-Infinity",
        "'-0'::float8": "-0",
        "(-12.5)::money": "-$12.50",
        "true": "true",
        "false": "false",
        "'true'::flag": "true",
        "date '-infinity'": "-infinity",
        "date '2026-01-31'": "2026-01-31",
        "timestamptz '2026-01-31 12:00:00.5+02'": "2026-01-31T10:00:00.5Z",
        "timestamp '2026-01-31 12:00'": "2026-01-31T12:00:00",
        "timestamptz '-infinity'": "-infinity",
        "timestamptz '0044-03-15 12:00Z BC'": "0044-03-15 12:00:00Z BC",
        "interval '-1 day'": "P-1D",
        "'-1'::jsonb": "-1",
        "E'\\t-1'::json": "-1",
        "'{-1}'::int[]": "{-1}",
        "'-5'::oid": "4294967291",
        "inet '10.0.0.1'": "10.0.0.1",
        r"'\x2d31'::bytea": r"\x2d31",
    }
    values = ", ".join(f"{value} AS c{position}" for position, value in enumerate(cells))

    document = await export_values(pool, database, tmp_path, values, CsvEncoder())

    assert dict(zip(cells, parse(document)[-1][2:], strict=True)) == cells


@pytest.fixture
async def retype(pool: Pool, database: Connection, tmp_path: Path) -> Retype:
    """The cell of a column whose type is changed after its dataset was read."""

    async def make(before: str, value: str, after: str, using: str) -> str:
        await database.execute(f"CREATE TABLE retyped (id uuid PRIMARY KEY, value {before})")
        await database.execute(f"INSERT INTO retyped VALUES ('{USER_ID}', {value})")
        profile = "SELECT id, 'ada@example.com' AS email, value FROM retyped WHERE id = $1"
        datasets = await load(database, tmp_path, {"profile.sql": profile})
        await database.execute(f"ALTER TABLE retyped ALTER value TYPE {after} USING {using}")
        return parse(await make_document(pool, datasets, USER_ID, CsvEncoder()))[-1][-1]

    return make


@pytest.mark.parametrize(
    ("before", "value"),
    [
        *[("int", "1"), ("numeric(9,2)", "1"), ("money", "1"), ("bool", "true"), ("uuid", "gen_random_uuid()")],
        *[("timestamptz", "now()"), ("timestamp", "now()"), ("date", "now()"), ("interval", "'1 day'")],
        *[("json", "'1'"), ("jsonb", "'1'"), ("inet", "'10.0.0.1'"), ("bit(3)", "'101'"), ("int[]", "'{1}'")],
        *[("int4range", "'[1,2]'"), ("point", "'(1,2)'"), ("bytea", "'1'")],
    ],
)
async def test_csv_is_refused_once_a_column_has_become_text(retype: Retype, before: str, value: str) -> None:
    with pytest.raises(DocumentError):
        await retype(before, value, "text", "'=1+1'")


@pytest.mark.parametrize(
    ("before", "value", "after", "shown"),
    [
        ("int", "1", "bigint", "1"),
        ("real", "-1.5", "double precision", "-1.5"),
        ("int", "-1", "numeric(9,2)", "-1.00"),
        ("bigint", "1", "smallint", "1"),
        ("json", "' {\"a\": 1}'", "jsonb", '{"a": 1}'),
        ("jsonb", "'[1]'", "json", "[1]"),
        ("timestamp", "'2026-01-31 12:00'", "timestamptz", "2026-01-31T12:00:00Z"),
        ("bit(3)", "'101'", "varbit", "101"),
        ("int[]", "'{1}'", "bigint[]", "{1}"),
        ("varchar(9)", "'=1'", "text", "'=1"),
        ("text", "'-1'", "int", "'-1"),
    ],
)
async def test_csv_outlives_a_change_of_a_column_to_a_like_type(
    retype: Retype, before: str, value: str, after: str, shown: str
) -> None:
    assert await retype(before, value, after, f"value::{after}") == shown


async def test_csv_quotes_odd_column_names(pool: Pool, database: Connection, tmp_path: Path) -> None:
    document = await export_values(pool, database, tmp_path, '1 AS "a,b", 2 AS "say ""hi"""', CsvEncoder())

    assert parse(document)[0] == ["user_id", "email", "value_a,b", 'value_say "hi"']


async def test_bom_is_one_mark_and_the_same_document(pool: Pool, datasets: tuple[Dataset, ...], ada: UUID) -> None:
    document = await make_document(pool, datasets, ada, create_encoder(Format.CSV))
    marked = await make_document(pool, datasets, ada, create_encoder(Format.CSV, EncoderOptions(bom=True)))

    assert marked == BOM + document
    assert not document.startswith(BOM)


async def test_unguarded_cells_are_the_values_themselves(pool: Pool, database: Connection, tmp_path: Path) -> None:
    columns = "'=1+1' AS plain, '''=1' AS quoted, E'a\\\\b\"c' AS odd, NULL::text AS nothing, '' AS empty, -1 AS number"
    document = await export_values(pool, database, tmp_path, columns, CsvEncoder(EncoderOptions(unguarded=True)))

    assert parse(document)[2][2:] == ["=1+1", "'=1", 'a\\b"c', "", "", "-1"]


async def test_json_gives_other_programs_the_same_values(pool: Pool, datasets: tuple[Dataset, ...], ada: UUID) -> None:
    before = datetime.now(UTC)
    document = json.loads(await make_document(pool, datasets, ada, JsonEncoder()))
    exported_at = document.pop("exported_at")

    assert before <= datetime.fromisoformat(exported_at) <= datetime.now(UTC)
    assert exported_at.endswith("Z")
    assert list(document) == ["user", "activity", "content"]
    assert document["user"] == {
        "id": str(USER_ID),
        "email": "ada@example.com",
        "name": '=Ada, "Countess"\r\n',
        "created_at": "2026-01-02T03:04:05.6Z",
    }
    assert [row["detail"] for row in document["activity"]] == DETAILS
    assert [row["title"] for row in document["content"]] == HOSTILE
    assert [row["body"] for row in document["content"]] == [
        None if second % 2 else text for second, text in enumerate(HOSTILE)
    ]


async def test_json_has_one_row_a_line(pool: Pool, datasets: tuple[Dataset, ...], ada: UUID) -> None:
    document = await make_document(pool, datasets, ada, JsonEncoder())

    assert document.count(b"\n") == 2 + len(DETAILS) + len(HOSTILE)
    assert document.endswith(b"]}\n")


async def test_json_uses_its_own_types(pool: Pool, database: Connection, tmp_path: Path) -> None:
    members = {
        "-1": -1,
        "1.50::numeric": 1.5,
        "9223372036854775807": 9_223_372_036_854_775_807,
        "'NaN'::float8": "NaN",
        "true": True,
        "'{1,NULL}'::int[]": [1, None],
        "timestamptz 'infinity'": "infinity",
        "timestamptz '2026-01-31 12:00:00.5+02'": "2026-01-31T10:00:00.5Z",
        "interval '1 mon 1 day'": "P1M1D",
        "inet '10.0.0.1'": "10.0.0.1",
        "'[1, {\"a\": 1.50}]'::json": [1, {"a": 1.5}],
    }
    values = ", ".join(f"{value} AS c{position}" for position, value in enumerate(members))

    document = json.loads(await export_values(pool, database, tmp_path, values, JsonEncoder()))

    assert dict(zip(members, document["value"][0].values(), strict=True)) == members


@pytest.mark.parametrize("format_", STREAMED_FORMATS)
async def test_a_user_with_nothing_but_a_profile(
    pool: Pool, database: Connection, datasets: tuple[Dataset, ...], format_: Format
) -> None:
    await database.execute(
        "INSERT INTO public.users (id, email, name, password_hash) VALUES ($1, 'a@b.example', 'A', 'x')", USER_ID
    )

    document = await make_document(pool, datasets, USER_ID, create_encoder(format_))

    match format_:
        case Format.CSV:
            assert [len(line) for line in parse(document)] == [13, 13]
        case Format.JSON:
            assert [json.loads(document)[name] for name in ("activity", "content")] == [[], []]
        case Format.NDJSON:
            profile, end = map(json.loads, document.splitlines())
            assert (profile["section"], end) == ("user", {"section": "end", "records": 1})
        case Format.XLSX:
            sheets = read_xlsx(document)
            assert [[len(row) for row in rows] for rows in sheets.values()] == [[4, 4], [5], [4], [2, 2, 2]]


async def test_ndjson_holds_the_rows_of_json(pool: Pool, datasets: tuple[Dataset, ...], ada: UUID) -> None:
    whole = json.loads(await make_document(pool, datasets, ada, create_encoder(Format.JSON)))

    document = await make_document(pool, datasets, ada, create_encoder(Format.NDJSON))

    *lines, end = [json.loads(line) for line in document.decode().split("\n")[:-1]]
    sections = {name: [line["row"] for line in lines if line["section"] == name] for name in ("activity", "content")}
    assert lines[0] == {"section": "user", "row": whole["user"]}
    assert sections == {name: whole[name] for name in sections}
    assert [*dict.fromkeys(line["section"] for line in lines)] == ["user", "activity", "content"]
    assert end == {"section": "end", "records": len(lines)}
    assert document.endswith(b"}\n")


async def test_each_ndjson_line_ends_in_its_row(pool: Pool, database: Connection, tmp_path: Path) -> None:
    texts = ("E'a\\nb'", "'\u2028'", "E'\\r'", '\'{"section":"end","records":1}\'')
    values = ", ".join(f"{text} AS c{position}" for position, text in enumerate(texts))

    document = await export_values(pool, database, tmp_path, values, NdjsonEncoder())

    lines = document.split(b"\n")
    assert [json.loads(line)["section"] for line in lines[:-1]] == ["user", "value", "end"]
    assert lines[-1] == b""


@pytest.mark.parametrize("encoder", [NdjsonEncoder, JsonEncoder])
@pytest.mark.parametrize("padding", ["", "x" * 5_000], ids=["short", "in slices"])
async def test_json_that_the_application_wrote_on_several_lines_takes_one(
    pool: Pool, database: Connection, tmp_path: Path, encoder: type[Encoder], padding: str
) -> None:
    """The type json keeps its text, with white space, as jsonb doesn't."""
    value = 'E\'{\\n\\t"a":\\r\\n["\\\\n"]\\r}\'::json'
    await database.execute("CREATE TYPE public.holder AS (held json); CREATE DOMAIN public.note AS json")
    for cell, expected in (
        (value, {"a": ["\n"]}),
        (f"array[{value}]", [{"a": ["\n"]}]),
        (f"{value}::public.note", {"a": ["\n"]}),
        (f"ROW({value})::public.holder", {"held": {"a": ["\n"]}}),
        (f"array[ROW({value})::public.holder]", [{"held": {"a": ["\n"]}}]),
    ):
        document = await export_values(pool, database, tmp_path, f"{cell} AS cell, '{padding}' AS padding", encoder())
        lines = document.splitlines()
        assert len(lines) == 3
        row = json.loads(document)["value"][0] if encoder is JsonEncoder else json.loads(lines[1])["row"]
        assert row == {"cell": expected, "padding": padding}


STRICT = r"""
    'NaN'::float8 AS a, '-Infinity'::float4 AS b, 'NaN'::numeric AS c, 'Infinity'::numeric AS d, '-0'::float8 AS e,
    array['NaN', 'Infinity']::float8[] AS f, ROW('NaN'::float8, 'Infinity'::numeric)::public.pair AS g,
    numrange('-Infinity', NULL) AS h, point('NaN', 'Infinity') AS i, 'infinity'::timestamptz AS j, '\x00ff'::bytea AS k,
    E'\x01\x1f\x7f\u2028\ufeff\uffff\U0010ffff"\\' AS l, '{"a": 1, "a": 2, "n": 1e400}'::jsonb AS m,
    E'["\\u00e9\\ud83d\\ude00"]'::json AS n,
    1 AS "a""b\c", 2 AS "\u0061", 1e400::numeric AS o, 123456789012345678901 AS p
"""


@pytest.mark.parametrize("encoder", [NdjsonEncoder, JsonEncoder])
async def test_json_is_strict(pool: Pool, database: Connection, tmp_path: Path, encoder: type[Encoder]) -> None:
    """But for a column of the type json: PostgreSQL keeps the text that the application wrote there."""
    await database.execute("CREATE TYPE public.pair AS (one float8, two numeric)")

    document = await export_values(pool, database, tmp_path, STRICT, encoder())

    if encoder is JsonEncoder:
        value = read_strictly(document)["value"][0]
    else:
        _, value, _ = [read_strictly(line).get("row") for line in document.split(b"\n")[:-1]]
    assert [value[name] for name in "abcd"] == ["NaN", "-Infinity", "NaN", "Infinity"]
    assert value["g"] == {"one": "NaN", "two": "Infinity"}
    assert (value["m"]["a"], value["n"]) == (2, ["é\U0001f600"])


async def test_the_servers_own_formats_do_not_show(
    pool: Pool, database: Connection, database_url: str, tmp_path: Path
) -> None:
    name = database_url.rpartition("/")[2]
    for setting in (
        *("TimeZone = 'Asia/Kathmandu'", "DateStyle = 'SQL, DMY'", "IntervalStyle = 'postgres_verbose'"),
        *("bytea_output = 'escape'", "extra_float_digits = 0", "standard_conforming_strings = off"),
    ):
        await database.execute(f"ALTER DATABASE {name} SET {setting}")
    values = (
        "timestamptz '2026-01-31 12:00Z' AS at, date '2026-01-31' AS day, interval '1 day' AS span, "
        r"'\x00ff'::bytea AS octets, 0.1::float8 + 0.2::float8 AS sum"
    )

    document = await export_values(pool, database, tmp_path, values, CsvEncoder())

    assert parse(document)[-1][2:] == ["2026-01-31T12:00:00Z", "2026-01-31", "P1D", r"\x00ff", "0.30000000000000004"]

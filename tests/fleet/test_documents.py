"""The contents of documents, read from the stream, which is the same document as the file."""

import asyncio
import json

import httpx
import pytest

from service.formats import STREAMED_FORMATS, Format
from tests.api.problems import read_problem
from tests.fleet.fleet import TEXT, Fleet, Person, until
from tests.support.documents import read_csv, read_xlsx
from tests.support.factories import CANARY

STREAM = "/api/export/stream"
HEADER = (
    "user_id,email,name,created_at,activity_id,activity_kind,activity_ip,activity_detail,activity_occurred_at,"
    "content_id,content_title,content_body,content_created_at\r\n"
)
RUN_BY_SPREADSHEETS = ["=1+1", "+49 30", "-1", "@SUM(A1)", "\ttab", "\rreturn"]


@pytest.fixture(scope="module")
async def person(fleet: Fleet) -> Person:
    """A user with every kind of cell. Each name of a section says what is odd about its row."""
    made = await fleet.create_person(1, text=f'{TEXT}, "quoted"')
    await fleet.change("UPDATE public.users SET created_at = '2026-01-02 03:04:05.678Z' WHERE id = $1", made.id)
    await fleet.change(
        """INSERT INTO public.activity (id, user_id, kind, ip, detail, occurred_at) OVERRIDING SYSTEM VALUE VALUES
        (-2, $1, '', NULL, NULL, '2026-02-01 00:00+02'), (-1, $1, $2, '2001:db8::1', '{"n": -1.50}', '2026-02-02Z')""",
        made.id,
        TEXT,
    )
    await fleet.database.executemany(
        "INSERT INTO public.content (user_id, title, body, created_at) VALUES ($1, $2, $3, '2026-03-01Z')",
        [(made.id, formula, "two\r\nlines") for formula in RUN_BY_SPREADSHEETS],
    )
    await fleet.surrounding.replayed()
    return made


async def get(client: httpx.AsyncClient, person: Person, query: str) -> httpx.Response:
    return await client.get(f"{STREAM}?{query}", headers=person.headers)


async def test_csv(client: httpx.AsyncClient, person: Person) -> None:
    response = await get(client, person, "format=csv")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="export.csv"'
    assert response.text.startswith(HEADER)
    assert CANARY not in response.text
    _, profile, *rows = read_csv(response.text)
    cells = [str(person.id), person.email, f'{TEXT}, "quoted"', "2026-01-02T03:04:05.678Z"]
    assert profile == cells + [None] * 9
    assert [row[:4] for row in rows] == [cells] * 8
    assert [row[4:9] for row in rows[:2]] == [
        ["-2", "", None, None, "2026-01-31T22:00:00Z"],
        ["-1", TEXT, "2001:db8::1", '{"n": -1.50}', "2026-02-02T00:00:00Z"],
    ]
    assert [row[9:] for row in rows[:2]] == [[None] * 4] * 2
    assert [row[4:9] for row in rows[2:]] == [[None] * 5] * 6
    assert [row[10:] for row in rows[2:]] == [
        [f"'{formula}", "two\r\nlines", "2026-03-01T00:00:00Z"] for formula in RUN_BY_SPREADSHEETS
    ]


async def test_json(client: httpx.AsyncClient, person: Person) -> None:
    response = await get(client, person, "format=json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.headers["content-disposition"] == 'attachment; filename="export.json"'
    assert CANARY not in response.text
    document = json.loads(response.text)
    assert list(document) == ["exported_at", "user", "activity", "content"]
    assert document["user"] == {
        "id": str(person.id),
        "email": person.email,
        "name": f'{TEXT}, "quoted"',
        "created_at": "2026-01-02T03:04:05.678Z",
    }
    assert document["activity"] == [
        {"id": -2, "kind": "", "ip": None, "detail": None, "occurred_at": "2026-01-31T22:00:00Z"},
        {"id": -1, "kind": TEXT, "ip": "2001:db8::1", "detail": {"n": -1.5}, "occurred_at": "2026-02-02T00:00:00Z"},
    ]
    assert [row["title"] for row in document["content"]] == RUN_BY_SPREADSHEETS


async def test_byte_order_mark(client: httpx.AsyncClient, person: Person) -> None:
    plain, marked = await get(client, person, "format=csv"), await get(client, person, "format=csv&bom=1")
    assert marked.content == b"\xef\xbb\xbf" + plain.content


@pytest.mark.parametrize("format_", STREAMED_FORMATS)
async def test_the_file_is_the_same_document(client: httpx.AsyncClient, person: Person, format_: str) -> None:
    made = await client.post("/api/export", json={"format": format_}, headers=person.headers)
    file = await client.get(made.json()["download_url"], follow_redirects=True)
    stream = await get(client, person, f"format={format_}")
    assert made.json()["record_count"] == 9
    assert without_time(file.content, format_) == without_time(stream.content, format_)


def without_time(content: bytes, format_: str) -> object:
    """A JSON document begins with its time, and a workbook's last sheet holds it."""
    if format_ == Format.XLSX:
        *sheets, _ = read_xlsx(content).items()
        return sheets
    return content.partition(b"\n")[2]


async def test_both_ends_are_audited(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person = await fleet.create_person(7)
    await get(client, person, "format=json")
    events = "SELECT action, format, records, outcome FROM carryout.export_audit WHERE user_id = $1 ORDER BY id"

    async def find() -> list[tuple[object, ...]] | None:
        found = [tuple(row) for row in await fleet.database.fetch(events, person.id)]
        return found if len(found) == 2 else None

    assert await until(find) == [
        ("export:stream_started", "json", 7, None),
        ("export:streamed", "json", 7, "complete"),
    ]


async def test_head_reads_nothing(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person = await fleet.create_person()
    response = await client.head(f"{STREAM}?format=csv", headers=person.headers)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    count = "SELECT count(*) FROM carryout.export_audit WHERE user_id = $1"
    assert await fleet.database.fetchval(count, person.id) == 0


async def test_one_stream_at_a_time(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person = await fleet.create_person()
    async with fleet.source_locked() as until_a_reader_waits:
        first = asyncio.create_task(get(client, person, "format=csv"))
        await until_a_reader_waits()
        for _ in range(2):  # one to each process
            refused = read_problem(await get(client, person, "format=csv"), 409)
            assert refused["detail"] == "A stream of your data is already running"
    assert len(read_csv((await first).text)) == 6


async def test_a_user_the_application_has_not(fleet: Fleet, client: httpx.AsyncClient) -> None:
    stranger = await fleet.sign_in((await fleet.create_person()).id)
    await fleet.change("DELETE FROM public.users WHERE id = $1", stranger.id)
    for response in (
        await get(client, stranger, "format=csv"),
        await client.post("/api/export", json={"format": "csv"}, headers=stranger.headers),
    ):
        assert read_problem(response, 404)["title"] == "User not found"

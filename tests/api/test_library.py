"""An application unlike the sample, by settings alone: its users have numbers, its types are odd."""

import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
import pytest

from devstack.sample import READER
from devstack.stack import Stack
from service.access.tokens import create_token
from service.documents.encoders import create_encoder
from service.formats import STREAMED_FORMATS, Format
from service.resources import Resources
from service.settings import Settings
from tests.api.problems import bearer, read_problem
from tests.conftest import OpenDatabase, on_database
from tests.sql.databases import migrate_as_owner
from tests.sql.databases import open_database as open_empty_database
from tests.support.documents import make_document, read_xlsx

LIBRARY = Path(__file__).parent.parent / "library"
CANARY = b"canary-never-exported-"
HYPATIA, JORGE, LAST, UNKNOWN = 1, 2, 2**63 - 1, 3
RECORDS = {HYPATIA: 1 + 3 + 2 + 2, JORGE: 1 + 1 + 2 + 1, LAST: 1}


@pytest.fixture(scope="module")
async def library_url(stack: Stack, open_database: OpenDatabase) -> AsyncIterator[str]:
    async with open_empty_database(stack.admin_url) as url:
        await migrate_as_owner(stack, url, user_id_type="bigint")
        connection = await asyncpg.connect(url)
        for name in ("schema.sql", "data.sql"):
            await connection.execute((LIBRARY / name).read_text(encoding="utf-8"))
        await connection.execute(f"GRANT USAGE ON SCHEMA library TO {READER}")
        await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA library TO {READER}")
        await connection.close()
        yield url


@pytest.fixture
def settings(common_settings: Settings, library_url: str) -> Settings:
    return msgspec.structs.replace(
        on_database(common_settings, library_url),
        datasets_dir=str(LIBRARY / "datasets"),
        user_id_type="bigint",
    )


def as_member(settings: Settings, member_no: int) -> dict[str, str]:
    return bearer(create_token(settings, str(member_no), 60))


def parse(document: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(document.decode(), newline=""), strict=True))


async def test_a_members_document_holds_their_values(resources: Resources) -> None:
    made = await make_document(resources.source, resources.datasets, HYPATIA, create_encoder(Format.JSON))

    document = json.loads(made)

    assert list(document) == ["exported_at", "user", "loans", "reading_rooms", "reviews"]
    assert document["user"] == {
        "id": 1,
        "email": "hypatia@library.example",
        "name": "Hypatia",
        "joined_on": "0390-03-08",
        "member_until": "infinity",
        "opens_at": "23:59:59.999999",
        "interests": ["astronomy", "conic sections, 8 books", None, '"quoted"', ""],
        "home": {"street": "Canopic Way", "house_no": 1, "town": "Alexandria"},
        "card_photo": r"\x89504e470d0a1a0a00ff",
    }
    assert document["loans"][0] == {
        "loan_no": 1,
        "isbn": "9780140444339",
        "title": "The Gallic War",
        "published_on": "0050-01-01 BC",
        "period": '["2026-01-05 10:00:00+00","2026-01-19 10:00:00+00")',
        "state": "returned",
        "fine": 0.0,
        "remind_after": "P21D",
    }
    assert [loan["remind_after"] for loan in document["loans"][1:]] == ["P1M1D", "PT-0.000001S"]
    assert [room["location"] for room in document["reading_rooms"]] == ["(52.5,13.375)", None]
    assert [review["stars"] for review in document["reviews"]] == [0.1, "NaN"]
    assert document["reviews"][0]["scores"] == [[1, 2], [3, None]]


async def test_a_members_csv_holds_the_same(resources: Resources) -> None:
    lines = parse(await make_document(resources.source, resources.datasets, JORGE, create_encoder(Format.CSV)))

    assert [line["user_id"] for line in lines] == ["2"] * RECORDS[JORGE]
    assert lines[0]["home"] == '(Maipú,,"Buenos ""Aires""")'
    assert lines[0]["card_photo"] == r"\x"
    assert lines[1]["loans_period"] == "(,infinity)"
    assert lines[1]["loans_fine"] == "NaN"
    assert [line["reading_rooms_seat_code"] for line in lines[2:3]] == ["A1"]
    assert [line["reviews_stars"] for line in lines[3:]] == ["NaN", "Infinity"]


@pytest.mark.parametrize("member_no", [HYPATIA, JORGE, LAST])
async def test_a_member_exports_and_downloads(api: httpx.AsyncClient, settings: Settings, member_no: int) -> None:
    created = await api.post("/api/export", json={"format": "csv"}, headers=as_member(settings, member_no))
    body = created.json()
    assert (created.status_code, body["record_count"]) == (201, RECORDS[member_no])

    link = urlsplit(body["download_url"])
    clicked = await api.get(f"{link.path.removeprefix('/carryout')}?{link.query}")
    assert clicked.status_code == 302
    async with httpx.AsyncClient(trust_env=False) as browser:
        file = await browser.get(clicked.headers["location"])

    assert file.status_code == 200
    assert [line["user_id"] for line in parse(file.content)] == [str(member_no)] * RECORDS[member_no]
    assert CANARY not in file.content


@pytest.mark.parametrize("format_", STREAMED_FORMATS)
async def test_a_member_streams(api: httpx.AsyncClient, settings: Settings, format_: str) -> None:
    streamed = await api.get(f"/api/export/stream?format={format_}", headers=as_member(settings, HYPATIA))

    assert streamed.status_code == 200
    assert CANARY not in streamed.content
    if format_ == Format.CSV:
        assert len(parse(streamed.content)) == RECORDS[HYPATIA]
    elif format_ == Format.XLSX:
        header, row = read_xlsx(streamed.content)["user"]
        assert dict(zip(header, row, strict=True))["id"] == HYPATIA
    else:
        first = streamed.content.partition(b"\n")[0] if format_ == Format.NDJSON else streamed.content
        document = json.loads(first)
        assert document.get("user", document.get("row"))["id"] == HYPATIA


async def test_a_number_without_a_member_has_no_data(api: httpx.AsyncClient, settings: Settings) -> None:
    for path in ("/api/export/stream?format=csv", "/api/export/stream?format=json"):
        read_problem(await api.get(path, headers=as_member(settings, UNKNOWN)), 404)
    created = await api.post("/api/export", json={"format": "csv"}, headers=as_member(settings, UNKNOWN))
    read_problem(created, 404)


async def test_one_member_sees_nothing_of_another(api: httpx.AsyncClient, settings: Settings) -> None:
    created = await api.post("/api/export", json={"format": "json"}, headers=as_member(settings, JORGE))
    job_id = created.json()["job_id"]

    read_problem(await api.get(f"/api/export/{job_id}", headers=as_member(settings, HYPATIA)), 404)
    assert (await api.get(f"/api/export/{job_id}", headers=as_member(settings, JORGE))).status_code == 200

"""A hundred thousand records, and one more."""

import httpx
import pytest

from tests.api.problems import read_problem
from tests.fleet.fleet import TEXT, Fleet, Person, link_in, until_ended


@pytest.fixture(scope="module")
async def crowd(fleet: Fleet) -> Person:
    """A user with 100,000 records."""
    return await fleet.create_person(100_000)


async def test_up_to_a_hundred_thousand(fleet: Fleet, client: httpx.AsyncClient, crowd: Person) -> None:
    response = await client.post("/api/export", json={"format": "csv"}, headers=crowd.headers)
    assert (response.status_code, response.json()["estimated_records"]) == (202, 100_000)
    view = await until_ended(client, crowd, response.json()["job_id"])
    assert (view["status"], view["record_count"], view["error_message"]) == ("completed", 100_000, None)
    assert view["progress"] == {"records_done": 100_000, "records_total": 100_000}
    file = await client.get(link_in(await fleet.mail_to(crowd)), follow_redirects=True)
    assert (file.content.count(b"\r\n"), len(file.content)) == (100_001, view["size_bytes"])


async def test_not_one_more(fleet: Fleet, client: httpx.AsyncClient, crowd: Person) -> None:
    await fleet.change("INSERT INTO public.content (user_id, title) VALUES ($1, $2)", crowd.id, TEXT)
    for refused in (
        await client.post("/api/export", json={"format": "json"}, headers=crowd.headers),
        await client.get("/api/export/stream?format=csv", headers=crowd.headers),
    ):
        problem = read_problem(refused, 422, "record_count", "limit", "suggestion", "ranges")
        assert problem["detail"] == "Export too large, please filter data"
        assert (problem["record_count"], problem["limit"]) == ("more than 100000", 100_000)
        assert "date ranges" in problem["suggestion"]
        assert sum(one["record_count"] for one in problem["ranges"]) == 100_002

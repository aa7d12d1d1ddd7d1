"""An export as its owner sees it. Other users can't see it."""

import uuid
from contextlib import ExitStack

import httpx
import pytest

from tests.api.conftest import ASYNC, VIEW
from tests.api.problems import read_problem, without_request_id
from tests.fleet.fleet import Fleet, Person, until_deleted, until_ended


async def ask(client: httpx.AsyncClient, person: Person, headers: dict[str, str] | None = None) -> str:
    """The `job_id` of a new export."""
    answer = await client.post("/api/export", json={"format": "csv"}, headers={**person.headers, **(headers or {})})
    assert answer.status_code in {201, 202}
    job_id: str = answer.json()["job_id"]
    return job_id


async def test_completed(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person = await fleet.create_person(7)
    view = (await client.get(f"/api/export/{await ask(client, person)}", headers=person.headers)).json()
    assert view.keys() == VIEW | {"download_url"}
    assert (view["status"], view["format"], view["record_count"]) == ("completed", "csv", 7)
    assert view["progress"] == {"records_done": 7, "records_total": 7}
    assert (len(view["sha256"]), view["error_message"], view["estimated_completion"]) == (64, None, None)
    assert view["created_at"] <= view["completed_at"] < view["expires_at"]


async def test_pending_and_cancelled(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person = await fleet.create_person(7)
    with fleet.workers_paused():
        job_id = await ask(client, person, ASYNC)
        path = f"/api/export/{job_id}"
        pending = (await client.get(path, headers=person.headers)).json()
        early = await client.get(f"{path}/download", headers=person.headers)
        deleted = await client.delete(path, headers=person.headers)
        failed = (await client.get(path, headers=person.headers)).json()
    assert pending.keys() == failed.keys() == VIEW
    assert (pending["status"], pending["record_count"], pending["sha256"]) == ("pending", None, None)
    assert pending["progress"] == {"records_done": 0, "records_total": 7}
    assert pending["estimated_completion"]
    assert read_problem(early, 409, "export_status")["detail"] == "This export has no file: it is pending"
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (failed["status"], failed["error_message"]) == ("failed", "cancelled by user")
    assert await fleet.actions_of(job_id) == [
        ("export:requested", "user", str(person.id)),
        ("export:cancelled", "user", str(person.id)),
        ("export:failed", "user", str(person.id)),
    ]
    read_problem(await client.get(f"{path}/download", headers=person.headers), 409, "export_status")


async def test_cancelled_while_a_worker_makes_it(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person = await fleet.create_person()
    with ExitStack() as paused:
        paused.enter_context(fleet.workers_paused())
        path = f"/api/export/{await ask(client, person, ASYNC)}"
        async with fleet.source_locked() as until_a_reader_waits:
            paused.close()
            await until_a_reader_waits()
            running = (await client.get(path, headers=person.headers)).json()
            deleted = await client.delete(path, headers=person.headers)
    assert (running["status"], deleted.status_code) == ("processing", 204)
    ended = (await client.get(path, headers=person.headers)).json()
    assert (ended["status"], ended["error_message"]) == ("failed", "cancelled by user")
    assert (await until_ended(client, person, await ask(client, person, ASYNC)))["status"] == "completed"


async def test_listed_newest_first(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person = await fleet.create_person(1)
    made = [await ask(client, person) for _ in range(5)]
    pages, path = [], "/api/export?limit=2"
    while path:
        page = (await client.get(path, headers=person.headers)).json()
        assert page.keys() == {"exports", "next"}
        pages.append([view["job_id"] for view in page["exports"]])
        path = page["next"]
    newest_first = made[::-1]
    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:]]
    everything = (await client.get("/api/export", headers=person.headers)).json()
    assert [view["job_id"] for view in everything["exports"]] == newest_first
    assert everything["exports"][0].keys() == VIEW | {"download_url"}
    nothing = (await client.get("/api/export", headers=(await fleet.create_person(1)).headers)).json()
    assert nothing == {"exports": [], "next": None}


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=x", "page=2", "limit=1&limit=2"])
async def test_pages_that_are_none(fleet: Fleet, client: httpx.AsyncClient, query: str) -> None:
    stranger = await fleet.sign_in(uuid.uuid4())
    read_problem(await client.get(f"/api/export?{query}", headers=stranger.headers), 400)


@pytest.mark.parametrize(
    ("method", "suffix"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/download"),
        ("GET", "/downloads"),
        ("GET", "/events"),
    ],
)
async def test_others_get_the_404_of_an_unknown_id(
    fleet: Fleet, client: httpx.AsyncClient, method: str, suffix: str
) -> None:
    owner, other = await fleet.create_person(), await fleet.create_person()
    job_id = await ask(client, owner)
    theirs = await client.request(method, f"/api/export/{job_id}{suffix}", headers=other.headers)
    unknown = await client.request(method, f"/api/export/{uuid.uuid4()}{suffix}", headers=other.headers)
    no_id = await client.request(method, f"/api/export/1{suffix}", headers=other.headers)
    assert read_problem(theirs, 404)["detail"] == "Export not found"
    assert without_request_id(theirs) == without_request_id(unknown) == without_request_id(no_id)
    assert (await fleet.actions_of(job_id))[3:] == [("export:denied", "user", str(other.id))]


async def test_events(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person = await fleet.create_person()
    with fleet.workers_paused():
        job_id = await ask(client, person, ASYNC)
    events = await client.get(f"/api/export/{job_id}/events", headers=person.headers)
    assert events.headers["content-type"].startswith("text/event-stream")
    assert events.text.endswith("event: end\ndata: {}\n\n")
    assert '"status":"completed"' in events.text


async def test_deleted(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person = await fleet.create_person()
    job_id = await ask(client, person)
    path = f"/api/export/{job_id}"
    link = (await client.get(path, headers=person.headers)).json()["download_url"]
    (file,) = fleet.bucket.rglob(f"{job_id}/*")
    assert (await client.delete(path, headers=person.headers)).status_code == 204
    for answer in (await client.get(link), await client.get(f"{path}/download", headers=person.headers)):
        assert read_problem(answer, 410)["detail"] == "This export's file is gone: it expired or was deleted"
    assert "download_url" not in (await client.get(path, headers=person.headers)).json()
    assert (await fleet.actions_of(job_id))[3:] == [("export:deleted", "user", str(person.id))]
    await until_deleted(file)

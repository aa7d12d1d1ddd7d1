"""POST /api/export, from the request to the mail."""

import asyncio
import datetime as dt
from collections import Counter

import httpx
import pytest

from service.formats import STREAMED_FORMATS
from tests.api.conftest import ASYNC, CSV, JSON
from tests.api.problems import read_problem
from tests.fleet.fleet import Fleet, Person, link_in, until_ended
from tests.support.documents import read_csv

WEEK = dt.timedelta(days=7)


async def post(
    client: httpx.AsyncClient, person: Person, body: object = CSV, headers: dict[str, str] | None = None
) -> httpx.Response:
    return await client.post("/api/export", json=body, headers={**person.headers, **(headers or {})})


async def test_the_balancer_takes_turns(fleet: Fleet, client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await client.get("/livez")
    assert len(set(fleet.balancer.taken[-2:])) == 2


@pytest.mark.parametrize("format_", STREAMED_FORMATS)
async def test_small(fleet: Fleet, client: httpx.AsyncClient, format_: str) -> None:
    person = await fleet.create_person(999)
    asked_at = dt.datetime.now(dt.UTC)
    response = await post(client, person, {"format": format_})
    made = response.json()
    assert response.status_code == 201
    assert made.keys() == {"job_id", "status", "download_url", "record_count", "expires_at"}
    assert (made["status"], made["record_count"]) == ("completed", 999)
    assert made["download_url"].startswith(f"{fleet.url}/api/export/{made['job_id']}/download?")
    assert abs(dt.datetime.fromisoformat(made["expires_at"]) - asked_at - WEEK) < dt.timedelta(minutes=5)
    assert await fleet.actions_of(made["job_id"]) == [
        ("export:requested", "user", str(person.id)),
        ("export:started", "system", None),
        ("export:completed", "system", None),
    ]


@pytest.mark.parametrize(("records", "headers"), [(1_000, {}), (5, ASYNC)])
async def test_queued(fleet: Fleet, client: httpx.AsyncClient, records: int, headers: dict[str, str]) -> None:
    person = await fleet.create_person(records)
    response = await post(client, person, headers=headers)
    accepted = response.json()
    assert response.status_code == 202
    assert accepted.keys() == {"job_id", "status", "estimated_records", "estimated_completion"}
    assert (accepted["status"], accepted["estimated_records"]) == ("pending", records)
    assert response.headers["location"] == f"/api/export/{accepted['job_id']}"
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers.get("preference-applied") == ("respond-async" if headers else None)

    view = await until_ended(client, person, accepted["job_id"])
    link = link_in(await fleet.mail_to(person))
    await fleet.until_done(accepted["job_id"], "export:emailed")
    assert (view["status"], view["record_count"], view["download_url"]) == ("completed", records, link)
    file = await client.get(link, follow_redirects=True)
    assert len(read_csv(file.text)) == records + 1
    assert [action for action, _, _ in await fleet.actions_of(accepted["job_id"])] == [
        "export:requested",
        "export:started",
        "export:completed",
        "export:emailed",
        "export:downloaded",
    ]


async def test_one_at_a_time(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person, another = await fleet.create_person(), await fleet.create_person()
    with fleet.workers_paused():
        answers = await asyncio.gather(*(post(client, person, headers=ASYNC) for _ in range(100)))
        other = await post(client, another, headers=ASYNC)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 99}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    for answer in answers:
        if answer.status_code == 409:
            problem = read_problem(answer, 409, "job_id", "estimated_completion")
            assert problem["detail"] == "Export already in progress"
            assert dt.datetime.fromisoformat(problem["estimated_completion"]).tzinfo
    assert other.status_code == 202
    assert (await until_ended(client, person, answers[0].json()["job_id"]))["status"] == "completed"
    assert (await post(client, person)).status_code == 201


async def test_idempotency_key(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person, another = await fleet.create_person(), await fleet.create_person()
    key = {"Idempotency-Key": "monthly"}
    with fleet.workers_paused():
        queued = [await post(client, person, headers=key | ASYNC) for _ in range(2)]
        refused = read_problem(await post(client, person, JSON, headers=key), 422, "job_id")
    made = [await post(client, another, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in queued + made] == [202, 202, 201, 201]
    assert queued[0].json()["job_id"] == queued[1].json()["job_id"] == refused["job_id"]
    assert made[0].json() == made[1].json()
    assert made[0].json()["job_id"] != refused["job_id"]
    await fleet.database.execute(
        "UPDATE carryout.export_jobs SET created_at = created_at - interval '1 day' WHERE user_id = $1", another.id
    )
    later = await post(client, another, JSON, headers=key)
    assert (later.status_code, later.json()["job_id"] == made[0].json()["job_id"]) == (201, False)


async def test_ten_an_hour(fleet: Fleet, client: httpx.AsyncClient) -> None:
    person = await fleet.create_person(1)
    accepted = [(await post(client, person)).status_code for _ in range(10)]
    refused = await post(client, person)
    assert accepted == [201] * 10
    assert read_problem(refused, 429)["detail"] == "At most 10 exports an hour"
    assert 3_000 < int(refused.headers["retry-after"]) <= 3_600
    assert (await post(client, await fleet.create_person(1))).status_code == 201

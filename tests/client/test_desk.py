"""`carryout requests`: what an operator at the desk types, and what they see."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from yarl import URL

from client import work
from client.console import Console
from client.errors import ExitCode
from client.options import Service
from service.access.api_keys import Scope
from tests.api.serving import Served
from tests.client.conftest import Doors
from tests.support import processes
from tests.support.factories import Connection, create_user
from tests.support.operators import create_key
from tests.support.processes import Ended, Run


@pytest.fixture
async def desk_key(served: Served, database: Connection) -> str:
    """One that may create and read."""
    scopes = (Scope.REQUESTS_CREATE, Scope.REQUESTS_READ)
    return await create_key(database, *scopes, name=f"support {UUID(int=served.port)}")


@pytest.fixture
def run(desk_key: str, doors: Doors) -> Run:
    async def ended(command: str, *options: str, key: str = desk_key) -> Ended:
        variables = {"CARRYOUT_API_KEY": key}
        return await processes.run(variables, "requests", command, "--url", doors.api.url, "--quiet", *options)

    return ended


def read(ended: Ended) -> list[dict[str, Any]]:
    assert (ended.status, ended.err) == (0, "")
    return [msgspec.json.decode(line) for line in ended.out.splitlines()]


async def test_from_the_letter_to_the_list(run: Run, database: Connection) -> None:
    first, second = [await create_user(database) for _ in range(2)]
    reason = "Your letter <b>of 27 February</b>"
    email = await database.fetchval("SELECT email FROM public.users WHERE id = $1", second)
    by_id = await run(
        "create", "--user-id", str(first), "--reason", reason, "--received-at", "2026-02-27", "--section", "activity"
    )
    assert (by_id.status, by_id.err) == (0, "")
    by_email = await run("create", "--email", email, "--reason", reason, "--format", "csv")
    assert by_email.status == 0
    jobs = [by_email.out.strip(), by_id.out.strip()]
    found = read(await run("list", "--json", "--limit", "2"))
    assert [one["job_id"] for one in found] == jobs
    assert [(one["user_id"], one["format"], one["reason"]) for one in found] == [
        (str(second), "csv", reason),
        (str(first), "zip", reason),
    ]
    assert (found[1]["due_at"], found[1]["filter"]["sections"]) == ("2026-03-27T00:00:00Z", ["activity"])
    header, *lines = (await run("list")).out.splitlines()
    assert header.split()[:4] == ["job", "user", "status", "requested"]
    assert lines[0].startswith(f"{jobs[0]}  {second}  pending  support ")
    shown = await run("show", jobs[1], "--json")
    assert read(shown) == [found[1]]
    assert f"reason         {reason}" in (await run("show", jobs[1])).out


async def test_a_list_goes_on_over_pages(
    desk_key: str, doors: Doors, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MAX_PAGE_SIZE", 2)
    service = Service(URL(doors.api.url), Console(quiet=True), {"X-API-Key": desk_key})
    created = []
    for number in range(5):
        body = {"user_id": str(await create_user(database)), "format": "csv", "reason": "A letter"}
        created.append((await work.create_request(service, body, f"ticket-{number}"))["job_id"])
    assert [one["job_id"] for one in await work.list_requests(service, 5)] == created[::-1]
    assert [one["job_id"] for one in await work.list_requests(service, 1)] == created[:3:-1]


async def test_a_repeated_key_makes_one_request(run: Run, database: Connection) -> None:
    options = ["--user-id", str(await create_user(database)), "--reason", "A letter", "--idempotency-key", "ticket-1"]
    first, again = [await run("create", *options) for _ in range(2)]
    assert (first.status, again.out) == (0, first.out)


async def test_a_refusal_is_one_sentence(run: Run, database: Connection) -> None:
    user_id = str(await create_user(database))
    unnamed = await run("create", "--reason", "A letter")
    assert unnamed.status == ExitCode.REFUSED
    assert unnamed.err.startswith("carryout: Name the user by user_id or by email: give one of them")
    other = await create_key(database, Scope.REQUESTS_DOWNLOAD, name=f"other {user_id}")
    denied = await run("create", "--user-id", user_id, "--reason", "A letter", key=other)
    assert denied.status == ExitCode.NOT_AUTHORISED
    assert "lacks the scope requests:create" in denied.err

"""The operators' lists, with keys and flags as the command makes and switches them."""

import asyncio
import csv
import io
import json

import httpx
import pytest

from tests.api.problems import read_problem
from tests.fleet.conftest import Keys
from tests.fleet.fleet import TEXT, Fleet, Person, until
from tests.support.factories import CANARY

EXPORT, EXPORT_FULL = "/api/v1/users/export", "/api/v1/users/export-full"
ALIVE, SIMPLE = "/api/v1/users/export-alive", "/api/v1/users/export-simple"
HEADERS = {
    EXPORT: "id,email,name\r\n",
    EXPORT_FULL: "id,email,name,created_at,updated_at,is_active,is_admin\r\n",
}
FILES = {EXPORT: "users_export.csv", EXPORT_FULL: "users_full_export.csv"}
OPEN = {ALIVE: b'{"status":"users export alive"}', SIMPLE: b'{"users":"export simple status"}'}
FLAGS = {
    EXPORT: "users:export",
    EXPORT_FULL: "users:export_full",
    ALIVE: "users:export_alive",
    SIMPLE: "users:export_simple",
}
WRONG_QUERIES = {
    "format=json": "Unsupported format. Only 'csv' is supported.",
    "format=": "Unsupported format. Only 'csv' is supported.",
    "limit=1": "Unknown query parameter: limit",
    "email=a&email=b": "Query parameter given more than once: email",
    "after=x": "after must be the id of the last row received",
}


@pytest.fixture(scope="module")
async def person(fleet: Fleet) -> Person:
    return await fleet.create_person(1)


def read(response: httpx.Response) -> list[list[str]]:
    """The rows below the header."""
    return list(csv.reader(io.StringIO(response.text, newline="")))[1:]


@pytest.mark.parametrize("path", [EXPORT, EXPORT_FULL])
async def test_lists(fleet: Fleet, client: httpx.AsyncClient, keys: Keys, person: Person, path: str) -> None:
    query = "SELECT internal_id FROM public.users WHERE id = $1"
    internal_id = await fleet.database.fetchval(query, person.id)
    everybody = [str(row[0]) for row in await fleet.database.fetch("SELECT internal_id FROM public.users ORDER BY 1")]
    headers = keys.standard if path == EXPORT else keys.full
    response = await client.get(path, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == f'attachment; filename="{FILES[path]}"'
    assert response.headers["cache-control"] == "private, no-store"
    assert response.text.startswith(HEADERS[path])
    assert CANARY not in response.text
    assert [row[0] for row in read(response)] == everybody

    (alone,) = read(await client.get(path, params={"format": "CSV", "email": person.email}, headers=headers))
    assert alone[:3] == [str(internal_id), person.email, TEXT]
    assert alone[5:] == ([] if path == EXPORT else ["true", "false"])
    assert read(await client.get(path, params={"email": person.email.upper()}, headers=headers)) == []
    later = await client.get(path, params={"after": everybody[0]}, headers=headers)
    assert (later.text.startswith(HEADERS[path]), [row[0] for row in read(later)]) == (True, everybody[1:])
    head = await client.head(path, headers=headers)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-disposition"] == response.headers["content-disposition"]


async def test_trail(fleet: Fleet, client: httpx.AsyncClient, keys: Keys, person: Person) -> None:
    request_id = "nightly.1"
    headers = keys.both | {"X-Request-ID": request_id, "User-Agent": "backup/1"}
    await client.get(EXPORT, params={"email": person.email}, headers=headers)
    events = (
        "SELECT action, actor_type, actor, subject, records, outcome, host(ip), user_agent"
        " FROM carryout.export_audit WHERE request_id = $1 ORDER BY id"
    )

    async def find() -> list[tuple[object, ...]] | None:
        found = [tuple(row) for row in await fleet.database.fetch(events, request_id)]
        return found if len(found) == 2 else None

    who = ("key", keys.both["X-API-Key"].split("_")[1], "users/export")
    whence = ("127.0.0.1", "backup/1")
    assert await until(find) == [
        ("users:export_started", *who, None, "one e-mail address", *whence),
        ("users:exported", *who, 1, "complete", *whence),
    ]


@pytest.mark.parametrize("path", [EXPORT, EXPORT_FULL])
async def test_a_request_without_a_right_key_is_refused(
    fleet: Fleet, client: httpx.AsyncClient, keys: Keys, path: str
) -> None:
    right = keys.both["X-API-Key"]
    assert (await client.get(path, headers={"Authorization": f"Bearer {right}"})).status_code == 200
    wrong: list[dict[str, str]] = [
        {},
        {"X-API-Key": right[:-1] + ("A" if right[-1] != "A" else "B")},
        {"X-API-Key": "x"},
        {"Authorization": f"Basic {right}"},
        (await fleet.create_person(1)).headers,
    ]
    for response in await asyncio.gather(*(client.get(path, headers=headers) for headers in wrong)):
        assert read_problem(response, 401)["detail"] == "Invalid or missing API key"
        assert response.headers["www-authenticate"] == "Bearer"


async def test_no_scope_includes_another(client: httpx.AsyncClient, keys: Keys) -> None:
    for path, headers in ((EXPORT_FULL, keys.standard), (EXPORT, keys.full)):
        problem = read_problem(await client.get(path, headers=headers), 403)
        assert problem["detail"] == f"This API key lacks the scope {FLAGS[path]}"


@pytest.mark.parametrize("query", WRONG_QUERIES)
async def test_wrong_queries(client: httpx.AsyncClient, keys: Keys, query: str) -> None:
    for path in (EXPORT, EXPORT_FULL):
        problem = read_problem(await client.get(f"{path}?{query}", headers=keys.both), 400)
        assert problem["detail"] == WRONG_QUERIES[query]


@pytest.mark.parametrize("path", [ALIVE, SIMPLE])
async def test_open_ones_need_no_key(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert (response.status_code, response.content) == (200, OPEN[path])
    read_problem(await client.get(f"{path}?format=csv"), 400)


async def test_a_revoked_key_is_refused_at_once(fleet: Fleet, client: httpx.AsyncClient) -> None:
    text = await fleet.run("keys", "create", "short-lived", "--scope", "users:export", "--expires-in-days", "1")
    headers = {"X-API-Key": text.strip()}
    before = [(await client.head(EXPORT, headers=headers)).status_code for _ in range(2)]
    listed = await fleet.run("keys", "list")
    await fleet.run("keys", "revoke", "short-lived")
    after = [(await client.head(EXPORT, headers=headers)).status_code for _ in range(2)]
    assert (before, after) == ([200, 200], [401, 401])
    _, prefix, secret = text.strip().split("_", 2)
    assert f"{prefix}  short-lived  active" in listed
    trail = await fleet.run("audit", "--since", "1h", "--json")
    events = [json.loads(line) for line in trail.splitlines() if prefix in line]
    assert [(event["actor_type"], event["action"], event["outcome"]) for event in events] == [
        ("system", "keys:created", "users:export"),
        ("system", "keys:revoked", None),
        ("key", "users:denied", "revoked"),
    ]
    assert secret not in listed + trail


async def test_flags_are_switched_without_a_restart(fleet: Fleet, client: httpx.AsyncClient, keys: Keys) -> None:
    await switch(fleet, client, keys, "disable", 403)
    for path in FLAGS:
        problem = read_problem(await client.get(path, headers=keys.both), 403)
        assert problem["detail"] == "Export feature not enabled"
    read_problem(await client.get(EXPORT), 401)  # the credentials are checked first
    assert (await fleet.run("features", "list")).count("switched") == len(FLAGS)
    await switch(fleet, client, keys, "enable", 200)


async def switch(fleet: Fleet, client: httpx.AsyncClient, keys: Keys, command: str, status: int) -> None:
    """All flags, and wait until that has come to both processes."""
    await asyncio.gather(*(fleet.run("features", command, flag) for flag in FLAGS.values()))

    async def has_come() -> bool:
        answers = [await client.head(path, headers=keys.both) for path in FLAGS for _ in range(2)]
        return {answer.status_code for answer in answers} == {status}

    await until(has_come)

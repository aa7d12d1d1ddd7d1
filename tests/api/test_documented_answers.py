"""Every answer that the document names, given by real servers: as documented, example by example."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TypeAlias
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from service.access.api_keys import Scope, list_permission
from service.access.flags import Flag, open_flags
from service.access.tokens import MAX_TOKEN_CHARACTERS
from service.api.app import create_app
from service.api.events import MAX_WATCHERS, MAX_WATCHERS_PER_USER, Watchers
from service.api.listings import create_shares
from service.backends.database import open_pool
from service.export_spec import ExportSpec
from service.exports import attempts
from service.exports.admission import ACCEPTED_PER_MADE
from service.formats import Format
from service.mutex import Shares
from service.resources import Resources
from service.settings import Settings
from tests.api.conftest import ASYNC, CSV, JSON, UNKNOWN_ID
from tests.api.lists.conftest import ALIVE, EXPORT, EXPORT_FULL, SIMPLE
from tests.api.problems import bearer
from tests.api.serving import serve
from tests.api.witness import Witness, documented
from tests.conftest import PUBLIC_URL, Token, on_database, patient_client
from tests.support.factories import Connection, create_user_with
from tests.support.operators import create_key
from worker.running import run_export

EXPORTS = "/api/export"
REQUESTS = "/api/v1/requests"
DESK = {
    ("POST", REQUESTS): Scope.REQUESTS_CREATE,
    ("GET", REQUESTS): Scope.REQUESTS_READ,
    ("GET", f"{REQUESTS}/{UNKNOWN_ID}"): Scope.REQUESTS_READ,
    ("GET", f"{REQUESTS}/{UNKNOWN_ID}/download"): Scope.REQUESTS_DOWNLOAD,
    ("HEAD", f"{REQUESTS}/{UNKNOWN_ID}/download"): Scope.REQUESTS_DOWNLOAD,
}
STREAM = "/api/export/stream"
INSERT_KEPT_FILES = """
INSERT INTO carryout.export_jobs (user_id, format, status, queued, created_at, estimated_records, completed_at,
  record_count, file_url, size_bytes, sha256, expires_at)
SELECT $1, 'csv', 'completed', false, now() - interval '1 day', 1, now() - interval '1 day',
  1, 's3://bucket/key', 1, sha256(''), now() + interval '1 day'
FROM generate_series(1, $2::int)
"""
INSERT_STREAM = """
INSERT INTO carryout.export_audit (actor_type, actor, action, user_id)
VALUES ('user', 'x', 'export:stream_started', $1)
"""
NONE_ENABLED = [*(f"-{flag}" for flag in Flag), "-lists:users", "-lists:activity"]
SCOPES = {EXPORT: Scope.USERS_EXPORT, EXPORT_FULL: Scope.USERS_EXPORT_FULL}
MAX_RECORDS = 50
INSERT_ENDED_EXPORTS = """
INSERT INTO carryout.export_jobs
  (user_id, format, status, queued, estimated_records, completed_at, error_message, started_at, failures)
SELECT $1, 'csv', 'failed', true, 1, now(), 'failed', now(), $2
FROM generate_series(1, $3::int)
"""

Headers: TypeAlias = dict[str, str]


@dataclass(frozen=True)
class World:
    """Clients of APIs that stand differently: well; sending files themselves; with all lists switched off; with none
    set up; about to stop and busy with wrong keys; without PostgreSQL; and broken.
    """

    api: httpx.AsyncClient
    proxy: httpx.AsyncClient
    off: httpx.AsyncClient
    bare: httpx.AsyncClient
    busy: httpx.AsyncClient
    down: httpx.AsyncClient
    broken: httpx.AsyncClient
    resources: Resources
    database: Connection
    token: Token
    watchers: Watchers
    list_shares: Shares
    """Those of the busy API."""

    async def user(self, records: int = 1) -> tuple[UUID, Headers]:
        """A user, and what proves that they ask."""
        user_id = await create_user_with(self.database, records)
        return user_id, bearer(self.token(user_id))


@pytest.fixture
def settings(common_settings: Settings, database_url: str) -> Settings:
    limited = msgspec.structs.replace(common_settings, max_export_records=MAX_RECORDS, small_export_records=MAX_RECORDS)
    return on_database(limited, database_url)


@pytest.fixture
async def witness(api: httpx.AsyncClient) -> Witness:
    return Witness((await api.get("/openapi.json")).json())


@pytest.fixture
async def world(resources: Resources, database: Connection, token: Token, witness: Witness) -> AsyncIterator[World]:
    settings = resources.settings
    async with open_pool(settings.database_url, size=1, application_name="closed") as closed:
        pass
    watchers = Watchers()
    shares = create_shares(msgspec.structs.replace(settings, list_pool_size=2))
    # Another text for the same database: the document's example is of one of two that is away.
    apart = msgspec.structs.replace(settings, source_database_url=f"{settings.source_database_url}?")
    proxying = msgspec.structs.replace(settings, download_mode="proxy")
    async with (
        open_flags(settings.database_url, NONE_ENABLED, resources.operator_lists) as flags,
        _client(resources, witness) as api,
        _client(replace(resources, settings=proxying), witness) as proxy,
        _client(replace(resources, flags=flags), witness) as off,
        _client(replace(resources, user_lists={}, user_search=None), witness) as bare,
        _client(
            resources, witness, draining=True, wrong_keys=asyncio.Semaphore(0), watchers=watchers, list_shares=shares
        ) as busy,
        _client(replace(resources, settings=apart, database=closed), witness) as down,
        _client(resources, witness, resources=None, servers=None) as broken,
    ):
        yield World(api, proxy, off, bare, busy, down, broken, resources, database, token, watchers, shares)


@asynccontextmanager
async def _client(resources: Resources, witness: Witness, /, **state: object) -> AsyncIterator[httpx.AsyncClient]:
    """`state` replaces what the app has of that name."""
    app = create_app(resources)
    for name, value in state.items():
        setattr(app.state, name, value)
    async with serve(app) as served, patient_client(served) as client:
        client.event_hooks["response"].append(witness)
        yield client


async def test_every_documented_answer_is_given(world: World, witness: Witness) -> None:
    expected = set(documented((await world.api.get("/openapi.json")).json()))
    for ask in (ask_for_exports, refuse_exports, watch_exports, download, stream, list_users, operate, read_reference):
        await ask(world)
    for ask in (use_desk, refuse_requests, download_requests, refuse_keys_of_the_desk):
        await ask(world)
    await refuse_tokens(world, witness)
    await fail_everywhere(world, witness)
    assert sorted(expected - witness.seen) == []
    assert sorted(witness.seen - expected) == []


async def ask_for_exports(world: World) -> None:
    _, user = await world.user(3)
    created = await world.api.post(EXPORTS, json=CSV, headers=user)
    assert created.status_code == 201
    key = {"Idempotency-Key": "once", **ASYNC, **user}
    queued = await world.api.post(EXPORTS, json=CSV, headers=key)
    assert queued.status_code == 202
    await world.api.post(EXPORTS, json=CSV, headers=user)
    await world.api.delete(queued.headers["location"], headers=user)
    assert (await world.api.post(EXPORTS, json=CSV, headers=key)).status_code == 200
    await world.api.post(EXPORTS, json=JSON, headers=key)


async def refuse_exports(world: World) -> None:
    user_id, user = await world.user(2)
    json_type = {"Content-Type": "application/json", **user}
    await world.api.post(EXPORTS, content=b"{", headers=json_type)
    await world.api.post(EXPORTS, content=b"{}", headers=user)
    await world.api.post(EXPORTS, content=b" " * 20_000, headers=json_type)
    await world.api.post(EXPORTS, json={"format": "xml"}, headers=user)
    await world.api.post(EXPORTS, json={"format": "csv", "sections": ["orders"]}, headers=user)
    await world.api.post(f"{EXPORTS}?page=2", json=CSV, headers=user)
    await world.api.post(EXPORTS, json=CSV)
    await world.api.post(EXPORTS, json=CSV, headers=bearer(world.token(UNKNOWN_ID)))
    _, large = await world.user(MAX_RECORDS + 1)
    await world.api.post(EXPORTS, json=CSV, headers=large)
    keeper_id, keeper = await world.user(2)
    await world.database.execute(INSERT_KEPT_FILES, keeper_id, world.resources.settings.kept_files)
    await world.api.post(EXPORTS, json=CSV, headers=keeper)
    per_hour = world.resources.settings.exports_per_hour
    await world.database.execute(INSERT_ENDED_EXPORTS, user_id, 0, per_hour)
    await world.api.post(EXPORTS, json=CSV, headers=user)
    failed_id, failed = await world.user(2)
    await world.database.execute(INSERT_ENDED_EXPORTS, failed_id, 1, per_hour * ACCEPTED_PER_MADE)
    await world.api.post(EXPORTS, json=CSV, headers=failed)


async def watch_exports(world: World) -> None:
    user_id, user = await world.user()
    path = (await world.api.post(EXPORTS, json=CSV, headers=user)).headers["location"]
    for url in (EXPORTS, f"{EXPORTS}/sections", f"{EXPORTS}/schema", path, f"{path}/events", f"{path}/downloads"):
        await world.api.get(url, headers=user)
        await world.api.get(f"{url}?page=2", headers=user)
        await world.api.get(url)
    unknown = f"{EXPORTS}/{UNKNOWN_ID}"
    for url in (unknown, f"{unknown}/events", f"{unknown}/downloads"):
        await world.api.get(url, headers=user)
    with ExitStack() as watching:
        for watcher in [user_id] * MAX_WATCHERS_PER_USER:
            watching.enter_context(world.watchers.admit(watcher))
        await world.busy.get(f"{path}/events", headers=user)
    with ExitStack() as watching:
        for _ in range(MAX_WATCHERS):
            watching.enter_context(world.watchers.admit(uuid4()))
        await world.busy.get(f"{path}/events", headers=user)
    for url, headers in ((f"{path}?page=2", user), (path, {}), (unknown, user), (path, user)):
        await world.api.delete(url, headers=headers)


async def download(world: World) -> None:
    _, user = await world.user(3)
    for body in ({"format": format_} for format_ in Format):
        created = await world.api.post(EXPORTS, json=body, headers=user)
        location = created.headers["location"]
        if created.status_code == HTTPStatus.ACCEPTED:
            await run_export(world.resources, UUID(created.json()["job_id"]))
        path = f"{location}/download"
        link = (await world.api.get(location, headers=user)).json()["download_url"].removeprefix(PUBLIC_URL)
        await world.api.get(link)
        for headers in (
            {},
            {"Range": "bytes=0-9"},
            {"Range": "bytes=99999-"},
            {"If-Match": '"x"'},
            {"If-None-Match": "*"},
        ):
            await world.proxy.get(link, headers=headers)
            await world.api.head(link, headers=headers)
    await world.api.delete(created.headers["location"], headers=user)
    queued = await world.api.post(EXPORTS, json=CSV, headers={**ASYNC, **user})
    for url, headers in (
        (path, {}),
        (link, {}),
        (f"{queued.headers['location']}/download", user),
        (f"{EXPORTS}/{UNKNOWN_ID}/download", user),
        (f"{EXPORTS}/%7B{UNKNOWN_ID}%7D/download", user),
    ):
        await world.api.get(url, headers=headers)
        await world.api.head(url, headers=headers)


async def stream(world: World) -> None:
    user_id, user = await world.user(3)
    documents = ("format=csv&bom=1", "format=json", "format=ndjson", "format=xlsx")
    for query in (*documents, "format=json&bom=1", "format=csv&page=2", "format=zip"):
        await world.api.get(f"{STREAM}?{query}", headers=user)
    csv = f"{STREAM}?format=csv"
    await world.api.get(f"{csv}&sections=orders", headers=user)
    await world.api.get(csv)
    await world.api.get(csv, headers=bearer(world.token(UNKNOWN_ID)))
    _, large = await world.user(MAX_RECORDS + 1)
    await world.api.get(csv, headers=large)
    async with attempts.open_user_document(world.resources, ExportSpec(user_id, Format.CSV), exclusive=True):
        await world.api.get(csv, headers=user)
    for _ in range(world.resources.settings.streams_per_hour):
        await world.database.execute(INSERT_STREAM, user_id)
    await world.api.get(csv, headers=user)


async def list_users(world: World) -> None:
    for path, scope in SCOPES.items():
        allowed = {"X-API-Key": await create_key(world.database, scope, name=f"may {path}")}
        others = [other for other in Scope if other is not scope]
        forbidden = {"X-API-Key": await create_key(world.database, *others, name=f"may not {path}")}
        for query in ("?format=CSV&after=0", "?guard=none", "?format=xml", "?email=a+b@example.org", "?page=2"):
            await world.api.get(f"{path}{query}", headers=allowed)
        await world.api.get(path, headers=forbidden)
        key_id = await world.database.fetchval("SELECT id FROM carryout.api_keys WHERE name = $1", f"may {path}")
        with world.list_shares.take(key_id):
            await world.busy.get(path, headers=allowed)
        await world.api.get(path)
        await world.off.get(path, headers=allowed)
        await world.bare.get(path, headers=allowed)
        await world.busy.get(path, headers={"X-API-Key": "wrong"})
    for name in world.resources.operator_lists:
        await _list_own(world, f"/api/v1/lists/{name}", list_permission(name))
    for path in (ALIVE, SIMPLE):
        await world.api.get(path)
        await world.api.get(f"{path}?page=2")
        await world.off.get(path)


async def use_desk(world: World) -> None:
    key = {"X-API-Key": await create_key(world.database, name="desk"), "Idempotency-Key": "once"}
    user_id, user = await world.user(3)
    body = CSV | {"user_id": str(user_id), "reason": "A letter"}
    asked = await world.api.post(REQUESTS, json=body, headers=key)
    assert asked.status_code == 202
    await world.api.post(REQUESTS, json=body, headers={"X-API-Key": key["X-API-Key"]})  # it is still running
    await world.api.post(REQUESTS, json=JSON | {"user_id": str(user_id), "reason": "A letter"}, headers=key)
    await world.api.delete(f"{EXPORTS}/{asked.json()['job_id']}", headers=user)
    assert (await world.api.post(REQUESTS, json=body, headers=key)).status_code == 200
    for path in (REQUESTS, f"{REQUESTS}/{asked.json()['job_id']}", f"{REQUESTS}/{UNKNOWN_ID}"):
        await world.api.get(path, headers=key)


async def refuse_requests(world: World) -> None:
    key = {"X-API-Key": await create_key(world.database, name="refused")}
    json_type = {"Content-Type": "application/json", **key}
    user_id, _ = await world.user(2)
    named = CSV | {"reason": "A letter", "user_id": str(user_id)}
    by_email = CSV | {"reason": "A letter", "email": "grace@example.org"}
    await world.api.post(REQUESTS, content=b"{", headers=json_type)
    await world.api.post(REQUESTS, content=b"{}", headers=key)
    await world.api.post(REQUESTS, content=b" " * 20_000, headers=json_type)
    refused = (
        CSV,
        CSV | {"reason": "A letter"},
        by_email,
        named | {"reason": "two\nlines"},
        named | {"received_at": "9999-01-01"},
        named | {"sections": ["orders"]},
        named | {"user_id": str(UNKNOWN_ID)},
    )
    for body in refused:
        await world.api.post(REQUESTS, json=body, headers=key)
    await world.bare.post(REQUESTS, json=by_email, headers=key)
    await world.database.execute("ALTER TABLE public.users DROP CONSTRAINT IF EXISTS users_email_key")
    for email in ("grace@example.org", "grace@example.org", ""):
        other_id, _ = await world.user()
        await world.database.execute("UPDATE public.users SET email = $2 WHERE id = $1", other_id, email)
    await world.api.post(REQUESTS, json=by_email, headers=key)
    await world.api.post(REQUESTS, json=named | {"user_id": str(other_id)}, headers=key)
    large_id, _ = await world.user(MAX_RECORDS + 1)
    await world.api.post(REQUESTS, json=named | {"user_id": str(large_id)}, headers=key)
    keeper_id, _ = await world.user(2)
    await world.database.execute(INSERT_KEPT_FILES, keeper_id, world.resources.settings.kept_files)
    await world.api.post(REQUESTS, json=named | {"user_id": str(keeper_id)}, headers=key)
    per_hour = world.resources.settings.exports_per_hour
    await world.database.execute(INSERT_ENDED_EXPORTS, user_id, 0, per_hour)
    await world.api.post(REQUESTS, json=named, headers=key)
    failed_id, _ = await world.user(2)
    await world.database.execute(INSERT_ENDED_EXPORTS, failed_id, 1, per_hour * ACCEPTED_PER_MADE)
    await world.api.post(REQUESTS, json=named | {"user_id": str(failed_id)}, headers=key)


async def download_requests(world: World) -> None:
    key = {"X-API-Key": await create_key(world.database, name="downloads")}
    for format_ in Format:
        user_id, user = await world.user(3)
        body = {"format": format_, "user_id": str(user_id), "reason": "A letter"}
        path = (await world.api.post(REQUESTS, json=body, headers=key)).headers["location"].removeprefix("/carryout")
        job_id = path.rpartition("/")[2]
        for ask in (world.api.get, world.api.head):
            await ask(f"{path}/download", headers=key)
        await run_export(world.resources, UUID(job_id))
        await world.api.get(f"{path}/download", headers=key)
        for headers in (
            {},
            {"Range": "bytes=0-9"},
            {"Range": "bytes=99999-"},
            {"If-Match": '"x"'},
            {"If-None-Match": "*"},
        ):
            await world.proxy.get(f"{path}/download", headers=key | headers)
            await world.api.head(f"{path}/download", headers=key | headers)
    await world.api.delete(f"{EXPORTS}/{job_id}", headers=user)
    for ask in (world.api.get, world.api.head):
        await ask(f"{path}/download", headers=key)
        await ask(f"{REQUESTS}/{UNKNOWN_ID}/download", headers=key)


async def refuse_keys_of_the_desk(world: World) -> None:
    for number, ((method, path), scope) in enumerate(DESK.items()):
        others = [other for other in Scope if other is not scope]
        lacking = {"X-API-Key": await create_key(world.database, *others, name=f"lacks {number}")}
        whole = {"X-API-Key": await create_key(world.database, name=f"whole {number}")}
        body = CSV if method == "POST" else None
        await world.api.request(method, path, json=body)
        await world.api.request(method, path, json=body, headers=lacking)
        await world.api.request(method, f"{path}?page=2", json=body, headers=whole)
        await world.off.request(method, path, json=body, headers=whole)
        await world.busy.request(method, path, json=body, headers={"X-API-Key": "wrong"})


async def _list_own(world: World, path: str, scope: str) -> None:
    allowed = {"X-API-Key": await create_key(world.database, scope, name=f"may {path}")}
    forbidden = {"X-API-Key": await create_key(world.database, *Scope, name=f"may not {path}")}
    for query in ("format=CSV", "format=json", "format=ndjson", "format=xlsx", "guard=none", "format=xml", "page=2"):
        await world.api.get(f"{path}?{query}", headers=allowed)
    await world.api.get(f"{path}?updated_since=yesterday", headers=allowed)
    await world.api.get(path, headers=forbidden)
    key_id = await world.database.fetchval("SELECT id FROM carryout.api_keys WHERE name = $1", f"may {path}")
    with world.list_shares.take(key_id):
        await world.busy.get(path, headers=allowed)
    await world.api.get(path)
    await world.off.get(path, headers=allowed)
    await world.busy.get(path, headers={"X-API-Key": "wrong"})


async def operate(world: World) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        await world.api.get(path)
    await world.api.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    await world.api.get("/readyz?exclude=mail")
    await world.api.get("/readyz?page=2")
    await world.busy.get("/readyz")


async def read_reference(world: World) -> None:
    for path in ("/openapi.json", "/docs"):
        etag = (await world.api.get(path)).headers["etag"]
        await world.api.get(path, headers={"If-None-Match": etag})
        await world.api.get(path, headers={"If-Match": '"other"'})


async def refuse_tokens(world: World, witness: Witness) -> None:
    """One that is too large, to each operation that takes one."""
    operations = {(method, path) for method, path, status, _ in documented(witness.document) if status == "431"}
    for method, path in sorted(operations):
        body = CSV if method == "POST" else None
        url = path.replace("{job_id}", str(UNKNOWN_ID))
        await world.api.request(method, url, json=body, headers=bearer("a" * (MAX_TOKEN_CHARACTERS + 1)))


async def fail_everywhere(world: World, witness: Witness) -> None:
    """Each operation that depends on something, once without PostgreSQL and once with a fault of the API's own."""
    _, user = await world.user()
    headers = {"X-API-Key": await create_key(world.database, name="down"), **user}
    operations = {(method, path) for method, path, status, _ in documented(witness.document) if status == "500"}
    for method, path in sorted(operations):
        url = path.replace("{job_id}", str(UNKNOWN_ID))
        body = CSV if method == "POST" else None
        query = {"format": "csv"} if path == STREAM else {}
        for client in (world.down, world.broken):
            await client.request(method, url, json=body, params=query, headers=headers)

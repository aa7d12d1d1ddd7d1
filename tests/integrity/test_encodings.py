"""A database not in UTF-8: an id that it can't hold belongs to no user, and no client's text causes a 500."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path
from uuid import UUID

import httpx
import msgspec
import pytest

from devstack.stack import Stack
from service.access.tokens import create_token
from service.backends.database import Connection, connect
from service.errors import ConfigurationError
from service.mails.sending import send_due_mails
from service.resources import Resources, open_resources
from service.settings import Settings
from tests.api.problems import bearer
from tests.conftest import PUBLIC_URL
from tests.sql.databases import migrate_as_owner, open_database, serving_url, with_text_ids
from tests.support import processes
from worker.erasure import end_erased
from worker.running import run_export

KNOWN, FOREIGN, STRANGER = "ren\u00e9", "\u0416", "unknown"
CSV = {"format": "csv"}
PROFILE = "SELECT id, email FROM public.members WHERE id = $1"
UNKNOWN_JOB = "01234567-89ab-4def-8123-456789abcdef"
FOREIGN_AGENT = "Br\u00f6wser \u0096"  # in Latin-1: headers may have any bytes


def in_encoding(name: str) -> str:
    return f"ENCODING '{name}' LOCALE 'C' TEMPLATE template0"


async def fill(stack: Stack, url: str) -> None:
    await migrate_as_owner(stack, url, "text")
    async with connect(url) as connection:
        await connection.execute("CREATE TABLE public.members (id text PRIMARY KEY, email text NOT NULL)")
        await connection.execute("INSERT INTO public.members VALUES ($1, 'rene@example.com')", KNOWN)


@pytest.fixture(params=["LATIN1", "SQL_ASCII", "EUC_JIS_2004"])
def encoding(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def url(stack: Stack, encoding: str) -> AsyncIterator[str]:
    async with open_database(stack.admin_url, in_encoding(encoding)) as url:
        await fill(stack, url)
        yield url


@pytest.fixture
def settings(stack: Stack, common_settings: Settings, url: str, tmp_path: Path) -> Settings:
    (tmp_path / "profile.sql").write_text(PROFILE)
    return with_text_ids(common_settings, stack, url, datasets=tmp_path)


@pytest.fixture
async def bookkeeping(url: str) -> AsyncIterator[Connection]:
    async with connect(url) as connection:
        yield connection


@pytest.fixture
def foreign(encoding: str) -> str:
    """An id that the database can't hold; SQL_ASCII holds any."""
    return "\U0001f680" if encoding == "EUC_JIS_2004" else FOREIGN


def signed_in(settings: Settings, user_id: str, **headers: str) -> httpx.Headers:
    given = {**bearer(create_token(settings, user_id, 60)), "User-Agent": FOREIGN_AGENT, **headers}
    return httpx.Headers(given, encoding="latin-1")


async def answers(api: httpx.AsyncClient, settings: Settings, user_id: str) -> list[tuple[int, object]]:
    """To every call that a user may make."""
    headers = signed_in(settings, user_id)
    job = f"/api/export/{UNKNOWN_JOB}"
    given = [
        await api.post("/api/export", json=CSV, headers=headers),
        await api.post("/api/export", json=CSV, headers=signed_in(settings, user_id, **{"Idempotency-Key": "once"})),
        await api.post("/api/export", json=CSV, headers=signed_in(settings, user_id, Prefer="respond-async")),
        await api.get("/api/export", headers=headers),
        await api.get("/api/export/stream?format=csv", headers=headers),
        await api.delete(job, headers=headers),
        *[await api.get(job + path, headers=headers) for path in ("", "/events", "/downloads", "/download")],
    ]
    return [(answer.status_code, {**answer.json(), "request_id": None}) for answer in given]


async def test_a_user_it_cannot_hold_is_unknown(api: httpx.AsyncClient, settings: Settings, foreign: str) -> None:
    as_foreign, as_stranger = [await answers(api, settings, user_id) for user_id in (foreign, STRANGER)]
    assert as_foreign == as_stranger
    assert [status for status, _ in as_foreign] == [404, 404, 404, 200, 404, 404, 404, 404, 404, 404]


async def test_a_user_it_holds_is_served(
    api: httpx.AsyncClient, settings: Settings, resources: Resources, bookkeeping: Connection
) -> None:
    headers = signed_in(settings, KNOWN)
    created = await api.post("/api/export", json=CSV, headers=headers)
    assert created.status_code == HTTPStatus.CREATED, created.text
    streamed = await api.get("/api/export/stream?format=csv", headers=headers)
    assert KNOWN in streamed.text
    queued = await api.post("/api/export", json=CSV, headers=signed_in(settings, KNOWN, Prefer="respond-async"))
    await run_export(resources, UUID(queued.json()["job_id"]))
    listed = (await api.get("/api/export", headers=headers)).json()["exports"]
    assert [export["status"] for export in listed] == ["completed", "completed"]
    await bookkeeping.execute("UPDATE carryout.export_jobs SET created_at = created_at - interval '6 minutes'")
    await end_erased(resources)
    assert not await bookkeeping.fetchval("SELECT bool_or(subject_missing) FROM carryout.export_jobs")
    agents = await bookkeeping.fetch("SELECT DISTINCT user_agent FROM carryout.export_audit WHERE actor_type = 'user'")
    assert all("wser" in row["user_agent"] for row in agents)


async def test_a_stranger_it_cannot_hold_leaves_a_trace(
    api: httpx.AsyncClient, settings: Settings, bookkeeping: Connection, foreign: str, encoding: str
) -> None:
    created = await api.post("/api/export", json=CSV, headers=signed_in(settings, KNOWN))
    job_id = created.json()["job_id"]
    headers = signed_in(settings, foreign)
    existing, unknown = [await api.get(f"/api/export/{job}", headers=headers) for job in (job_id, UNKNOWN_JOB)]
    assert existing.status_code == HTTPStatus.NOT_FOUND
    assert existing.json() | {"request_id": None} == unknown.json() | {"request_id": None}
    actor = await bookkeeping.fetchval("SELECT actor FROM carryout.export_audit WHERE action = 'export:denied'")
    assert actor == (foreign if encoding == "SQL_ASCII" else foreign.encode("ascii", "backslashreplace").decode())


@pytest.mark.parametrize("encoding", ["SQL_ASCII"], indirect=True)
async def test_an_address_that_is_not_text_gets_no_mail(
    api: httpx.AsyncClient, settings: Settings, resources: Resources, bookkeeping: Connection
) -> None:
    queued = await api.post("/api/export", json=CSV, headers=signed_in(settings, KNOWN, Prefer="respond-async"))
    await run_export(resources, UUID(queued.json()["job_id"]))
    await bookkeeping.execute(r"UPDATE public.members SET email = convert_from('\xff', 'SQL_ASCII') || '@example.com'")
    await send_due_mails(resources, limit=10)
    (mail,) = await bookkeeping.fetch("SELECT state, last_error FROM carryout.export_notifications")
    assert (mail["state"], mail["last_error"]) == (
        "skipped",
        "the application's address for this user is not valid text",
    )


@pytest.mark.parametrize(
    "command",
    [
        ["exports", "list", "--user", "\U0001f680"],
        ["exports", "end", "--user", "\U0001f680"],
        ["audit", "--user", "\U0001f680"],
        ["keys", "create", "\U0001f680", "--scope", "users:export"],
        ["keys", "revoke", "\U0001f680"],
    ],
)
@pytest.mark.parametrize("encoding", ["LATIN1"], indirect=True)
async def test_commands_say_so(stack: Stack, url: str, command: list[str]) -> None:
    environ = stack.environ | {
        "CARRYOUT_DATABASE_URL": serving_url(stack, url),
        "CARRYOUT_PUBLIC_URL": PUBLIC_URL,
        "CARRYOUT_USER_ID_TYPE": "text",
    }
    ended = await processes.run(environ, *command)
    assert ended.status == 2
    assert "encoding lacks a character of what was given (CARRYOUT_DATABASE_URL)" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("encoding", ["LATIN1"], indirect=True)
async def test_ids_of_another_encoding_are_refused_at_the_start(
    stack: Stack, settings: Settings, tmp_path: Path
) -> None:
    async with AsyncExitStack() as opened:
        source_url = await opened.enter_async_context(open_database(stack.admin_url))
        await fill(stack, source_url)
        apart = msgspec.structs.replace(settings, source_database_url=source_url)
        with pytest.raises(ConfigurationError, match="The encoding LATIN1 can't hold the ids of a database in UTF8"):
            await opened.enter_async_context(open_resources(apart))

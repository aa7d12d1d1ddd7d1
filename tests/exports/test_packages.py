"""A package is always made by a worker, also of a small account, and comes whole to who asked for it."""

import io
import zipfile
from uuid import UUID

import httpx
import pytest

from service.resources import Resources
from tests.api.problems import bearer, read_problem
from tests.conftest import PUBLIC_URL, Token
from tests.documents.package.reading import read_page
from tests.support.factories import Connection, create_user, create_user_with
from worker.running import run_export

ZIP = {"format": "zip"}


async def test_from_the_request_to_the_file(
    api: httpx.AsyncClient, token: Token, database: Connection, resources: Resources
) -> None:
    user_id = await create_user(database, activity=600)
    user = bearer(token(user_id))
    body = {"format": "zip", "sections": ["activity"], "from": "2026-01-01T00:05:00Z"}
    accepted = await api.post("/api/export", json=body, headers=user | {"Idempotency-Key": "once"})
    assert accepted.status_code == 202
    location = accepted.headers["location"]

    await run_export(resources, UUID(accepted.json()["job_id"]))

    shown = (await api.get(location, headers=user)).json()
    assert (shown["status"], shown["format"], shown["record_count"]) == ("completed", "zip", 302)
    assert shown["progress"] == {"records_done": 302, "records_total": 302}
    file = await api.get(shown["download_url"].removeprefix(PUBLIC_URL), follow_redirects=True)
    assert file.headers["content-type"] == "application/zip"
    assert len(file.content) == shown["size_bytes"]
    with zipfile.ZipFile(io.BytesIO(file.content)) as archive:
        assert "2026-01-01" in read_page(archive.read("index.html")).text
        assert len(read_page(archive.read("activity.html")).rows) == 301
    again = await api.post("/api/export", json=body, headers=user | {"Idempotency-Key": "once"})
    assert (again.status_code, again.json()["job_id"]) == (201, shown["job_id"])
    assert await database.fetchval("SELECT kind FROM carryout.export_notifications") == "ready"


@pytest.mark.parametrize("unfit", [{"bom": True}, {"guard": "none"}, {"big": "text"}])
async def test_variants_of_others_are_refused(
    api: httpx.AsyncClient, token: Token, database: Connection, unfit: dict[str, object]
) -> None:
    user = bearer(token(await create_user(database)))
    refused = read_problem(await api.post("/api/export", json=ZIP | unfit, headers=user), 422)
    assert next(iter(unfit)) in refused["detail"]


async def test_there_is_no_stream(api: httpx.AsyncClient, token: Token, database: Connection) -> None:
    user = bearer(token(await create_user(database)))
    refused = read_problem(await api.get("/api/export/stream?format=zip", headers=user), 400)
    assert refused["detail"] == "format=zip can't be streamed: ask for an export with POST /api/export"


async def test_an_attempt_that_fails_leaves_no_file(
    api: httpx.AsyncClient, token: Token, database: Connection, resources: Resources
) -> None:
    """A table is away; the next attempt makes the package whole."""
    user = bearer(token(await create_user_with(database, 20)))
    accepted = await api.post("/api/export", json=ZIP, headers=user)
    job_id = UUID(accepted.json()["job_id"])
    await database.execute("ALTER TABLE public.content RENAME TO away")
    await run_export(resources, job_id)
    row = await database.fetchrow("SELECT status, file_url FROM carryout.export_jobs")
    assert row
    assert (row["status"], row["file_url"]) == ("pending", None)
    await database.execute("ALTER TABLE public.away RENAME TO content")
    await database.execute("UPDATE carryout.export_jobs SET run_after = now()")
    await run_export(resources, job_id)
    assert await database.fetchval("SELECT record_count FROM carryout.export_jobs") == 20

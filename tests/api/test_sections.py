"""The sections that can be asked for, and the schema of the documents."""

import hashlib
import json

import httpx
from jsonschema import Draft202012Validator

from service.formats import Format
from service.resources import Resources
from tests.api.conftest import JSON, Create
from tests.api.problems import bearer, read_problem
from tests.api.test_create_export import read_file
from tests.conftest import Token
from tests.support.factories import Connection, create_user


async def test_sections(api: httpx.AsyncClient, database: Connection, token: Token) -> None:
    response = await api.get("/api/export/sections", headers=bearer(token(await create_user(database))))
    offer = response.json()
    assert response.status_code == 200
    sections = {section["name"]: section for section in offer["sections"]}
    assert list(sections) == ["user", "activity", "content"]
    assert (sections["user"]["time"], sections["activity"]["time"]) == (None, "occurred_at")
    assert sections["activity"]["title"] == "Activity"
    assert sections["activity"]["description"] == "Your sign-ins and other actions, with their addresses"
    assert {"name": "ip", "type": "inet", "description": ""} in sections["activity"]["columns"]
    assert [one["name"] for one in offer["formats"]] == list(Format)
    assert offer["limits"]["max_records"] == 100_000


async def test_document_satisfies_the_schema_of_its_view(
    api: httpx.AsyncClient, create: Create, database: Connection, token: Token, resources: Resources
) -> None:
    user_id = await create_user(database, activity=3, content=2)
    headers = bearer(token(user_id))
    job_id = (await create(user_id, {**JSON, "from": "2026-01-01", "sections": ["activity"]})).json()["job_id"]
    schema = await api.get("/api/export/schema", headers=headers)
    view = (await api.get(f"/api/export/{job_id}", headers=headers)).json()
    assert schema.headers["content-type"] == "application/schema+json"
    assert view["schema_sha256"] == hashlib.sha256(schema.content).hexdigest()
    Draft202012Validator(schema.json()).validate(json.loads(await read_file(resources, job_id)))


async def test_nobody_without_a_token(idle_api: httpx.AsyncClient) -> None:
    for path in ("/api/export/sections", "/api/export/schema"):
        read_problem(await idle_api.get(path), 401)

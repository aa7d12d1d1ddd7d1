"""Keys, scopes and flags decide which operator gets a list."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import httpx
import msgspec
import pytest

from service.access.api_keys import KeyRepository, Scope
from service.api.app import create_app
from service.resources import Resources
from service.settings import Settings
from tests.api.lists.conftest import (
    ALIVE,
    EXPORT,
    EXPORT_FULL,
    FLAGS,
    SIMPLE,
    SUBJECTS,
    export_events,
    until_exported,
)
from tests.api.problems import bearer, read_problem
from tests.api.serving import serve
from tests.conftest import Token, patient_client
from tests.support.factories import Connection, list_audit
from tests.support.operators import create_key, switch


class TestKeys:
    async def test_either_header(self, api: httpx.AsyncClient, key: str) -> None:
        for headers in ({"X-API-Key": key}, bearer(key), {"Authorization": f"bearer {key}"}):
            assert (await api.get(EXPORT, headers=headers)).status_code == 200

    @pytest.mark.parametrize("path", [EXPORT, EXPORT_FULL])
    async def test_missing(self, api: httpx.AsyncClient, path: str) -> None:
        response = await api.get(path)
        assert read_problem(response, 401)["detail"] == "Invalid or missing API key"
        assert response.headers["www-authenticate"] == "Bearer"

    async def test_wrong_in_every_way(self, api: httpx.AsyncClient, key: str, token: Token) -> None:
        prefix = key[: len("co_12345678_")]
        wrong = [
            {"X-API-Key": key[:-1]},
            {"X-API-Key": f"{prefix}{'A' * 43}"},
            {"X-API-Key": f"co_00000000_{key[-43:]}"},
            {"X-API-Key": "x" * 4_000},
            {"X-API-Key": "' OR 1=1 --"},
            {"Authorization": f"Basic {key}"},
            {"Authorization": key},
            {"Authorization": "Bearer"},
            {"Authorization": f"Bearer {token(uuid4())}"},
        ]
        requests = [api.get(EXPORT, headers=headers) for headers in wrong]
        requests.append(api.get(EXPORT, headers={b"X-API-Key": b"\xe9\xff"}))
        responses = await asyncio.gather(*requests)
        for response in responses:
            assert read_problem(response, 401)["detail"] == "Invalid or missing API key"
            assert response.headers["www-authenticate"] == "Bearer"

    async def test_expired_and_revoked(self, api: httpx.AsyncClient, database: Connection, key: str) -> None:
        headers = {"X-API-Key": key}
        assert (await api.get(EXPORT, headers=headers)).status_code == 200
        await database.execute("UPDATE carryout.api_keys SET expires_at = now()")
        assert read_problem(await api.get(EXPORT, headers=headers), 401)["detail"] == "Invalid or missing API key"
        await database.execute("UPDATE carryout.api_keys SET expires_at = NULL")
        assert (await api.get(EXPORT, headers=headers)).status_code == 200
        await KeyRepository().revoke(database, "nightly")
        assert read_problem(await api.get(EXPORT, headers=headers), 401)["detail"] == "Invalid or missing API key"

    @pytest.mark.parametrize(("scope", "path"), [(Scope.USERS_EXPORT, EXPORT_FULL), (Scope.USERS_EXPORT_FULL, EXPORT)])
    async def test_no_scope_includes_another(
        self, api: httpx.AsyncClient, database: Connection, scope: Scope, path: str
    ) -> None:
        headers = {"X-API-Key": await create_key(database, scope)}
        other = EXPORT if path == EXPORT_FULL else EXPORT_FULL
        missing = FLAGS[path]  # flags and scopes have the same names
        problem = read_problem(await api.get(path, headers=headers), 403)
        assert problem["detail"] == f"This API key lacks the scope {missing}"
        assert (await api.get(other, headers=headers)).status_code == 200
        (denied,) = [event for event in await list_audit(database) if event["action"] == "users:denied"]
        assert denied["outcome"] == f"no scope {missing}"
        assert denied["actor"] == headers["X-API-Key"].split("_")[1]

    async def test_many_wrong_ones_do_not_lock_out_a_right_one(self, resources: Resources, key: str) -> None:
        app = create_app(resources)
        app.state.wrong_keys = asyncio.Semaphore(0)  # as if that many were delayed already
        async with serve(app) as served, patient_client(served) as client:
            response = await client.get(EXPORT, headers={"X-API-Key": "wrong"})
            read_problem(response, 429)
            assert response.headers["retry-after"] == "1"
            assert (await client.get(EXPORT, headers={"X-API-Key": key})).status_code == 200
            read_problem(await client.get(EXPORT), 401)

    async def test_the_key_is_in_no_trail(self, operator: httpx.AsyncClient, database: Connection, key: str) -> None:
        await operator.get(EXPORT)
        await until_exported(database)
        trail = await database.fetchval("SELECT string_agg(to_jsonb(a)::text, '') FROM carryout.export_audit a")
        assert key.split("_", 2)[2] not in trail
        assert {event["actor"] for event in await list_audit(database)} == {None, key.split("_")[1]}


@pytest.mark.parametrize(("path", "name"), [(EXPORT, "export"), (EXPORT_FULL, "export_full")])
async def test_a_list_without_a_dataset_is_refused(resources: Resources, key: str, path: str, name: str) -> None:
    async with serve(create_app(replace(resources, user_lists={}))) as served, patient_client(served) as client:
        problem = read_problem(await client.get(path, headers={"X-API-Key": key}), 403)
    assert problem["detail"] == f"This user list is not set up: the file users/{name}.sql is missing"


class TestFlags:
    @pytest.mark.parametrize("path", FLAGS)
    async def test_each_has_its_own(
        self, operator: httpx.AsyncClient, database: Connection, resources: Resources, path: str
    ) -> None:
        await switch(database, FLAGS[path], enabled=False)
        while resources.flags.is_enabled(FLAGS[path]):
            await asyncio.sleep(0.02)
        assert read_problem(await operator.get(path), 403)["detail"] == "Export feature not enabled"
        for other in FLAGS.keys() - {path}:
            assert (await operator.get(other)).status_code == 200
        taken = {subject for _, subject, _, _ in await export_events(database)}
        assert taken == {subject for list_, subject in SUBJECTS.items() if list_ != path}

    @pytest.mark.parametrize(
        ("path", "body"),
        [(ALIVE, b'{"status":"users export alive"}'), (SIMPLE, b'{"users":"export simple status"}')],
    )
    async def test_the_open_ones_need_no_key_and_no_database(
        self, api: httpx.AsyncClient, resources: Resources, path: str, body: bytes
    ) -> None:
        response = await api.get(path)
        assert (response.status_code, response.content) == (200, body)
        assert response.headers["content-type"] == "application/json"
        assert [pool.get_size() for pool in (resources.database, resources.source, resources.lists)] == [0, 0, 0]


class TestOrderOfChecks:
    """A stranger learns neither what is switched on nor which parameters there are."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, features=("-users:export",))

    async def test_key_flag_scope_parameters(self, api: httpx.AsyncClient, database: Connection) -> None:
        wrong_query = "?format=xlsx&limit=1"
        full_only = {"X-API-Key": await create_key(database, Scope.USERS_EXPORT_FULL, name="full")}
        standard_only = {"X-API-Key": await create_key(database, Scope.USERS_EXPORT, name="standard")}
        read_problem(await api.get(EXPORT + wrong_query), 401)
        flag = read_problem(await api.get(EXPORT + wrong_query, headers=full_only), 403)
        assert flag["detail"] == "Export feature not enabled"
        scope = read_problem(await api.get(EXPORT_FULL + wrong_query, headers=standard_only), 403)
        assert scope["detail"] == "This API key lacks the scope users:export_full"
        parameters = read_problem(await api.get(EXPORT_FULL + wrong_query, headers=full_only), 400)
        assert parameters["detail"] == "Unknown query parameter: limit"

"""The operators' lists: who gets them, what is in them, and what is left behind when one is taken."""

import asyncio
import csv
import dataclasses
import io
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import msgspec
import pytest

from service import operating
from service.api.app import create_app
from service.bootstrap import Resources
from service.flags import Flag
from service.keys import Scope
from service.settings import Settings
from tests.api.problems import bearer, read_problem
from tests.api.serving import Served, serve
from tests.conftest import Token, patient_client
from tests.documents import read_csv, unguard
from tests.factories import CANARY, Connection, list_actions, list_audit, refuse_audit
from tests.operators import create_key, create_users, switch

EXPORT = "/api/v1/users/export"
EXPORT_FULL = "/api/v1/users/export-full"
ALIVE = "/api/v1/users/export-alive"
SIMPLE = "/api/v1/users/export-simple"
FLAGS = {
    EXPORT: Flag.USERS_EXPORT,
    EXPORT_FULL: Flag.USERS_EXPORT_FULL,
    ALIVE: Flag.USERS_EXPORT_ALIVE,
    SIMPLE: Flag.USERS_EXPORT_SIMPLE,
}
HEADER = "id,email,name\r\n"
FULL_HEADER = "id,email,name,created_at,updated_at,is_active,is_admin\r\n"
HOSTILE = (
    "=1+1",
    "+49",
    "-1",
    "@SUM(A1)",
    "\ttab",
    "\rreturn",
    "'=quoted",
    'a "quote", a comma',
    "two\r\nlines",
    "back\\slash",
    "(parentheses)",
    "\N{RIGHT-TO-LEFT OVERRIDE}right\N{ROCKET}",
    "'; DROP TABLE users;--",
    "",
    "x" * 300,
)
INJECTIONS = (
    "' OR '1'='1",
    "%",
    "_",
    "user-1@example.com' --",
    "USER-1@EXAMPLE.COM",
    "",
    "\\",
    "$1",
    "é" * 300,
    "\ufeff",
)
NOT_IDS = ("", "x", "1.5", "+1", "01", "-0", "1e3", " 1", "9223372036854775808", "-9223372036854775809", "1" * 40, "१")

TERMINATE_SOURCE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'carryout-source'
"""
WRONG_QUERIES = {
    "limit=1": "Unknown query parameter: limit",
    "Email=x": "Unknown query parameter: Email",
    "api_key=x": "Unknown query parameter: api_key",
    "email=a&email=b": "Query parameter given more than once: email",
    "email=%00": "The query string contains a NUL character",
    "email=%ff": "The query string is not UTF-8",
    "email=%f": "The query string has an incomplete percent escape",
}


@pytest.fixture
async def key(database: Connection) -> str:
    return await create_key(database)


@pytest.fixture
async def operator(served: Served, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose key has every scope."""
    async with patient_client(served) as client:
        client.headers["X-API-Key"] = key
        yield client


async def export_events(database: Connection) -> list[tuple[str, str, int | None, str]]:
    return [
        (event["action"], event["subject"], event["records"], event["outcome"])
        for event in await list_audit(database)
        if event["action"].startswith("users:export")
    ]


async def until_exported(database: Connection) -> tuple[str, str, int | None, str]:
    """How the only export ended."""
    while "users:exported" not in await list_actions(database):
        await asyncio.sleep(0.02)
    return (await export_events(database))[-1]


class TestLists:
    async def test_standard(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 2)
        response = await operator.get(EXPORT)
        assert response.status_code == 200
        assert response.text == (
            f'{HEADER}1,user-1@example.com,"User ""1"", x"\r\n2,user-2@example.com,"User ""2"", xx"\r\n'
        )
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert response.headers["content-disposition"] == 'attachment; filename="users_export.csv"'
        assert response.headers["cache-control"] == "private, no-store"
        assert response.headers["x-content-type-options"] == "nosniff"

    async def test_full(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 1)
        await database.execute(
            "UPDATE public.users SET created_at = '2026-01-02 03:04:05.678Z', updated_at = 'infinity'"
        )
        response = await operator.get(EXPORT_FULL)
        assert response.text == (
            f'{FULL_HEADER}1,user-1@example.com,"User ""1"", x",2026-01-02T03:04:05.678Z,infinity,true,false\r\n'
        )
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert response.headers["content-disposition"] == 'attachment; filename="users_full_export.csv"'

    @pytest.mark.parametrize("path", [EXPORT, EXPORT_FULL])
    async def test_nobody_is_a_header(self, operator: httpx.AsyncClient, path: str) -> None:
        assert (await operator.get(path)).text == (HEADER if path == EXPORT else FULL_HEADER)

    async def test_hostile_names_survive_and_run_nowhere(
        self, operator: httpx.AsyncClient, database: Connection
    ) -> None:
        for number, name in enumerate(HOSTILE):
            await database.execute(
                "INSERT INTO public.users (email, name, password_hash) VALUES ($1, $2, $3)", f"{number}@x", name, CANARY
            )
        body = (await operator.get(EXPORT_FULL)).content
        cells = [line[2] for line in read_csv(body.decode())[1:]]
        assert [unguard(cell) for cell in cells] == list(HOSTILE)
        assert all(cell is not None and cell[:1] not in set("=+-@\t\r") for cell in cells if cell)
        assert CANARY.encode() not in body

    async def test_a_hundred_thousand_users(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 100_001)
        rows = list(csv.reader(io.StringIO((await operator.get(EXPORT)).text, newline="")))[1:]
        assert [int(row[0]) for row in rows] == list(range(1, 100_002))
        assert rows[99_999] == ["100000", "user-100000@example.com", 'User "100000", ']
        assert await until_exported(database) == ("users:exported", "users/export", 100_001, "complete")

    async def test_one_list_is_one_snapshot(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 50_000)
        body = await _download_while(operator, database, "DELETE FROM public.users WHERE internal_id % 2 = 0")
        assert body.count(b"\r\n") == 50_001

    async def test_head_reads_nothing(
        self, operator: httpx.AsyncClient, database: Connection, resources: Resources
    ) -> None:
        response = await operator.head(EXPORT)
        assert response.status_code == 200
        assert response.content == b""
        assert response.headers["content-disposition"] == 'attachment; filename="users_export.csv"'
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert resources.source.get_size() == 0
        assert await export_events(database) == []

    async def test_file_names_are_settings(self, settings: Settings, resources: Resources, key: str) -> None:
        named = msgspec.structs.replace(settings, users_filename="Kunden.csv", users_full_filename='a"b/ü.csv')
        app = create_app(dataclasses.replace(resources, settings=named))
        async with serve(app) as served, patient_client(served) as client:
            standard = await client.head(EXPORT, headers={"X-API-Key": key})
            full = await client.head(EXPORT_FULL, headers={"X-API-Key": key})
        assert standard.headers["content-disposition"] == 'attachment; filename="Kunden.csv"'
        assert full.headers["content-disposition"] == (
            "attachment; filename=\"a_b__.csv\"; filename*=UTF-8''a%22b_%C3%BC.csv"
        )


class TestFilter:
    async def test_email_is_exact(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 11)
        response = await operator.get(EXPORT, params={"email": "user-1@example.com"})
        assert response.text == f'{HEADER}1,user-1@example.com,"User ""1"", x"\r\n'

    async def test_a_plus_sign_is_one(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 2)
        await database.execute("UPDATE public.users SET email = 'a+b@example.com' WHERE internal_id = 2")
        response = await operator.get(EXPORT, params={"email": "a+b@example.com"})
        assert response.text.count("\r\n") == 2
        assert "a+b@example.com" in response.text

    async def test_hostile_text_finds_nobody(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 3)
        for email in INJECTIONS:
            assert (await operator.get(EXPORT, params={"email": email})).text == HEADER

    async def test_is_not_in_the_trail(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 1)
        await operator.get(EXPORT, params={"email": "user-1@example.com"})
        assert await until_exported(database) == ("users:exported", "users/export", 1, "complete")
        assert (await export_events(database))[0] == (
            "users:export_started",
            "users/export",
            None,
            "one e-mail address",
        )
        trail = await database.fetchval("SELECT string_agg(to_jsonb(a)::text, '') FROM carryout.export_audit a")
        assert "user-1" not in trail


class TestResuming:
    @pytest.mark.parametrize("path", [EXPORT, EXPORT_FULL])
    async def test_after_the_last_whole_row_nothing_is_lost_or_twice(
        self, operator: httpx.AsyncClient, database: Connection, path: str
    ) -> None:
        await create_users(database, 30)
        await database.execute("DELETE FROM public.users WHERE internal_id % 7 = 0")
        whole = (await operator.get(path)).text
        header = whole.index("\r\n") + 2
        for cut in range(whole.index("\r\n", header) + 2, len(whole), 37):
            received = whole[: whole.rindex("\r\n", 0, cut) + 2]
            last_id = received.splitlines()[-1].partition(",")[0]
            rest = (await operator.get(path, params={"after": last_id})).text
            assert received + rest[header:] == whole

    @pytest.mark.parametrize(
        ("after", "ids"), [("0", "123"), ("-5", "123"), ("2", "3"), ("3", ""), (str(2**63 - 1), "")]
    )
    async def test_any_integer_will_do(
        self, operator: httpx.AsyncClient, database: Connection, after: str, ids: str
    ) -> None:
        await create_users(database, 3)
        rows = (await operator.get(EXPORT, params={"after": after})).text.splitlines()[1:]
        assert [row[0] for row in rows] == list(ids)

    async def test_goes_with_the_filter(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 3)
        params = {"email": "user-2@example.com"}
        assert (await operator.get(EXPORT, params=params | {"after": "1"})).text.count("\r\n") == 2
        assert (await operator.get(EXPORT, params=params | {"after": "2"})).text == HEADER

    async def test_what_is_no_id_is_refused(self, operator: httpx.AsyncClient) -> None:
        for after in NOT_IDS:
            problem = read_problem(await operator.get(EXPORT, params={"after": after}), 400)
            assert problem["detail"] == "after must be the id of the last row received"


class TestParameters:
    async def test_csv_in_any_case(self, operator: httpx.AsyncClient) -> None:
        for format_ in ("csv", "CSV", "cSv"):
            assert (await operator.get(EXPORT, params={"format": format_})).text == HEADER

    async def test_other_formats(self, operator: httpx.AsyncClient) -> None:
        for path in (EXPORT, EXPORT_FULL):
            for format_ in ("json", "", "csv ", "xlsx", "csv,json", "csv\n"):
                problem = read_problem(await operator.get(path, params={"format": format_}), 400)
                assert problem["detail"] == "Unsupported format. Only 'csv' is supported."

    async def test_what_nobody_understands(self, operator: httpx.AsyncClient) -> None:
        for query, detail in WRONG_QUERIES.items():
            assert read_problem(await operator.get(f"{EXPORT}?{query}"), 400)["detail"] == detail

    async def test_the_open_ones_have_none(self, operator: httpx.AsyncClient) -> None:
        for path in (ALIVE, SIMPLE):
            read_problem(await operator.get(f"{path}?format=csv"), 400)

    async def test_other_methods(self, operator: httpx.AsyncClient) -> None:
        for path in FLAGS:
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                response = await operator.request(method, path)
                read_problem(response, 405)
                assert response.headers["allow"] == "GET, HEAD"


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
        await operating.revoke_key(database, "nightly")
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
        assert key.rpartition("_")[2] not in trail
        assert {event["actor"] for event in await list_audit(database)} == {None, key.split("_")[1]}


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
        assert all(event[1] != FLAGS[path] for event in await export_events(database))

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
        assert (resources.database.get_size(), resources.source.get_size()) == (0, 0)


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


class TestTrail:
    async def test_who_took_what(self, operator: httpx.AsyncClient, database: Connection, key: str) -> None:
        await create_users(database, 3)
        response = await operator.get(f"{EXPORT_FULL}?after=1", headers={"User-Agent": "backup/1"})
        await until_exported(database)
        started, exported = [event for event in await list_audit(database) if event["action"].startswith("users:")]
        assert (started["action"], started["outcome"], started["records"]) == (
            "users:export_started",
            "everybody after 1",
            None,
        )
        assert (exported["action"], exported["outcome"], exported["records"]) == ("users:exported", "complete", 2)
        for event in (started, exported):
            assert (event["actor_type"], event["actor"]) == ("key", key.split("_")[1])
            assert (event["subject"], event["format"]) == ("users/export_full", "csv")
            assert (event["ip"].compressed, event["user_agent"]) == ("127.0.0.1", "backup/1")
            assert event["request_id"] == response.headers["x-request-id"]

    async def test_without_it_nothing_leaves(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 3)
        await refuse_audit(database, "users:export_started")
        response = await operator.get(EXPORT)
        read_problem(response, 500)
        assert b"user-1" not in response.content

    async def test_a_client_that_leaves(
        self, operator: httpx.AsyncClient, database: Connection, resources: Resources
    ) -> None:
        await create_users(database, 200_000)
        async with operator.stream("GET", EXPORT) as response:
            await anext(response.aiter_bytes())
            assert "users:export_started" in await list_actions(database)
        action, list_, records, outcome = await until_exported(database)
        assert (action, list_, outcome) == ("users:exported", "users/export", "client_gone")
        assert records is not None
        assert 0 < records < 200_000
        while resources.source.get_idle_size() != resources.source.get_size():
            await asyncio.sleep(0.02)

    async def test_a_source_that_fails_breaks_the_download(
        self, operator: httpx.AsyncClient, database: Connection
    ) -> None:
        await create_users(database, 200_000)
        with pytest.raises(httpx.RemoteProtocolError):
            await _download_while(operator, database, TERMINATE_SOURCE)
        assert (await until_exported(database))[3] == "failed"


async def _download_while(operator: httpx.AsyncClient, database: Connection, statement: str) -> bytes:
    """All of the list, with `statement` run once it has begun to arrive."""
    async with operator.stream("GET", EXPORT) as response:
        parts = response.aiter_bytes()
        body = await anext(parts)
        await database.execute(statement)
        return body + b"".join([part async for part in parts])

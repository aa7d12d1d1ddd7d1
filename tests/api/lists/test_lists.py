"""The contents of the operators' lists, and the parameters that they take."""

import csv
import dataclasses
import io

import httpx
import msgspec
import pytest

from service.access.api_keys import Scope
from service.api.app import create_app
from service.resources import Resources
from service.settings import Settings
from tests.api.lists.conftest import (
    ALIVE,
    EXPORT,
    EXPORT_FULL,
    FLAGS,
    SIMPLE,
    download_while,
    export_events,
    until_exported,
)
from tests.api.problems import read_problem
from tests.api.serving import serve
from tests.conftest import patient_client
from tests.support.documents import read_csv, unguard
from tests.support.factories import CANARY, Connection
from tests.support.operators import create_key, create_users

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

WRONG_QUERIES = {
    "limit=1": "Unknown query parameter: limit",
    "Email=x": "Unknown query parameter: Email",
    "api_key=x": "Unknown query parameter: api_key",
    "email=a&email=b": "Query parameter given more than once: email",
    "email=%00": "The query string contains a NUL character",
    "email=%ff": "The query string is not UTF-8",
    "email=%f": "The query string has an incomplete percent escape",
    "email=ada+tag@example.org": "email has a space, which is what + means in a query string: write a + as %2B",
}


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
    async def test_a_list_without_users_is_only_a_header(self, operator: httpx.AsyncClient, path: str) -> None:
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
        body = await download_while(operator, database, "DELETE FROM public.users WHERE internal_id % 2 = 0")
        assert body.count(b"\r\n") == 50_001

    async def test_head_reads_nothing(
        self, operator: httpx.AsyncClient, database: Connection, resources: Resources
    ) -> None:
        response = await operator.head(EXPORT)
        assert response.status_code == 200
        assert response.content == b""
        assert response.headers["content-disposition"] == 'attachment; filename="users_export.csv"'
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert resources.lists.get_size() == 0
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

    async def test_hostile_text_matches_no_user(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 3)
        for email in INJECTIONS:
            spaceless = email.replace(" ", "\t")  # a space is refused
            assert (await operator.get(EXPORT, params={"email": spaceless})).text == HEADER

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

    async def test_a_text_that_is_not_an_id_is_refused(self, operator: httpx.AsyncClient) -> None:
        for after in NOT_IDS:
            problem = read_problem(await operator.get(EXPORT, params={"after": after}), 400)
            assert problem["detail"] == "after must be the id of the last row received"


class TestParameters:
    async def test_csv_in_any_case(self, operator: httpx.AsyncClient) -> None:
        for format_ in ("csv", "CSV", "cSv"):
            assert (await operator.get(EXPORT, params={"format": format_})).text == HEADER

    async def test_byte_order_mark(self, operator: httpx.AsyncClient) -> None:
        plain = (await operator.get(EXPORT)).content
        assert (await operator.get(f"{EXPORT}?bom=0")).content == plain
        assert (await operator.get(f"{EXPORT}?bom=1")).content == b"\xef\xbb\xbf" + plain
        read_problem(await operator.get(f"{EXPORT}?bom=yes"), 400)

    async def test_cells_for_machines(
        self, operator: httpx.AsyncClient, api: httpx.AsyncClient, database: Connection
    ) -> None:
        await create_users(database, 1)
        await database.execute("UPDATE public.users SET name = '=1+1'")
        assert (await operator.get(EXPORT)).text.endswith(",'=1+1\r\n")
        assert (await operator.get(f"{EXPORT}?guard=none")).text.endswith(",=1+1\r\n")
        assert "guard must be none" in read_problem(await operator.get(f"{EXPORT}?guard=off"), 400)["detail"]

        standard = {"X-API-Key": await create_key(database, Scope.USERS_EXPORT, name="standard")}
        refused = await api.get(f"{EXPORT}?guard=none", headers=standard)
        assert read_problem(refused, 403)["detail"] == "This API key lacks the scope users:unguarded"

    async def test_other_formats(self, operator: httpx.AsyncClient) -> None:
        for path in (EXPORT, EXPORT_FULL):
            for format_ in ("json", "", "csv ", "xlsx", "csv,json", "csv\n"):
                problem = read_problem(await operator.get(path, params={"format": format_}), 400)
                assert problem["detail"] == "Unsupported format. Only 'csv' is supported."

    async def test_unknown_parameters_are_refused(self, operator: httpx.AsyncClient) -> None:
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

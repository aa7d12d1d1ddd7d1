"""Operators' lists of their own files: any key, declared parameters, four formats."""

import base64
import json
from pathlib import Path

import httpx
import msgspec
import pytest

from service.access.api_keys import Scope, list_permission
from service.settings import Settings
from tests.api.lists.conftest import download_while
from tests.api.problems import read_problem
from tests.support.documents import read_csv, read_xlsx
from tests.support.factories import Connection, list_audit
from tests.support.operators import create_key, switch

ORDERS = "/api/v1/lists/orders"
ITEMS = "/api/v1/lists/items"
TABLES = """
CREATE TABLE public.orders (
  id uuid PRIMARY KEY, email text NOT NULL, total numeric NOT NULL, paid boolean NOT NULL, at timestamptz
);
CREATE TABLE public.items (
  shop text, code text COLLATE "C", at timestamptz, price numeric, PRIMARY KEY (shop, code, at, price)
);
INSERT INTO public.orders
SELECT md5(n::text)::uuid, n || '@example.org', n, n % 2 = 0, '2026-01-01Z'::timestamptz + n * interval '1 day'
FROM generate_series(1, 20) n;
UPDATE public.orders SET at = NULL WHERE total = 1;
INSERT INTO public.items
SELECT shop, code, at, price
FROM unnest(ARRAY['=1+1', '''=1', 'a,b"c', E'two\\r\\nlines', 'é']) shop, unnest(ARRAY['', '-2', 'x']) code,
  unnest(ARRAY['infinity', '2026-01-02 03:04:05.678Z', '0044-03-15 12:00Z BC']::timestamptz[]) at,
  unnest(ARRAY['NaN', 1.50, 12345678901234567890.1]::numeric[]) price;
GRANT SELECT (id, email, total, paid, at) ON public.orders TO carryout_reader;
GRANT SELECT ON public.items TO carryout_reader;
"""
FILES = {
    "orders": """
        -- title: Orders
        -- about: All orders
        -- time: at
        -- param: email text
        -- param: paid boolean
        -- param: id uuid
        -- param: over numeric
        -- param: day date
        -- param: before timestamptz
        -- param: total bigint
        SELECT id, email, total, at FROM public.orders
        WHERE ($1::text IS NULL OR email = $1) AND ($2::boolean IS NULL OR paid = $2) AND ($3::uuid IS NULL OR id = $3)
          AND ($4::numeric IS NULL OR total > $4) AND ($5::date IS NULL OR at::date = $5)
          AND ($6::timestamptz IS NULL OR at < $6) AND ($7::bigint IS NULL OR total = $7)
        ORDER BY id""",
    "items": "SELECT price, shop, code, at FROM public.items ORDER BY shop, code, at, price",
}
ITEM_KEY = ("shop", "code", "at", "price")
WRONG_VALUES = {
    "id=1": (422, "id must be a UUID"),
    "paid=yes": (422, "paid must be true or false"),
    "over=1e3": (422, "over must be a decimal number"),
    "total=1.5": (422, "total must be an integer"),
    "day=2026-02-30": (422, "day must be a date as 2025-01-31"),
    "before=yesterday": (422, "before must be a date, or a time with its zone as 2025-01-31T09:30:00Z"),
    "updated_since=2026": (422, "updated_since must be a date as 2025-01-31"),
    "shop=x": (400, "Unknown query parameter: shop"),
    "email=a&email=b": (400, "Query parameter given more than once: email"),
    "format=zip": (400, "format must be one of csv, json, ndjson, xlsx"),
    "format=json&bom=1": (400, "bom=1 is for format=csv only"),
    "format=xlsx&big=text": (400, "big=text is for format=json and format=ndjson only"),
    "guard=off": (400, "Invalid enum value 'off'"),
    "after=x": (400, "after must be the key of the last row received: id (uuid)"),
    "after=WyJ4Il0": (400, "after must be the key of the last row received: id (uuid)"),
}
WRONG_KEYS = ["x", "WyJ4Il0", "W10", "WzFd", "W10=", "bnVsbA", "W1tbW1tb", "WyJcdWQ4MDAiLCIiLCIiLCIiXQ", "A" * 40]


@pytest.fixture
async def settings(settings: Settings, database: Connection, tmp_path: Path) -> Settings:
    await database.execute(TABLES)
    for name, sql in FILES.items():
        (tmp_path / f"{name}.sql").write_text("\n".join(line.strip() for line in sql.splitlines()))
    return msgspec.structs.replace(settings, lists_dir=str(tmp_path))


@pytest.fixture
async def key(database: Connection) -> str:
    return await create_key(database, *Scope, *map(list_permission, FILES))


def encode(*values: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


async def read_rows(operator: httpx.AsyncClient, **query: str) -> list[str | None]:
    """The totals of the orders that the query selects."""
    response = await operator.get(ORDERS, params=query)
    assert response.status_code == 200, response.text
    header, *rows = read_csv(response.text)
    assert header == ["id", "email", "total", "at"]
    return sorted((row[2] for row in rows), key=lambda total: int(total or 0))


class TestFormats:
    async def test_csv(self, operator: httpx.AsyncClient) -> None:
        response = await operator.get(ORDERS, params={"email": "1@example.org"})
        id_ = "c4ca4238-a0b9-2382-0dcc-509a6f75849b"
        assert response.text == f"id,email,total,at\r\n{id_},1@example.org,1,\r\n"
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert response.headers["content-disposition"] == 'attachment; filename="orders.csv"'
        assert response.headers["link"].endswith(
            '/openapi.json#/paths/~1api~1v1~1lists~1orders/get>; rel="describedby"'
        )

    async def test_json(self, operator: httpx.AsyncClient) -> None:
        whole = (await operator.get(ORDERS, params={"format": "JSON"})).json()
        assert list(whole) == ["exported_at", "orders"]
        assert len(whole["orders"]) == 20
        part = (await operator.get(ORDERS, params={"format": "json", "email": "none@x"})).json()
        assert list(part) == ["exported_at", "filter", "orders"]
        assert (part["filter"], part["orders"]) == ({"email": "none@x"}, [])

    async def test_ndjson(self, operator: httpx.AsyncClient) -> None:
        response = await operator.get(ORDERS, params={"format": "ndjson", "over": "18"})
        *rows, end = map(json.loads, response.text.splitlines())
        assert sorted(row["row"]["total"] for row in rows) == [19, 20]
        assert {row["section"] for row in rows} == {"orders"}
        assert end == {"section": "end", "records": 2, "filter": {"over": "18"}}

    async def test_xlsx(self, operator: httpx.AsyncClient) -> None:
        for query, rows in (({}, 20), ({"email": "none@x"}, 0)):
            response = await operator.get(ORDERS, params={"format": "xlsx"} | query)
            sheets = read_xlsx(response.content)
            assert list(sheets) == ["orders", "about"]
            assert len(sheets["orders"]) == rows + 1
            assert dict(sheets["about"][1:])["records"] == rows

    async def test_cells_for_machines(self, operator: httpx.AsyncClient) -> None:
        guarded, bare = [(await operator.get(f"{ITEMS}{query}")).text for query in ("", "?guard=none")]
        assert "'=1+1" in guarded
        assert "'=1+1" not in bare

    async def test_head_reads_nothing(self, operator: httpx.AsyncClient, database: Connection) -> None:
        response = await operator.head(ORDERS)
        assert (response.status_code, response.content) == (200, b"")
        assert "users:export_started" not in {event["action"] for event in await list_audit(database)}


class TestResuming:
    @pytest.mark.parametrize("format_", ["csv", "json", "ndjson"])
    async def test_behind_any_row_nothing_is_lost_or_twice(self, operator: httpx.AsyncClient, format_: str) -> None:
        """Keys of several types, with text that a spreadsheet would run, in the words of the row."""

        async def rows(**query: str) -> list[dict[str, str]]:
            text = (await operator.get(ITEMS, params={"format": format_} | query)).text
            if format_ == "csv":
                header, *lines = read_csv(text)
                return [dict(zip(header, line, strict=True)) for line in lines]  # type: ignore[arg-type]
            if format_ == "json":
                return json.loads(text, parse_float=str, parse_int=str)["items"]  # type: ignore[no-any-return]
            return [json.loads(line, parse_float=str, parse_int=str)["row"] for line in text.splitlines()[:-1]]

        whole = await rows()
        assert len(whole) == 5 * 3 * 3 * 3
        for position in range(0, len(whole), 7):
            after = encode(*(whole[position][name] for name in ITEM_KEY))
            assert await rows(after=after) == whole[position + 1 :]

    async def test_a_single_key_may_be_plain(self, operator: httpx.AsyncClient) -> None:
        ids = [row[0] or "" for row in read_csv((await operator.get(ORDERS)).text)[1:]]
        for after in (ids[7], encode(ids[7])):
            rows = read_csv((await operator.get(ORDERS, params={"after": after})).text)[1:]
            assert [row[0] for row in rows] == ids[8:]

    @pytest.mark.parametrize("after", WRONG_KEYS)
    async def test_what_is_no_key_is_refused(self, operator: httpx.AsyncClient, after: str) -> None:
        problem = read_problem(await operator.get(ITEMS, params={"after": after}), 400)
        assert problem["detail"].startswith("after must be base64url of the JSON array")

    async def test_a_value_of_another_type_is_refused(self, operator: httpx.AsyncClient) -> None:
        for values in (("a", "b", "never", "1"), ("a", "b", "2026-01-01Z", "x"), ("\0", "b", "2026-01-01Z", "1")):
            problem = read_problem(await operator.get(ITEMS, params={"after": encode(*values)}), 400)
            assert problem["detail"].startswith("after must be the key of the last row received: shop (text), ")


class TestParameters:
    async def test_each_type(self, operator: httpx.AsyncClient) -> None:
        assert await read_rows(operator, email="3@example.org") == ["3"]
        assert await read_rows(operator, paid="true", over="15.5") == ["16", "18", "20"]
        assert await read_rows(operator, id="c81e728d-9d4c-2f63-6f06-7f89cc14862c") == ["2"]
        assert await read_rows(operator, total="7") == ["7"]
        assert await read_rows(operator, day="2026-01-10") == ["9"]
        assert await read_rows(operator, before="2026-01-04T01:00:00+01:00") == ["2"]

    async def test_what_changed_and_what_has_no_time(self, operator: httpx.AsyncClient) -> None:
        assert await read_rows(operator, updated_since="2026-01-20") == ["1", "19", "20"]
        assert await read_rows(operator, updated_since="2026-01-20T12:00:00Z", paid="false") == ["1"]

    @pytest.mark.parametrize("query", WRONG_VALUES)
    async def test_a_wrong_one_is_named(self, operator: httpx.AsyncClient, query: str) -> None:
        status, detail = WRONG_VALUES[query]
        problem = read_problem(await operator.get(f"{ORDERS}?{query}"), status)
        assert problem["detail"].startswith(detail)


class TestAccess:
    async def test_a_key_a_scope_and_a_flag(
        self, operator: httpx.AsyncClient, api: httpx.AsyncClient, database: Connection
    ) -> None:
        read_problem(await api.get(ORDERS), 401)
        other = {"X-API-Key": await create_key(database, "lists:items", name="other")}
        refused = read_problem(await api.get(f"{ORDERS}?x=1", headers=other), 403)
        assert refused["detail"] == "This API key lacks the scope lists:orders"
        refused = read_problem(await api.get(f"{ITEMS}?guard=none", headers=other), 403)
        assert refused["detail"] == "This API key lacks the scope users:unguarded"
        assert (await api.get(ITEMS, headers=other)).status_code == 200
        await switch(database, "lists:items", enabled=False)
        while (await operator.get(ITEMS)).status_code == 200:
            pass
        assert read_problem(await operator.get(ITEMS), 403)["detail"] == "Export feature not enabled"
        assert (await operator.get(ORDERS)).status_code == 200
        read_problem(await operator.get("/api/v1/lists/unknown"), 404)

    async def test_the_trail_has_the_list_and_no_value(
        self, operator: httpx.AsyncClient, database: Connection, key: str
    ) -> None:
        await operator.get(ORDERS, params={"email": "1@example.org", "updated_since": "2026-01-01", "format": "json"})
        while len(events := [one for one in await list_audit(database) if one["action"].startswith("lists:")]) < 2:
            pass
        assert [(one["action"], one["records"], one["outcome"]) for one in events] == [
            ("lists:export_started", None, "rows by email, updated_since"),
            ("lists:exported", 1, "complete"),
        ]
        assert {(one["subject"], one["format"], one["actor"]) for one in events} == {
            ("lists/orders", "json", key.split("_")[1])
        }

    async def test_what_is_cut_does_not_look_whole(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await database.execute(
            "INSERT INTO public.orders "
            "SELECT gen_random_uuid(), repeat('x', 2000), n, true FROM generate_series(1, 9000) n"
        )
        terminate = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'carryout-lists'"
        )
        with pytest.raises(httpx.RemoteProtocolError):
            await download_while(operator, database, terminate, path=ORDERS)

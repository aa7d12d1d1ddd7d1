"""The live stream: whole or visibly broken, and nothing left behind."""

import asyncio
import csv
import io
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest

from service.api.app import create_app
from service.resources import Resources, open_resources
from service.settings import Settings
from tests.api.conftest import UNKNOWN_ID
from tests.api.problems import bearer, read_problem
from tests.api.serving import Served, serve
from tests.conftest import Token, patient_client
from tests.support.factories import CANARY, Connection, create_user, list_actions, list_audit, refuse_audit
from tests.support.scraping import Scrape
from tests.support.waiting import until

CSV_STREAM = "/api/export/stream?format=csv"
JSON_STREAM = "/api/export/stream?format=json"
HEADER = (
    "user_id,email,name,created_at,activity_id,activity_kind,activity_ip,activity_detail,activity_occurred_at,"
    "content_id,content_title,content_body,content_created_at"
)
FORBIDDEN = ["password", "internal_id", CANARY]
LARGE = {"content": 5_000, "body_bytes": 1_900}  # 9 MB, more than all buffers between cursor and client hold


async def find_end(database: Connection, user_id: UUID, *, streams: int = 1) -> asyncpg.Record:
    """The audit event of the end of the last of so many streams; it is written after the last byte."""

    async def ended() -> bool:
        return len(await list_ends()) == streams

    async def list_ends() -> list[asyncpg.Record]:
        events = await list_audit(database)
        return [event for event in events if event["action"] == "export:streamed" and event["user_id"] == user_id]

    await until(ended)
    return (await list_ends())[-1]


async def count_stream_sessions(database: Connection, *, in_transaction: bool = False) -> int:
    """The sessions by which streams read this test's database."""
    count: int = await database.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'carryout-streams' AND (xact_start IS NOT NULL OR NOT $1)",
        in_transaction,
    )
    return count


async def wait_for_whole_pools(database: Connection, resources: Resources) -> None:
    """Until every connection is back, and none is still in a transaction."""

    async def whole() -> bool:
        pools = (resources.streams, resources.database)
        in_use = sum(pool.get_size() - pool.get_idle_size() for pool in pools)
        return in_use == 0 and await count_stream_sessions(database, in_transaction=True) == 0

    await until(whole)


@asynccontextmanager
async def open_stalled_stream(served: Served, token: str) -> AsyncIterator[socket.socket]:
    """A client that has read the beginning of its stream, and then nothing more."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (served.host, served.port))
        request = f"GET {CSV_STREAM} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        await loop.sock_sendall(client, request.encode())
        assert (await loop.sock_recv(client, 15)) == b"HTTP/1.1 200 OK"
        yield client


def read_all(client: socket.socket) -> None:
    while client.recv(65_536):
        pass


class TestDocuments:
    async def test_csv(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        user_id = await create_user(database, activity=3, content=4)
        response = await api.get(CSV_STREAM, headers=bearer(token(user_id)))
        header, *rows = csv.reader(io.StringIO(response.text, newline=""), strict=True)
        assert ",".join(header) == HEADER
        assert len(rows) == 1 + 3 + 4
        assert {len(row) for row in rows} == {len(header)}
        assert {row[0] for row in rows} == {str(user_id)}
        assert [bool(row[4]) for row in rows] == [False] + [True] * 3 + [False] * 4
        assert [bool(row[9]) for row in rows] == [False] * 4 + [True] * 4
        assert response.text.count("\r\n") == response.text.count("\n") == 9

    async def test_json(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        user_id = await create_user(database, activity=3, content=4)
        document = (await api.get(JSON_STREAM, headers=bearer(token(user_id)))).json()
        assert document.keys() == {"exported_at", "user", "activity", "content"}
        assert document["user"].keys() == {"id", "email", "name", "created_at"}
        assert document["user"]["id"] == str(user_id)
        assert [event["detail"] for event in document["activity"]] == [{"n": n} for n in (1, 2, 3)]
        assert [item["title"] for item in document["content"]] == [f"Note {n}" for n in (1, 2, 3, 4)]

    async def test_without_any_row(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        headers = bearer(token(await create_user(database)))
        assert len((await api.get(CSV_STREAM, headers=headers)).text.splitlines()) == 2
        document = (await api.get(JSON_STREAM, headers=headers)).json()
        assert (document["activity"], document["content"]) == ([], [])

    @pytest.mark.parametrize(
        ("path", "content_type", "filename"),
        [(CSV_STREAM, "text/csv; charset=utf-8", "export.csv"), (JSON_STREAM, "application/json", "export.json")],
    )
    async def test_nothing_else_leaves(  # noqa: PLR0913, PLR0917 (fixtures and parameters)
        self,
        api: httpx.AsyncClient,
        database: Connection,
        token: Token,
        path: str,
        content_type: str,
        filename: str,
    ) -> None:
        await create_user(database, activity=3, content=3)
        user_id = await create_user(database, activity=3, content=3)
        response = await api.get(path, headers=bearer(token(user_id)))
        for word in FORBIDDEN:
            assert word not in response.text
        assert response.headers["content-type"] == content_type
        assert response.headers["content-disposition"] == f'attachment; filename="{filename}"'
        assert response.headers["cache-control"] == "private, no-store"
        assert response.headers["x-content-type-options"] == "nosniff"

    async def test_byte_order_mark_on_request(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        headers = bearer(token(await create_user(database)))
        plain = (await api.get(CSV_STREAM, headers=headers)).content
        assert plain.startswith(b"user_id,")
        assert (await api.get(f"{CSV_STREAM}&bom=1", headers=headers)).content == b"\xef\xbb\xbf" + plain

    async def test_cells_for_machines(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        user_id = await create_user(database)
        await database.execute("UPDATE public.users SET name = '=1+1' WHERE id = $1", user_id)
        headers = bearer(token(user_id))
        assert ",'=1+1," in (await api.get(CSV_STREAM, headers=headers)).text
        assert ",=1+1," in (await api.get(f"{CSV_STREAM}&guard=none", headers=headers)).text

    async def test_the_cap_itself(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        user_id = await create_user(database, activity=50_000, content=49_999)
        response = await api.get(CSV_STREAM, headers=bearer(token(user_id)))
        assert response.content.count(b"\r\n") == 1 + 100_000

    async def test_is_audited(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        user_id = await create_user(database, activity=3, content=4)
        await api.get(JSON_STREAM, headers=bearer(token(user_id)))
        end = await find_end(database, user_id)
        assert (end["outcome"], end["records"], end["format"]) == ("complete", 8, "json")
        assert await list_actions(database) == ["export:stream_started", "export:streamed"]
        for event in await list_audit(database):
            assert (event["actor_type"], event["actor"], event["user_id"]) == ("user", str(user_id), user_id)


class TestRefused:
    @pytest.mark.parametrize(
        "query",
        [
            "",
            "format=",
            "format=xml",
            "format=CSV",
            "format=csv&bom=2",
            "format=json&bom=1",
            "format=csv&x=1",
            "format=csv&guard=no",
            "format=json&guard=none",
        ],
    )
    async def test_wrong_query(self, idle_api: httpx.AsyncClient, token: Token, query: str) -> None:
        response = await idle_api.get(f"/api/export/stream?{query}", headers=bearer(token(UNKNOWN_ID)))
        read_problem(response, 400)

    async def test_a_user_the_application_does_not_have(self, idle_api: httpx.AsyncClient, token: Token) -> None:
        response = await idle_api.get(CSV_STREAM, headers=bearer(token(UNKNOWN_ID)))
        assert read_problem(response, 404)["detail"] == "No such user"

    async def test_none_without_its_event(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        user_id = await create_user(database, content=10)
        await refuse_audit(database, "export:stream_started")
        read_problem(await api.get(CSV_STREAM, headers=bearer(token(user_id))), 500)


class TestCap:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, small_export_records=1, max_export_records=20)

    async def test_one_more_is_refused(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        allowed, refused = await create_user(database, content=19), await create_user(database, content=20)
        assert (await api.get(CSV_STREAM, headers=bearer(token(allowed)))).status_code == 200
        response = await api.get(CSV_STREAM, headers=bearer(token(refused)))
        problem = read_problem(response, 422, "record_count", "limit", "suggestion", "ranges", "too_large")
        assert problem["detail"] == "Export too large, please filter data"


class TestHead:
    async def test_runs_no_query(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        user_id = await create_user(database, content=10)
        response = await api.head(CSV_STREAM, headers=bearer(token(user_id)))
        assert (response.status_code, response.headers["content-type"]) == (200, "text/csv; charset=utf-8")
        assert await count_stream_sessions(database) == 0  # the pool connects when it is first used
        assert await list_actions(database) == []
        await api.get(CSV_STREAM, headers=bearer(token(user_id)))
        assert await count_stream_sessions(database) == 1


class TestOneAtATime:
    async def test_second_is_refused(
        self, api: httpx.AsyncClient, served: Served, database: Connection, token: Token
    ) -> None:
        user_id, other = await create_user(database, **LARGE), await create_user(database)
        async with open_stalled_stream(served, token(user_id)):
            response = await api.get(JSON_STREAM, headers=bearer(token(user_id)))
            assert read_problem(response, 409)["detail"] == "A stream of your data is already running"
            assert (await api.get(JSON_STREAM, headers=bearer(token(other)))).status_code == 200
        assert (await find_end(database, user_id))["outcome"] == "client_gone"
        assert (await api.get(JSON_STREAM, headers=bearer(token(user_id)))).status_code == 200


class TestBroken:
    @pytest.mark.parametrize("path", [CSV_STREAM, JSON_STREAM])
    async def test_lost_source_breaks_the_connection(  # noqa: PLR0913, PLR0917 (fixtures)
        self,
        served: Served,
        database: Connection,
        resources: Resources,
        token: Token,
        tmp_path: Path,
        path: str,
    ) -> None:
        user_id = await create_user(database, **LARGE)
        file = tmp_path / "export"
        curl = await asyncio.create_subprocess_exec(
            *("curl", "--fail", "--silent", "--limit-rate", "400k", "--output", file),
            *("--header", f"Authorization: Bearer {token(user_id)}", served.url + path),
        )
        await until(lambda: wrote_something(file))
        terminated = await database.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'carryout-streams'"
        )
        assert terminated == 1
        assert await curl.wait() == 18  # "partial file"
        end = await find_end(database, user_id)
        assert end["outcome"] == "failed"
        assert 1 <= end["records"] < 5_001
        await wait_for_whole_pools(database, resources)
        await expect_next_stream_to_work(served, database, token, user_id)

    async def test_client_that_leaves(
        self, served: Served, database: Connection, resources: Resources, token: Token
    ) -> None:
        user_id = await create_user(database, **LARGE)
        async with open_stalled_stream(served, token(user_id)):
            assert await count_stream_sessions(database, in_transaction=True) == 1
        end = await find_end(database, user_id)
        assert end["outcome"] == "client_gone"
        assert 1 <= end["records"] < 5_001
        await wait_for_whole_pools(database, resources)
        await expect_next_stream_to_work(served, database, token, user_id)


async def wrote_something(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


async def expect_next_stream_to_work(served: Served, database: Connection, token: Token, user_id: UUID) -> None:
    async with served.client() as client:
        response = await client.get(CSV_STREAM, headers=bearer(token(user_id)), timeout=60)
    assert response.content.count(b"\r\n") == 5_002
    end = await find_end(database, user_id, streams=2)
    assert (end["outcome"], end["records"]) == ("complete", 5_001)


class TestRate:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, streams_per_hour=2)

    async def test_one_too_many(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        headers = bearer(token(await create_user(database)))
        answers = [(await api.get(CSV_STREAM, headers=headers)).status_code for _ in range(2)]
        assert answers == [200, 200]
        refused = await api.get(JSON_STREAM, headers=headers)
        assert read_problem(refused, 429)["detail"] == "At most 2 streams an hour"
        assert 3_500 < int(refused.headers["retry-after"]) <= 3_600
        assert (await api.get(CSV_STREAM, headers=bearer(token(await create_user(database))))).status_code == 200

    async def test_many_at_several_processes(self, settings: Settings, database: Connection, token: Token) -> None:
        user_id = await create_user(database)
        headers = bearer(token(user_id))
        async with AsyncExitStack() as processes:
            clients = []
            for _ in range(3):
                resources = await processes.enter_async_context(open_resources(settings))
                served = await processes.enter_async_context(serve(create_app(resources)))
                clients.append(await processes.enter_async_context(patient_client(served)))
            answers = await asyncio.gather(*(client.get(CSV_STREAM, headers=headers) for client in clients * 50))
        assert {answer.status_code for answer in answers} <= {200, 409, 429}
        assert 1 <= [answer.status_code for answer in answers].count(200) <= 2
        assert (await list_actions(database)).count("export:stream_started") <= 2

    async def test_ends_with_the_hour(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        user_id = await create_user(database)
        await database.execute(
            """INSERT INTO carryout.export_audit (actor_type, actor, action, user_id, occurred_at)
            SELECT 'user', $1::text, 'export:stream_started', $1::text::uuid, now() - n * interval '1 minute'
            FROM generate_series(59, 61) AS n""",
            str(user_id),
        )
        assert (await api.get(CSV_STREAM, headers=bearer(token(user_id)))).status_code == 200
        refused = await api.get(CSV_STREAM, headers=bearer(token(user_id)))
        assert 0 < int(refused.headers["retry-after"]) <= 60


class TestLongestTime:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, stream_seconds=5)

    async def test_ends_the_stream_and_its_snapshot(
        self, served: Served, database: Connection, token: Token, resources: Resources
    ) -> None:
        user_id = await create_user(database, **LARGE)
        async with open_stalled_stream(served, token(user_id)) as client:
            assert (await find_end(database, user_id))["outcome"] == "too_long"
            await wait_for_whole_pools(database, resources)
            client.setblocking(True)
            with pytest.raises(ConnectionResetError):
                read_all(client)
            rendered, _ = await resources.metrics.render(resources.database, "")
        ended = Scrape(rendered.decode()).value("carryout_streams_total", kind="user", format="csv", outcome="too_long")
        assert ended == 1

"""Users watch their exports and end them, and can't see those of other users."""

import datetime as dt
from uuid import UUID, uuid4

import httpx
import pytest

from service.bookkeeping.audit import SYSTEM
from service.resources import Resources
from tests.api.conftest import ASYNC, JSON, UNKNOWN_ID, VIEW, Create
from tests.api.problems import bearer, read_problem, without_request_id
from tests.conftest import PUBLIC_PATH, PUBLIC_URL, Token
from tests.support.factories import Connection, create_user, create_user_with, list_actions, list_audit

MALFORMED_IDS = [
    "x",
    "0",
    UNKNOWN_ID.hex,
    f"{UNKNOWN_ID}0",
    "a" * 300,
]
ESCAPED_IDS = ["%00", "%0A", "..%5C..", "%C3%A9", f"%7B{UNKNOWN_ID}%7D", f"%30{str(UNKNOWN_ID)[1:]}"]


def path_of(download_url: str) -> str:
    assert download_url.startswith(PUBLIC_URL)
    return download_url.removeprefix(PUBLIC_URL)


class TestView:
    async def test_completed(self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token) -> None:
        user_id = await create_user_with(database, 5)
        created = (await create(user_id, JSON)).json()
        response = await api.get(f"/api/export/{created['job_id']}", headers=bearer(token(user_id)))
        view = response.json()
        assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
        assert response.headers["cache-control"] == "private, no-store"
        assert view.keys() == VIEW | {"download_url"}
        assert {name: view[name] for name in created} == created
        assert (view["format"], view["error_message"], view["estimated_completion"]) == ("json", None, None)
        assert view["progress"] == {"records_done": 5, "records_total": 5}
        row = await database.fetchrow("SELECT * FROM carryout.export_jobs")
        assert row is not None
        assert (view["size_bytes"], view["sha256"]) == (row["size_bytes"], row["sha256"].hex())
        for name in ("created_at", "completed_at", "expires_at"):
            assert dt.datetime.fromisoformat(view[name]) == row[name]

    async def test_pending(self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token) -> None:
        user_id = await create_user_with(database, 5)
        created = (await create(user_id, headers=ASYNC)).json()
        view = (await api.get(f"/api/export/{created['job_id']}", headers=bearer(token(user_id)))).json()
        assert view.keys() == VIEW
        assert (view["status"], view["record_count"], view["sha256"]) == ("pending", None, None)
        assert view["progress"] == {"records_done": 0, "records_total": 5}
        assert dt.datetime.fromisoformat(view["estimated_completion"])

    async def test_processing(self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token) -> None:
        user_id = await create_user_with(database, 5)
        created = (await create(user_id, headers=ASYNC)).json()
        await database.execute(
            "UPDATE carryout.export_jobs"
            " SET status = 'processing', attempt = 1, lease_expires_at = now() + '1 minute', records_done = 3"
        )
        view = (await api.get(f"/api/export/{created['job_id']}", headers=bearer(token(user_id)))).json()
        assert (view.keys(), view["status"]) == (VIEW, "processing")
        assert view["progress"] == {"records_done": 3, "records_total": 5}

    async def test_failed(self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token) -> None:
        user_id = await create_user(database)
        created = (await create(user_id, headers=ASYNC)).json()
        await database.execute(
            "UPDATE carryout.export_jobs SET status = 'failed', completed_at = now(), "
            " error_message = 'The export failed', error_cause = 'secret'"
        )
        response = await api.get(f"/api/export/{created['job_id']}", headers=bearer(token(user_id)))
        assert response.json().keys() == VIEW
        assert (response.json()["status"], response.json()["error_message"]) == ("failed", "The export failed")
        assert "secret" not in response.text

    async def test_expired(self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token) -> None:
        user_id = await create_user(database)
        created = (await create(user_id)).json()
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now()")
        view = (await api.get(f"/api/export/{created['job_id']}", headers=bearer(token(user_id)))).json()
        assert (view.keys(), view["status"]) == (VIEW, "completed")


class TestList:
    async def test_pages_hold_all_newest_first(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        made = [(await create(user_id)).json()["job_id"] for _ in range(5)]
        await create(await create_user(database))
        seen, sizes, path = [], [], "/api/export?limit=2"
        while path:
            page = (await api.get(path, headers=bearer(token(user_id)))).json()
            assert page.keys() == {"exports", "next"}
            seen += [view["job_id"] for view in page["exports"]]
            sizes.append(len(page["exports"]))
            path = page["next"]
        assert (seen, sizes) == (made[::-1], [2, 2, 1])

    async def test_the_next_page_is_where_users_ask(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        _, newest = [(await create(user_id)).json()["job_id"] for _ in range(2)]
        page = (await api.get("/api/export?limit=1", headers=bearer(token(user_id)))).json()
        assert page["next"] == f"{PUBLIC_PATH}/api/export?limit=1&after={newest}"

    async def test_views_are_those_of_each(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        job_id = (await create(user_id)).json()["job_id"]
        listed = await api.get("/api/export", headers=bearer(token(user_id)))
        shown = await api.get(f"/api/export/{job_id}", headers=bearer(token(user_id)))
        assert listed.headers["cache-control"] == "private, no-store"
        assert listed.json() == {"exports": [shown.json()], "next": None}

    async def test_empty(self, idle_api: httpx.AsyncClient, token: Token) -> None:
        response = await idle_api.get("/api/export", headers=bearer(token(UNKNOWN_ID)))
        assert (response.status_code, response.json()) == (200, {"exports": [], "next": None})

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=x", "limit=", "after=x", "page=2", "limit=1&limit=2"]
    )
    async def test_wrong_query(self, idle_api: httpx.AsyncClient, token: Token, query: str) -> None:
        read_problem(await idle_api.get(f"/api/export?{query}", headers=bearer(token(UNKNOWN_ID))), 400)


class TestDelete:
    @pytest.mark.parametrize("status", ["pending", "processing"])
    async def test_running_one_is_cancelled(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token, status: str
    ) -> None:
        user_id = await create_user(database)
        path = (await create(user_id, headers=ASYNC)).headers["location"]
        await database.execute(
            "UPDATE carryout.export_jobs SET status = 'processing', attempt = 1, lease_expires_at = now() + '1 minute'"
            " WHERE $1 = 'processing'",
            status,
        )
        response = await api.delete(path, headers=bearer(token(user_id)))
        assert (response.status_code, response.content) == (204, b"")
        view = (await api.get(path, headers=bearer(token(user_id)))).json()
        assert (view["status"], view["error_message"]) == ("failed", "cancelled by user")
        assert await list_actions(database) == ["export:requested", "export:cancelled", "export:failed"]
        assert (await create(user_id)).status_code == 201

    async def test_completed_one_is_gone(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token, resources: Resources
    ) -> None:
        user_id = await create_user(database)
        created = await create(user_id)
        path, link = created.headers["location"], path_of(created.json()["download_url"])
        assert (await api.get(link)).status_code == 302
        assert (await api.delete(path, headers=bearer(token(user_id)))).status_code == 204
        read_problem(await api.get(link), 410)
        read_problem(await api.get(f"{path}/download", headers=bearer(token(user_id))), 410)
        prefix = f"exports/{created.json()['job_id']}/"
        assert [key async for page in resources.storage.list_keys(prefix) for key in page] == []
        view = (await api.get(path, headers=bearer(token(user_id)))).json()
        assert (view.keys(), view["status"]) == (VIEW, "completed")

    async def test_twice_is_once(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        path = (await create(user_id)).headers["location"]
        answers = [await api.delete(path, headers=bearer(token(user_id))) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [204, 204]
        *_, deleted = await list_audit(database)
        assert (await list_actions(database)).count("export:deleted") == 1
        assert (deleted["action"], deleted["actor"]) == ("export:deleted", str(user_id))

    async def test_by_one_that_began_earlier_is_once(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token, resources: Resources
    ) -> None:
        user_id = await create_user(database)
        created = await create(user_id)
        async with resources.transaction() as earlier:
            await earlier.fetchval("SELECT now()")
            await api.delete(created.headers["location"], headers=bearer(token(user_id)))
            assert await resources.exports.end(earlier, UUID(created.json()["job_id"]), SYSTEM, message="late") is None


class TestOthers:
    @pytest.mark.parametrize(
        "call",
        [
            "GET /api/export/{}",
            "HEAD /api/export/{}",
            "DELETE /api/export/{}",
            "GET /api/export/{}/download",
            "HEAD /api/export/{}/download",
            "GET /api/export/{}/download?expires=9999999999&signature=" + "A" * 43,
        ],
    )
    async def test_look_like_unknown_ones(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token, call: str
    ) -> None:
        method, path = call.split()
        owner, other = await create_user(database), await create_user(database)
        completed = (await create(owner)).json()["job_id"]
        pending = (await create(owner, headers=ASYNC)).json()["job_id"]
        unknown, *rest = [
            await api.request(method, path.format(job_id), headers=bearer(token(other)))
            for job_id in [UNKNOWN_ID, completed, completed.upper(), pending, *MALFORMED_IDS]
        ]
        assert unknown.status_code == 404
        if method != "HEAD":
            assert read_problem(unknown, 404)["detail"] == "Export not found"
        for response in rest:
            assert without_request_id(response) == without_request_id(unknown), response.url
        states = await database.fetch("SELECT status FROM carryout.export_jobs ORDER BY created_at")
        assert [row["status"] for row in states] == ["completed", "pending"]

    @pytest.mark.parametrize("job_id", ESCAPED_IDS)
    async def test_ids_have_no_escapes(self, idle_api: httpx.AsyncClient, job_id: str) -> None:
        for path in (f"/api/export/{job_id}", f"/api/export/{job_id}/download"):
            read_problem(await idle_api.get(path), 400)

    async def test_lists_begin_nowhere_else(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        owner, other = await create_user(database), await create_user(database)
        await create(other)
        foreign = (await create(owner)).json()["job_id"]
        pages = [
            await api.get(f"/api/export?after={job_id}", headers=bearer(token(other)))
            for job_id in (foreign, UNKNOWN_ID)
        ]
        assert without_request_id(pages[0]) == without_request_id(pages[1])
        assert pages[0].json() == {"exports": [], "next": None}

    async def test_asking_for_them_is_audited_once_a_minute(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        owner, other = await create_user(database), await create_user(database)
        path = (await create(owner)).headers["location"]
        wrong_link = "/download?expires=1&signature=x"
        for what in (wrong_link, "", "/events", "/download", "/downloads"):
            await api.get(path + what, headers=bearer(token(other)))
        await api.delete(path, headers=bearer(token(other)))
        await api.get(f"/api/export/{uuid4()}/download", headers=bearer(token(other)))
        await database.execute("UPDATE carryout.export_jobs SET user_denied_at = now() - interval '1 minute'")
        await api.get(path, headers=bearer(token(other)))
        denied = [event for event in await list_audit(database) if event["action"] == "export:denied"]
        assert [(event["actor_type"], event["actor"]) for event in denied] == [
            ("link", None),
            ("user", str(other)),
            ("user", str(other)),
        ]
        assert {event["user_id"] for event in denied} == {owner}

"""The desk: an operator asks for a user, the user gets the link, and everyone is told who asked, when and why."""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from service.access.api_keys import KeyRepository, Scope
from service.access.flags import Flag
from service.api.app import create_app
from service.api.desk import MAX_REASON_CHARACTERS
from service.api.http import permitted
from service.mails.sending import send_due_mails
from service.resources import Resources
from service.settings import Settings
from tests.api.conftest import ASYNC, CSV, UNKNOWN_ID, Create
from tests.api.problems import bearer, read_problem
from tests.api.serving import Served, serve
from tests.conftest import PUBLIC_URL, Token, open_client, patient_client
from tests.support.factories import Connection, create_user, create_user_with, list_audit
from tests.support.operators import create_key, switch
from tests.support.smtp import SmtpServer
from worker.running import run_export

REQUESTS = "/api/v1/requests"
REASON = "Your letter of 27 February"
BODY: dict[str, object] = {"format": "csv", "reason": REASON}
EVERYTHING = "SELECT string_agg(to_jsonb(job)::text, '') FROM carryout.export_jobs AS job"


@pytest.fixture
def settings(settings: Settings, smtp: SmtpServer) -> Settings:
    return msgspec.structs.replace(settings, smtp_url=smtp.url)


@pytest.fixture
async def desk(served: Served, database: Connection) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose key may ask and read, and has no bytes."""
    async with patient_client(served) as client:
        client.headers["X-API-Key"] = await create_key(
            database, Scope.REQUESTS_CREATE, Scope.REQUESTS_READ, name="support"
        )
        yield client


@pytest.fixture
async def user_id(database: Connection) -> UUID:
    return await create_user_with(database, 3)


async def ask(desk: httpx.AsyncClient, user_id: UUID, **fields: object) -> dict[str, Any]:
    """The request as it is shown."""
    accepted = await desk.post(REQUESTS, json=BODY | {"user_id": str(user_id)} | fields)
    assert accepted.status_code == 202, accepted.text
    return await show(desk, accepted.json()["job_id"])


async def show(desk: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    shown = await desk.get(f"{REQUESTS}/{job_id}")
    assert shown.status_code == 200, shown.text
    view: dict[str, Any] = shown.json()
    return view


async def finish(resources: Resources, job_id: str) -> None:
    await run_export(resources, UUID(job_id))
    await send_due_mails(resources, limit=10)


async def events(database: Connection, action: str) -> list[tuple[str, str, str | None]]:
    found = [event for event in await list_audit(database) if event["action"] == action]
    return [(event["actor_type"], event["actor"], event["outcome"]) for event in found]


async def test_the_link_goes_to_the_user_and_to_no_one_else(
    desk: httpx.AsyncClient, resources: Resources, database: Connection, smtp: SmtpServer, user_id: UUID
) -> None:
    accepted = await desk.post(REQUESTS, json=BODY | {"user_id": str(user_id)})
    assert accepted.status_code == 202
    assert accepted.json().keys() == {"job_id", "status", "estimated_records", "estimated_completion"}
    assert (accepted.json()["status"], accepted.json()["estimated_records"]) == ("pending", 3)
    assert int(accepted.headers["retry-after"]) >= 1
    path = accepted.headers["location"]
    assert path == f"/carryout{REQUESTS}/{accepted.json()['job_id']}"

    await finish(resources, accepted.json()["job_id"])

    (mail,) = smtp.mails
    address = await database.fetchval("SELECT email FROM public.users WHERE id = $1", user_id)
    assert mail.recipients == [f"RCPT TO:<{address}>"]
    body = mail.message.get_body(("plain",))
    assert body
    text = body.get_content()
    assert "Support asked for a copy of your data for you" in text
    assert REASON in text
    assert f"{PUBLIC_URL}/api/export/{accepted.json()['job_id']}/download?" in text
    for url in (REQUESTS, path.removeprefix("/carryout")):
        shown = await desk.get(url)
        assert '"completed"' in shown.text
        assert "signature" not in shown.text
        assert "download" not in shown.text


async def test_shows_who_asked_why_and_until_when(desk: httpx.AsyncClient, resources: Resources, user_id: UUID) -> None:
    asked = await ask(desk, user_id, received_at="2026-01-31T09:30:00+01:00")
    assert asked["user_id"] == str(user_id)
    assert (asked["requested_by"], asked["reason"]) == ("support", REASON)
    assert (asked["received_at"], asked["due_at"]) == ("2026-01-31T08:30:00Z", "2026-02-28T08:30:00Z")
    assert (asked["status"], asked["answered_at"], asked["completed_at"]) == ("pending", None, None)
    await finish(resources, asked["job_id"])
    done = await show(desk, asked["job_id"])
    assert (done["status"], done["record_count"]) == ("completed", 3)
    assert done["answered_at"] >= done["completed_at"]
    assert (await desk.get(REQUESTS)).json() == {"requests": [done], "next": None}


@pytest.mark.parametrize(
    ("received_at", "due_at"),
    [
        ("2024-01-31", "2024-02-29T00:00:00Z"),  # a leap year
        ("2025-12-15", "2026-01-15T00:00:00Z"),
        ("2026-03-31T23:59:59Z", "2026-04-30T23:59:59Z"),
        ("2026-03-28T12:00:00Z", "2026-04-28T12:00:00Z"),  # no hour is lost to daylight saving
    ],
)
async def test_a_request_is_due_one_calendar_month_later(
    desk: httpx.AsyncClient, user_id: UUID, received_at: str, due_at: str
) -> None:
    assert (await ask(desk, user_id, received_at=received_at))["due_at"] == due_at


async def test_a_request_was_received_now_by_default_and_never_later(
    desk: httpx.AsyncClient, database: Connection, user_id: UUID
) -> None:
    before = await database.fetchval("SELECT now()")
    tomorrow_somewhere = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=13)).isoformat()
    for fields in ({}, {"received_at": tomorrow_somewhere}):
        asked = await ask(desk, await create_user(database), **fields)
        assert before <= dt.datetime.fromisoformat(asked["received_at"]) <= await database.fetchval("SELECT now()")
    late = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=15)).isoformat()
    answer = await desk.post(REQUESTS, json=BODY | {"user_id": str(user_id), "received_at": late})
    assert read_problem(answer, 422)["detail"] == "received_at is in the future"


async def test_the_user_sees_that_support_has_asked(
    desk: httpx.AsyncClient, create: Create, api: httpx.AsyncClient, token: Token, user_id: UUID
) -> None:
    asked = await ask(desk, user_id, received_at="2026-01-31", sections=["activity"])
    headers = bearer(token(user_id))
    view = (await api.get(f"/api/export/{asked['job_id']}", headers=headers)).json()
    assert view["asked_by_support"] == {"reason": REASON, "received_at": "2026-01-31T00:00:00Z"}
    assert "support" not in view["asked_by_support"].values(), "the key's name is for operators"
    assert view["filter"]["sections"] == ["activity"]
    (listed,) = (await api.get("/api/export", headers=headers)).json()["exports"]
    assert listed["asked_by_support"] == view["asked_by_support"]
    assert (await create(user_id)).json()["job_id"] == asked["job_id"]
    assert (await api.delete(f"/api/export/{asked['job_id']}", headers=headers)).status_code == 204
    cancelled = await show(desk, asked["job_id"])
    assert (cancelled["status"], cancelled["error_message"]) == ("failed", "cancelled by user")
    assert cancelled["answered_at"]
    own = await create(user_id)
    assert "asked_by_support" not in (await api.get(own.headers["location"], headers=headers)).json()


class TestTheUserIsNamed:
    async def test_by_their_address(self, desk: httpx.AsyncClient, database: Connection, user_id: UUID) -> None:
        email = await database.fetchval("SELECT email FROM public.users WHERE id = $1", user_id)
        accepted = await desk.post(REQUESTS, json=BODY | {"email": email})
        assert (await show(desk, accepted.json()["job_id"]))["user_id"] == str(user_id)

    async def test_by_an_address_of_none_or_several(self, desk: httpx.AsyncClient, database: Connection) -> None:
        await database.execute("ALTER TABLE public.users DROP CONSTRAINT IF EXISTS users_email_key")
        for _ in range(2):
            await database.execute(
                "UPDATE public.users SET email = 'two@example.org' WHERE id = $1", await create_user(database)
            )
        several = read_problem(await desk.post(REQUESTS, json=BODY | {"email": "two@example.org"}), 422)
        assert several["detail"] == "Several users have this e-mail address: give user_id"
        for unknown in ("TWO@example.org", "", "' OR 1=1 --", "x" * 10_000, "é@example.org"):
            problem = read_problem(await desk.post(REQUESTS, json=BODY | {"email": unknown}), 404)
            assert problem["detail"] == "No user has this e-mail address"
        assert await database.fetchval(EVERYTHING) is None

    async def test_by_both_or_neither(self, desk: httpx.AsyncClient, user_id: UUID) -> None:
        for names in ({}, {"user_id": str(user_id), "email": "ada@example.org"}, {"user_id": None}):
            problem = read_problem(await desk.post(REQUESTS, json=BODY | names), 422)
            assert problem["detail"] == "Name the user by user_id or by email: give one of them"

    async def test_by_an_id_of_none(self, desk: httpx.AsyncClient, database: Connection, user_id: UUID) -> None:
        await database.execute("DELETE FROM public.activity; DELETE FROM public.content; DELETE FROM public.users")
        for gone in (UNKNOWN_ID, user_id):
            problem = read_problem(await desk.post(REQUESTS, json=BODY | {"user_id": str(gone)}), 404)
            assert problem["detail"] == "No such user"
        for wrong in ("", "42", "{" + str(user_id) + "}"):
            problem = read_problem(await desk.post(REQUESTS, json=BODY | {"user_id": wrong}), 422)
            assert problem["detail"] == "Not a user id of type uuid"

    @pytest.mark.parametrize(
        "email", ["", "Ada", "a@example.org, b@example.org", "a@example.org\r\nBcc: b@example.org"]
    )
    async def test_without_an_address_that_a_mail_can_go_to(
        self, desk: httpx.AsyncClient, database: Connection, user_id: UUID, email: str
    ) -> None:
        await database.execute("UPDATE public.users SET email = $2 WHERE id = $1", user_id, email)
        problem = read_problem(await desk.post(REQUESTS, json=BODY | {"user_id": str(user_id)}), 422)
        assert problem["detail"] == (
            "The application has no valid e-mail address for this user, so the link could not be sent"
        )
        assert await database.fetchval(EVERYTHING) is None

    async def test_by_an_address_without_a_search(self, resources: Resources, database: Connection) -> None:
        key = {"X-API-Key": await create_key(database)}
        app = create_app(dataclasses.replace(resources, user_search=None))
        async with serve(app) as served, patient_client(served) as client:
            answer = await client.post(REQUESTS, json=BODY | {"email": "ada@example.org"}, headers=key)
        assert "requests/by_email.sql is missing" in read_problem(answer, 403)["detail"]


class TestReason:
    @pytest.mark.parametrize(
        "reason",
        [
            "",
            "   ",
            "two\nlines",
            "\x1b[31mred",
            "bi\u202edi",
            "zero\u200bwidth",
            "x" * (MAX_REASON_CHARACTERS + 1),
            "Confirm it at https://exports.example.org",
            "See WWW.example.org",
        ],
    )
    async def test_no_user_should_read(self, desk: httpx.AsyncClient, user_id: UUID, reason: str) -> None:
        answer = await desk.post(REQUESTS, json=BODY | {"user_id": str(user_id), "reason": reason})
        assert "reason" in read_problem(answer, 422)["detail"]

    @pytest.mark.parametrize("reason", ['"\\ud800"', '"a\\u0000b"', "null", "1", "[]"])
    async def test_no_text(self, desk: httpx.AsyncClient, user_id: UUID, reason: str) -> None:
        content = f'{{"format":"csv","user_id":"{user_id}","reason":{reason}}}'
        answer = await desk.post(REQUESTS, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in {400, 422}

    async def test_is_needed(self, desk: httpx.AsyncClient, user_id: UUID) -> None:
        answer = await desk.post(REQUESTS, json=CSV | {"user_id": str(user_id)})
        assert "required field `reason`" in read_problem(answer, 422)["detail"]

    @pytest.mark.parametrize(
        "reason", ["<script>alert(1)</script>", "'; DROP TABLE x --", "é 日本 {{ 7*7 }}", "x" * 1_000]
    )
    async def test_is_kept_as_it_is(
        self, desk: httpx.AsyncClient, database: Connection, user_id: UUID, reason: str
    ) -> None:
        asked = await ask(desk, user_id, reason=reason)
        assert asked["reason"] == reason
        assert await events(database, "export:requested") == [("key", desk.headers["X-API-Key"].split("_")[1], reason)]


class TestScopes:
    async def test_the_creators_key_cannot_get_the_bytes(
        self, desk: httpx.AsyncClient, resources: Resources, database: Connection, token: Token, user_id: UUID
    ) -> None:
        asked = await ask(desk, user_id)
        await finish(resources, asked["job_id"])
        key = desk.headers["X-API-Key"]
        problem = read_problem(await desk.get(f"{REQUESTS}/{asked['job_id']}/download"), 403)
        assert problem["detail"] == "This API key lacks the scope requests:download"
        assert await events(database, "requests:denied") == [("key", key.split("_")[1], "no scope requests:download")]
        assert await events(database, "export:downloaded") == []
        for path in ("", "/download", "/downloads", "/events"):
            read_problem(await desk.get(f"/api/export/{asked['job_id']}{path}", headers=bearer(key)), 401)
        other = bearer(token(uuid4()))
        read_problem(await desk.get(f"/api/export/{asked['job_id']}", headers=other), 404)

    @pytest.mark.parametrize(
        ("scope", "method", "path"),
        [
            (Scope.REQUESTS_CREATE, "POST", ""),
            (Scope.REQUESTS_READ, "GET", ""),
            (Scope.REQUESTS_READ, "GET", f"/{UNKNOWN_ID}"),
            (Scope.REQUESTS_DOWNLOAD, "GET", f"/{UNKNOWN_ID}/download"),
            (Scope.REQUESTS_DOWNLOAD, "HEAD", f"/{UNKNOWN_ID}/download"),
        ],
    )
    async def test_none_is_implied_by_all_others(
        self, api: httpx.AsyncClient, database: Connection, scope: Scope, method: str, path: str
    ) -> None:
        others = {"X-API-Key": await create_key(database, *set(Scope) - {scope}, name="others")}
        denied = await api.request(method, REQUESTS + path, headers=others)
        assert denied.status_code == 403
        if method != "HEAD":
            assert denied.json()["detail"] == f"This API key lacks the scope {scope}"
        allowed = {"X-API-Key": await create_key(database, scope, name="allowed")}
        assert (await api.request(method, REQUESTS + path, headers=allowed)).status_code not in {401, 403}

    async def test_users_tokens_and_revoked_keys_are_none(
        self, desk: httpx.AsyncClient, api: httpx.AsyncClient, database: Connection, token: Token, user_id: UUID
    ) -> None:
        body = BODY | {"user_id": str(user_id)}
        read_problem(await api.post(REQUESTS, json=body, headers=bearer(token(user_id))), 401)
        read_problem(await api.post(REQUESTS, json=body), 401)
        await KeyRepository().revoke(database, "support")
        read_problem(await desk.post(REQUESTS, json=body), 401)
        assert await database.fetchval(EVERYTHING) is None
        assert [outcome for _, _, outcome in await events(database, "requests:denied")] == ["revoked"]

    async def test_a_flag_switches_the_desk_off(
        self, desk: httpx.AsyncClient, resources: Resources, database: Connection, user_id: UUID
    ) -> None:
        await switch(database, Flag.REQUESTS, enabled=False)
        async with resources.connection() as connection:
            await resources.flags.read(connection)
        answer = await desk.post(REQUESTS, json=BODY | {"user_id": str(user_id)})
        assert read_problem(answer, 403)["detail"] == "Export feature not enabled"


class TestDownload:
    @pytest.fixture
    async def clerk(self, served: Served, database: Connection) -> AsyncIterator[httpx.AsyncClient]:
        """A client whose key may download, and nothing else."""
        async with patient_client(served) as client:
            client.headers["X-API-Key"] = await create_key(database, Scope.REQUESTS_DOWNLOAD, name="clerk")
            yield client

    async def test_is_seen_by_the_user(  # noqa: PLR0913, PLR0917 (its fixtures)
        self,
        desk: httpx.AsyncClient,
        clerk: httpx.AsyncClient,
        resources: Resources,
        database: Connection,
        token: Token,
        user_id: UUID,
    ) -> None:
        asked = await ask(desk, user_id)
        path = f"{REQUESTS}/{asked['job_id']}/download"
        read_problem(await clerk.get(path), 409, "export_status")
        await run_export(resources, UUID(asked["job_id"]))
        assert (await show(desk, asked["job_id"]))["answered_at"] is None, "its mail isn't sent yet"
        assert (await clerk.head(path)).headers["content-disposition"].endswith('.csv"')
        assert await events(database, "export:downloaded") == []
        proxied = await clerk.get(path, headers={"Prefer": "no-redirect", "User-Agent": "desk"})
        assert proxied.content.startswith(b"user_id,")
        redirected = await clerk.get(path)
        assert redirected.status_code == 302
        prefix = clerk.headers["X-API-Key"].split("_")[1]
        assert await events(database, "export:downloaded") == [
            ("key", prefix, "proxied"),
            ("key", prefix, "redirected"),
        ]
        downloads = await clerk.get(f"/api/export/{asked['job_id']}/downloads", headers=bearer(token(user_id)))
        assert [(one["by"], one["sent_by"]) for one in downloads.json()["downloads"]] == [
            ("support", "storage"),
            ("support", "service"),
        ]
        assert (await show(desk, asked["job_id"]))["answered_at"]

    async def test_is_for_requests_alone(
        self, clerk: httpx.AsyncClient, desk: httpx.AsyncClient, create: Create, user_id: UUID
    ) -> None:
        own = (await create(user_id)).json()["job_id"]
        for path in (f"{own}/download", f"{UNKNOWN_ID}/download", "x/download"):
            assert read_problem(await clerk.get(f"{REQUESTS}/{path}"), 404)["detail"] == "Export not found"
        read_problem(await desk.get(f"{REQUESTS}/{own}"), 404)
        assert (await desk.get(REQUESTS)).json()["requests"] == []

    async def test_ends_with_the_key(
        self,
        desk: httpx.AsyncClient,
        clerk: httpx.AsyncClient,
        resources: Resources,
        database: Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(permitted, "CHECK_SECONDS", 0.0)
        asked = await ask(desk, await create_user(database, content=200, body_bytes=100_000), format="json")
        await run_export(resources, UUID(asked["job_id"]))
        with pytest.raises(httpx.RemoteProtocolError):
            await self._read_and_revoke(clerk, database, f"{REQUESTS}/{asked['job_id']}/download")
        while not (cut := await events(database, "export:download_cut")):
            await asyncio.sleep(0.02)
        assert cut[0][2] == "not permitted any more"

    async def _read_and_revoke(self, clerk: httpx.AsyncClient, database: Connection, path: str) -> None:
        async with clerk.stream("GET", path, headers={"Prefer": "no-redirect"}) as response:
            parts = response.aiter_raw()
            await anext(parts)
            await KeyRepository().revoke(database, "clerk")
            async for _ in parts:
                pass


class TestIdempotency:
    async def test_a_repeated_request_is_the_same(
        self, desk: httpx.AsyncClient, resources: Resources, database: Connection, user_id: UUID
    ) -> None:
        body = BODY | {"user_id": str(user_id), "received_at": "2026-01-31"}
        key = {"Idempotency-Key": "ticket-1"}
        first = await desk.post(REQUESTS, json=body, headers=key)
        again = await desk.post(REQUESTS, json=body, headers=key)
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["job_id"] == again.json()["job_id"]
        await finish(resources, first.json()["job_id"])
        ended = await desk.post(REQUESTS, json=body, headers=key)
        assert ended.status_code == 200
        assert ended.json() == await show(desk, first.json()["job_id"])
        assert ended.headers["location"] == first.headers["location"]
        assert await database.fetchval("SELECT count(*) FROM carryout.export_jobs") == 1

    @pytest.mark.parametrize("changed", [{"reason": "Another"}, {"received_at": "2026-01-30"}, {"format": "json"}])
    async def test_another_body_is_refused(
        self, desk: httpx.AsyncClient, user_id: UUID, changed: dict[str, object]
    ) -> None:
        body = BODY | {"user_id": str(user_id), "received_at": "2026-01-31"}
        key = {"Idempotency-Key": "ticket-1"}
        first = await desk.post(REQUESTS, json=body, headers=key)
        problem = read_problem(await desk.post(REQUESTS, json=body | changed, headers=key), 422, "job_id")
        assert problem["job_id"] == first.json()["job_id"]

    async def test_another_user_is_another_body(
        self, desk: httpx.AsyncClient, database: Connection, user_id: UUID
    ) -> None:
        key = {"Idempotency-Key": "ticket-1"}
        first = await desk.post(REQUESTS, json=BODY | {"user_id": str(user_id)}, headers=key)
        other = BODY | {"user_id": str(await create_user(database))}
        problem = read_problem(await desk.post(REQUESTS, json=other, headers=key), 422, "job_id")
        assert problem["job_id"] == first.json()["job_id"]

    async def test_users_and_other_keys_have_keys_of_their_own(
        self, desk: httpx.AsyncClient, create: Create, api: httpx.AsyncClient, database: Connection, user_id: UUID
    ) -> None:
        key = {"Idempotency-Key": "1"}
        own = await create(user_id, CSV, key)
        asked = await desk.post(REQUESTS, json=BODY | {"user_id": str(user_id)}, headers=key)
        assert asked.status_code == 202
        assert asked.json()["job_id"] != own.json()["job_id"]
        others = {"X-API-Key": await create_key(database, Scope.REQUESTS_CREATE, name="branch")}
        running = await api.post(REQUESTS, json=BODY | {"user_id": str(user_id)}, headers=key | others)
        assert (running.status_code, running.json()["job_id"]) == (409, asked.json()["job_id"])


class TestLimits:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, exports_per_hour=2)

    async def test_are_the_users_own(
        self, desk: httpx.AsyncClient, resources: Resources, create: Create, user_id: UUID
    ) -> None:
        await create(user_id)
        await finish(resources, (await ask(desk, user_id))["job_id"])
        for answer in (await create(user_id), await desk.post(REQUESTS, json=BODY | {"user_id": str(user_id)})):
            assert read_problem(answer, 429)["detail"] == "At most 2 exports an hour"

    async def test_a_setting_allows_the_desk_more(
        self, settings: Settings, database: Connection, create: Create, user_id: UUID
    ) -> None:
        for _ in range(2):
            await create(user_id)
        read_problem(await create(user_id), 429)
        key = {"X-API-Key": await create_key(database)}
        async with open_client(msgspec.structs.replace(settings, requests_per_hour=3)) as client:
            body = BODY | {"user_id": str(user_id)}
            assert (await client.post(REQUESTS, json=body, headers=key)).status_code == 202

    async def test_one_export_of_a_user_at_a_time(self, desk: httpx.AsyncClient, create: Create, user_id: UUID) -> None:
        running = (await create(user_id, CSV, ASYNC)).json()["job_id"]
        answer = await desk.post(REQUESTS, json=BODY | {"user_id": str(user_id)})
        assert read_problem(answer, 409, "job_id", "estimated_completion")["job_id"] == running


async def test_since_is_an_export_of_the_user(
    desk: httpx.AsyncClient, create: Create, database: Connection, user_id: UUID
) -> None:
    earlier = (await create(user_id)).json()["job_id"]
    asked = await ask(desk, user_id, since=earlier)
    assert asked["filter"]["since"] == earlier
    body = BODY | {"user_id": str(await create_user(database)), "since": earlier}
    assert "there is none with this id" in read_problem(await desk.post(REQUESTS, json=body), 422)["detail"]
    assert await events(database, "export:denied") == [("key", desk.headers["X-API-Key"].split("_")[1], None)]


async def test_an_event_tells_no_reason(
    desk: httpx.AsyncClient, resources: Resources, database: Connection, user_id: UUID
) -> None:
    await resources.events.note_receiver(database, "https://receiver.example.org")
    asked = await ask(desk, user_id)
    await finish(resources, asked["job_id"])
    (event,) = await database.fetch("SELECT kind, data FROM carryout.export_events")
    assert event["kind"] == "completed"
    assert msgspec.json.decode(event["data"])["job_id"] == asked["job_id"]
    assert "letter" not in event["data"]
    assert "support" not in event["data"]


async def test_pages_are_newest_first(desk: httpx.AsyncClient, database: Connection) -> None:
    asked = [await ask(desk, await create_user(database)) for _ in range(3)]
    first = (await desk.get(f"{REQUESTS}?limit=2")).json()
    assert first["requests"] == [asked[2], asked[1]]
    assert first["next"] == f"/carryout{REQUESTS}?limit=2&after={asked[1]['job_id']}"
    rest = (await desk.get(first["next"].removeprefix("/carryout"))).json()
    assert rest == {"requests": [asked[0]], "next": None}
    read_problem(await desk.get(f"{REQUESTS}?limit=0"), 400)
    read_problem(await desk.get(f"{REQUESTS}?state=late"), 400)


async def test_too_much_data_is_refused_with_ranges(settings: Settings, database: Connection, user_id: UUID) -> None:
    key = {"X-API-Key": await create_key(database)}
    async with open_client(msgspec.structs.replace(settings, max_export_records=2, small_export_records=2)) as client:
        answer = await client.post(REQUESTS, json=BODY | {"user_id": str(user_id)}, headers=key)
    problem = answer.json()
    assert answer.status_code == 422
    assert (problem["title"], problem["limit"]) == ("Export too large", 2)

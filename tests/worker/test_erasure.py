"""The exports of users whom the application has erased end without an operator; those of living users never do."""

import dataclasses
import datetime as dt
import uuid
from http import HTTPStatus

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from service.backends.database import QUERIES, open_pool
from service.bookkeeping.audit import SYSTEM, Actor
from service.bookkeeping.exports import DeskRequest, Export, ExportRequest, ExportStatus
from service.errors import OutageError
from service.export_spec import ExportSpec
from service.exports import files
from service.exports.requests import request_export
from service.formats import Format
from service.mails.sending import send_due_mails
from service.resources import Resources
from service.settings import Settings
from tests.api.problems import bearer
from tests.conftest import PUBLIC_URL, Token
from tests.support.exports import start_export
from tests.support.factories import Connection, create_user_with, list_actions, list_audit
from tests.support.smtp import SmtpServer
from tests.worker.test_repair_counts import count, find
from worker.erasure import GONE, end_erased
from worker.expiry import expire_files
from worker.running import run_export


async def erase(database: Connection, user_id: uuid.UUID) -> None:
    await database.execute("DELETE FROM public.activity WHERE user_id = $1", user_id)
    await database.execute("DELETE FROM public.content WHERE user_id = $1", user_id)
    await database.execute("DELETE FROM public.users WHERE id = $1", user_id)


async def give_again(database: Connection, user_id: uuid.UUID, created_at: str = "now") -> None:
    await database.execute(
        "INSERT INTO public.users (id, email, name, password_hash, created_at)"
        " VALUES ($1, 'next@example.com', 'Next', 'x', $2::text::timestamptz)",
        user_id,
        created_at,
    )


async def look(resources: Resources, database: Connection) -> None:
    """One round, when it is due."""
    await database.execute(
        "UPDATE carryout.export_jobs SET created_at = created_at - interval '6 minutes',"
        " subject_checked_at = subject_checked_at - interval '6 minutes'"
    )
    await end_erased(resources)


@pytest.fixture
async def user_id(database: Connection) -> uuid.UUID:
    user_id = await create_user_with(database, 3)
    await database.execute("UPDATE public.users SET created_at = '2020-01-01' WHERE id = $1", user_id)
    return user_id


@pytest.fixture
def settings(settings: Settings, smtp: SmtpServer) -> Settings:
    return msgspec.structs.replace(settings, smtp_url=smtp.url)


async def test_a_link_ends_and_its_file_goes(
    resources: Resources, database: Connection, api: httpx.AsyncClient, token: Token, user_id: uuid.UUID
) -> None:
    export = await start_export(resources, user_id, queued=False)
    link = (files.download_url(resources, export) or "").removeprefix(PUBLIC_URL)
    await erase(database, user_id)
    await look(resources, database)
    assert (await api.get(link)).status_code == HTTPStatus.FOUND  # one look isn't enough
    with capture_logs() as lines:
        await look(resources, database)
    assert [line["event"] for line in lines] == ["export_of_erased_user_ended"]
    assert (await api.get(link)).status_code == HTTPStatus.GONE
    assert await count(resources, "carryout_repairs_total", step="erased") == 1
    event = (await list_audit(database))[-1]
    assert (event["action"], event["actor_type"], event["outcome"]) == ("export:deleted", "system", GONE)
    await expire_files(resources)
    assert (await find(resources, export.id)).file_deleted_at


async def test_a_running_export_fails(resources: Resources, database: Connection, user_id: uuid.UUID) -> None:
    export = await start_export(resources, user_id, queued=True)
    await erase(database, user_id)
    for _ in range(2):
        await look(resources, database)
    failed = await find(resources, export.id)
    assert (failed.status, failed.error_message) == (ExportStatus.FAILED, GONE)
    assert (await list_actions(database))[-2:] == ["export:cancelled", "export:failed"]
    await look(resources, database)  # does nothing more
    assert (await list_actions(database))[-2:] == ["export:cancelled", "export:failed"]


@pytest.mark.parametrize("ending", ["ready", "failed"])
async def test_waiting_mails_are_skipped(
    resources: Resources, database: Connection, user_id: uuid.UUID, ending: str
) -> None:
    export = await start_export(resources, user_id, queued=True)
    if ending == "failed":
        await database.execute("UPDATE carryout.export_jobs SET failures = 2")
        await database.execute("ALTER TABLE public.content RENAME TO contents")
    await run_export(resources, export.id)
    await database.execute("ALTER TABLE IF EXISTS public.contents RENAME TO content")
    assert await database.fetchval("SELECT kind FROM carryout.export_notifications") == ending
    await erase(database, user_id)
    for _ in range(2):
        await look(resources, database)
    mail = await database.fetchrow("SELECT state, last_error FROM carryout.export_notifications")
    assert mail is not None
    assert (*mail,) == ("skipped", GONE)
    assert (await list_audit(database))[-1]["outcome"] == f"skipped: {GONE}"


async def test_a_request_of_the_desk_is_not_overdue(
    resources: Resources, database: Connection, smtp: SmtpServer, user_id: uuid.UUID
) -> None:
    desk = DeskRequest("support", "Your letter", dt.datetime.now(dt.UTC) - dt.timedelta(days=60))
    wanted = ExportRequest(ExportSpec(user_id, Format.CSV), Actor("key", "abcdefgh"), respond_async=True, desk=desk)
    export = await request_export(resources, wanted)
    assert await database.fetchval(f"SELECT requests_overdue FROM ({QUERIES['measure_backlog']}) AS backlog") == 1
    await erase(database, user_id)
    for _ in range(2):
        await look(resources, database)
    assert (await find(resources, export.id)).error_message == GONE
    assert await database.fetchval(f"SELECT requests_overdue FROM ({QUERIES['measure_backlog']}) AS backlog") == 0
    assert await send_due_mails(resources, limit=10) == 0
    assert smtp.mails == []


class TestGivenAgain:
    """The next user with the same id is told from the former one by the profile's `created_at`."""

    async def test_the_next_one_sees_nothing_of_the_former_ones(
        self, resources: Resources, database: Connection, api: httpx.AsyncClient, token: Token, user_id: uuid.UUID
    ) -> None:
        """The list of downloads has addresses of the former one."""
        headers = bearer(token(user_id)) | {"Idempotency-Key": "monthly"}
        created = (await api.post("/api/export", json={"format": "csv"}, headers=headers)).json()
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now()")  # ended before the erasure
        for _ in range(2):
            await start_export(resources, user_id, queued=False)
        await erase(database, user_id)
        for _ in range(2):
            await look(resources, database)
        await give_again(database, user_id)
        assert (await api.get("/api/export", headers=headers)).json()["exports"] == []
        for path in ("", "/downloads", "/events"):
            answer = await api.get(f"/api/export/{created['job_id']}{path}", headers=headers)
            assert answer.status_code == HTTPStatus.NOT_FOUND
        again = (await api.post("/api/export", json={"format": "csv"}, headers=headers)).json()
        assert (again["status"], again["job_id"] != created["job_id"]) == ("completed", True)
        assert len((await api.get("/api/export", headers=headers)).json()["exports"]) == 1

    async def test_the_former_ones_exports_end(
        self, resources: Resources, database: Connection, user_id: uuid.UUID
    ) -> None:
        export = await start_export(resources, user_id, queued=False)
        await erase(database, user_id)
        await give_again(database, user_id)
        for _ in range(2):
            await look(resources, database)
        assert (await find(resources, export.id)).expired

    async def test_the_former_ones_running_export_fails(
        self, resources: Resources, database: Connection, user_id: uuid.UUID
    ) -> None:
        export = await start_export(resources, user_id, queued=True)
        await erase(database, user_id)
        await give_again(database, user_id)
        await database.execute("UPDATE carryout.export_jobs SET created_at = now() - interval '2 minutes'")
        await run_export(resources, export.id)
        failed = await find(resources, export.id)
        assert (failed.status, failed.error_message) == (ExportStatus.FAILED, "No such user")

    async def test_no_mail_reaches_the_next_one(
        self, resources: Resources, database: Connection, user_id: uuid.UUID, smtp: SmtpServer
    ) -> None:
        export = await start_export(resources, user_id, queued=True)
        await run_export(resources, export.id)
        await erase(database, user_id)
        await give_again(database, user_id)
        await database.execute("UPDATE carryout.export_jobs SET created_at = now() - interval '2 minutes'")
        await send_due_mails(resources, limit=10)
        assert await database.fetchval("SELECT state FROM carryout.export_notifications") == "skipped"
        assert smtp.commands == []


class TestLivingUsers:
    @pytest.fixture
    async def export(self, resources: Resources, user_id: uuid.UUID) -> Export:
        return await start_export(resources, user_id, queued=False)

    async def test_keep_their_exports(self, resources: Resources, database: Connection, export: Export) -> None:
        for _ in range(3):
            await look(resources, database)
        assert not (await find(resources, export.id)).expired

    async def test_may_be_missing_for_a_while_where_a_replica_lags(
        self, resources: Resources, database: Connection, export: Export, user_id: uuid.UUID
    ) -> None:
        for _ in range(3):
            await erase(database, user_id)
            await look(resources, database)
            assert (await find(resources, export.id)).subject_missing
            await give_again(database, user_id, created_at="2020-01-01")
            await look(resources, database)
            assert not (await find(resources, export.id)).subject_missing
        assert not (await find(resources, export.id)).expired

    async def test_are_not_looked_for_twice_in_five_minutes(
        self, resources: Resources, database: Connection, export: Export, user_id: uuid.UUID
    ) -> None:
        await erase(database, user_id)
        await look(resources, database)
        for _ in range(3):
            await end_erased(resources)
        assert not (await find(resources, export.id)).expired

    async def test_are_not_missing_in_an_outage(
        self, resources: Resources, database: Connection, export: Export
    ) -> None:
        async with open_pool("postgresql://127.0.0.1:1/nowhere", size=1, application_name="nowhere") as nowhere:
            cut_off = dataclasses.replace(resources, source=nowhere)
            for _ in range(3):
                with pytest.raises(OutageError):
                    await look(cut_off, database)
        found = await find(resources, export.id)
        assert (found.subject_missing, found.expired) == (False, False)

    async def test_are_not_missing_where_their_profile_cannot_be_read(
        self, resources: Resources, database: Connection, export: Export, user_id: uuid.UUID
    ) -> None:
        """Nor does it keep others from being looked for."""
        profile = resources.datasets[0]
        guarded = f"SELECT * FROM ({profile.sql}) AS p WHERE 1 / (p.id <> '{user_id}')::int = 1"
        broken = dataclasses.replace(
            resources, datasets=(msgspec.structs.replace(profile, sql=guarded), *resources.datasets[1:])
        )
        other_id = await create_user_with(database, 3)
        other = await start_export(resources, other_id, queued=False)
        await erase(database, other_id)
        for _ in range(2):
            await look(broken, database)
        assert not (await find(resources, export.id)).expired
        assert (await find(resources, other.id)).expired


async def look_after_a_day(resources: Resources, database: Connection) -> None:
    await database.execute(
        "UPDATE carryout.export_jobs SET created_at = created_at - interval '1 day',"
        " subject_checked_at = subject_checked_at - interval '1 day'"
    )
    await end_erased(resources)


async def end_all(resources: Resources, database: Connection, user_id: uuid.UUID) -> None:
    """One export fails, the link of another one ends, and its file is deleted."""
    failing = await start_export(resources, user_id, queued=True)
    async with resources.transaction() as connection:
        await resources.exports.end(connection, failing.id, SYSTEM, message="cancelled")
    await start_export(resources, user_id, queued=False)
    await database.execute("UPDATE carryout.export_jobs SET expires_at = now() WHERE status = 'completed'")
    await expire_files(resources)


async def test_exports_that_had_ended_before_the_erasure_are_not_the_next_users(
    resources: Resources, database: Connection, api: httpx.AsyncClient, token: Token, user_id: uuid.UUID
) -> None:
    await end_all(resources, database, user_id)
    await look(resources, database)
    headers = bearer(token(user_id))
    await erase(database, user_id)
    await look_after_a_day(resources, database)
    assert len((await api.get("/api/export", headers=headers)).json()["exports"]) == 2  # one look isn't enough
    await give_again(database, user_id)
    await look_after_a_day(resources, database)
    assert (await api.get("/api/export", headers=headers)).json()["exports"] == []
    await look_after_a_day(resources, database)
    assert await database.fetchval("SELECT bool_and(subject_checked_at = 'infinity') FROM carryout.export_jobs")


async def test_a_living_user_keeps_them(
    resources: Resources, database: Connection, api: httpx.AsyncClient, token: Token, user_id: uuid.UUID
) -> None:
    await end_all(resources, database, user_id)
    for _ in range(3):
        await look_after_a_day(resources, database)
    assert len((await api.get("/api/export", headers=bearer(token(user_id)))).json()["exports"]) == 2


async def test_expired_exports_are_looked_at_no_more(
    resources: Resources, database: Connection, user_id: uuid.UUID
) -> None:
    await start_export(resources, user_id, queued=False)
    await database.execute("UPDATE carryout.export_jobs SET expires_at = now()")
    await look(resources, database)
    assert await database.fetchval("SELECT subject_checked_at = 'infinity' FROM carryout.export_jobs")

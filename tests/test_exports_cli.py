"""The operators' commands about exports, on real exports and their files."""

import dataclasses
import re
import uuid
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest

from devstack.stack import Stack
from service import exporting, operating, requesting
from service.audit import Actor
from service.bootstrap import Resources
from service.exports import Export, ExportFilter, ExportStatus
from service.mailer import Mailer
from service.notifying import send_due_mails
from tests.commands import Ended, Run, run_command
from tests.conftest import PUBLIC_URL
from tests.factories import Connection, create_user, list_audit, refuse_audit
from worker.repair import expire_files

NOTHING = "nothing to end: no running export, no working link\n"


@pytest.fixture
def run(stack: Stack, database_url: str) -> Run:
    urls = {"CARRYOUT_DATABASE_URL": database_url, "CARRYOUT_PUBLIC_URL": PUBLIC_URL}

    async def ended(*arguments: str) -> Ended:
        return await run_command(stack.environ | urls, "exports", *arguments)

    return ended


async def ask(resources: Resources, user_id: UUID, format_: str = "csv", *, respond_async: bool = False) -> Export:
    actor = Actor("user", str(user_id))
    request = requesting.ExportRequest(user_id, format_, actor, respond_async=respond_async)  # type: ignore[arg-type]
    export, _ = await requesting.request_export(resources, request)
    return export


async def fail(resources: Resources, database: Connection, export: Export) -> None:
    """As its worker would, with a mail."""
    await database.execute(
        "UPDATE carryout.export_jobs SET status = 'processing', attempt = 1, lease_expires_at = now() + '1 minute'"
        " WHERE id = $1",
        export.id,
    )
    async with exporting.open_connection(resources) as connection:
        claimed = await resources.exports.find(connection, export.id)
    assert claimed
    await exporting.fail(resources, claimed, message=exporting.FAILED_MESSAGE, cause="DocumentError")


async def show(run: Run, *arguments: str) -> list[dict[str, Any]]:
    ended = await run("list", "--json", *arguments)
    assert (ended.status, ended.err) == (0, "")
    return [msgspec.json.decode(line) for line in ended.out.splitlines()]


async def list_files(resources: Resources, export: Export) -> list[str]:
    return [key async for page in resources.storage.list_keys(f"exports/{export.id}/") for key in page]


class TestList:
    async def test_table(self, run: Run, resources: Resources, database: Connection) -> None:
        user_id = await create_user(database, activity=2)
        failed = await ask(resources, user_id, "json", respond_async=True)
        await fail(resources, database, failed)
        completed = await ask(resources, user_id)

        header, first, second = (await run("list")).table

        assert header == [
            *("id", "user", "status", "format", "records", "bytes", "created", "completed", "expires", "file deleted"),
            *("mail", "error message", "cause", "mail cause"),
        ]
        facts = [str(completed.id), str(user_id), "completed", "csv", "3", str(completed.size_bytes)]
        assert (first[:6], first[9:]) == (facts, ["-", "-", "-", "-", "-"])
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", cell) for cell in first[6:9])
        assert second[:6] == [str(failed.id), str(user_id), "failed", "json", "-", "-"]
        assert second[8:] == ["-", "-", "pending", exporting.FAILED_MESSAGE, "DocumentError", "-"]

    async def test_mail_that_waits(self, run: Run, resources: Resources, database: Connection) -> None:
        failed = await ask(resources, await create_user(database), respond_async=True)
        await fail(resources, database, failed)
        nowhere = Mailer("smtp://127.0.0.1:1?starttls=never", "carryout@example.com")
        await send_due_mails(dataclasses.replace(resources, mailer=nowhere), limit=1)
        (shown,) = await show(run)
        cause = "the server can't be reached: nothing listens there"
        assert (shown["mail"], shown["mail_cause"]) == ("pending", cause)

    async def test_json_lines(self, run: Run, resources: Resources, database: Connection) -> None:
        assert await show(run) == []
        export = await ask(resources, await create_user(database), respond_async=True)
        (shown,) = await show(run)
        assert shown.pop("created_at").endswith("Z")
        assert shown == {
            "id": str(export.id),
            "user_id": str(export.user_id),
            "status": "pending",
            "format": "csv",
            "record_count": None,
            "size_bytes": None,
            "completed_at": None,
            "expires_at": None,
            "file_deleted_at": None,
            "mail": None,
            "error_message": None,
            "error_cause": None,
            "mail_cause": None,
        }

    async def test_filters(self, run: Run, resources: Resources, database: Connection) -> None:
        ada, grace = [await create_user(database) for _ in range(2)]
        old = await ask(resources, ada)
        await database.execute("UPDATE carryout.export_jobs SET created_at = now() - interval '2 days'")
        theirs = await ask(resources, grace)
        queued = await ask(resources, ada, respond_async=True)
        everything = [queued, theirs, old]

        async def expect(wanted: list[Export], *, limit: int = 100, **wishes: Any) -> None:
            found = resources.exports.iterate_latest(database, ExportFilter(limit=limit, **wishes))
            assert [summary.id async for summary in found] == [export.id for export in wanted]

        await expect(everything)
        await expect(everything[:2], limit=2)
        await expect(everything[:2], since_seconds=86_400)
        await expect([queued, old], user_id=ada)
        await expect([theirs, old], status=ExportStatus.COMPLETED)
        await expect([], user_id=uuid.uuid4())
        (shown,) = await show(run, "--status", "completed", "--user", str(ada), "--since", "3d", "--limit", "1")
        assert shown["id"] == str(old.id)

    @pytest.mark.parametrize(
        ("arguments", "status", "sentence"),
        [
            (("--user", "ada"), 1, "carryout: Not a user id of type uuid"),
            (("--status", "running"), 2, "'running' is not one of 'pending', 'processing', 'completed', 'failed'"),
        ],
    )
    async def test_wrong_arguments(self, run: Run, arguments: tuple[str, ...], status: int, sentence: str) -> None:
        ended = await run("list", *arguments)
        assert (ended.status, ended.out) == (status, "")
        assert sentence in ended.err


class TestEnd:
    async def test_all_of_a_user(
        self, run: Run, resources: Resources, database: Connection, api: httpx.AsyncClient
    ) -> None:
        user_id = await create_user(database)
        mine = [await ask(resources, user_id, "csv"), await ask(resources, user_id, "json")]
        running = await ask(resources, user_id, respond_async=True)
        theirs = await ask(resources, await create_user(database))
        before = len(await list_audit(database))

        ended = await run("end", "--user", str(user_id))

        assert (ended.status, ended.err) == (0, "")
        assert ended.out.splitlines() == [
            "running exports cancelled: 1",
            "links ended: 2 (a worker deletes the files within seconds)",
        ]
        for export, status in ((mine[0], 410), (mine[1], 410), (theirs, 302)):
            link = (exporting.download_url(resources, export) or "").removeprefix(PUBLIC_URL)
            assert (await api.get(link)).status_code == status
        cancelled, *_ = await show(run, "--user", str(user_id))
        assert (cancelled["id"], cancelled["status"]) == (str(running.id), "failed")
        assert (cancelled["error_message"], cancelled["mail"]) == ("cancelled by an operator", None)

        events = (await list_audit(database))[before:]
        assert sorted((event["action"], event["job_id"], event["outcome"]) for event in events[:4]) == sorted(
            [
                ("export:cancelled", running.id, None),
                ("export:failed", running.id, "cancelled by an operator"),
                *(("export:deleted", export.id, None) for export in mine),
            ]
        )
        assert {(event["actor_type"], event["actor"], event["user_id"]) for event in events[:4]} == {
            ("system", None, user_id)
        }
        assert all(re.fullmatch(r"carryout \(.+\)", event["user_agent"]) for event in events[:4])

    async def test_files_are_deleted(self, run: Run, resources: Resources, database: Connection) -> None:
        export = await ask(resources, await create_user(database))
        assert await list_files(resources, export) == [export.object_key]
        await run("end", str(export.id))
        (ended,) = await show(run)
        await expire_files(resources)
        (deleted,) = await show(run)
        assert (ended["file_deleted_at"], deleted["file_deleted_at"] is None) == (None, False)
        assert await list_files(resources, export) == []

    async def test_one_export(self, run: Run, resources: Resources, database: Connection) -> None:
        user_id = await create_user(database)
        completed = await ask(resources, user_id)
        running = await ask(resources, user_id, respond_async=True)
        ended = await run("end", str(running.id))
        assert ended.out == "running exports cancelled: 1\nlinks ended: 0\n"
        async with exporting.open_connection(resources) as connection:
            assert await exporting.get_file(resources, connection, completed.id)

    async def test_twice_is_once(self, run: Run, resources: Resources, database: Connection) -> None:
        export = await ask(resources, await create_user(database))
        await run("end", str(export.id))
        trail = await list_audit(database)
        for arguments in ((str(export.id),), ("--user", str(export.user_id))):
            again = await run("end", *arguments)
            assert (again.status, again.out, again.err) == (0, NOTHING, "")
        assert await list_audit(database) == trail

    async def test_all_or_none(self, resources: Resources, database: Connection) -> None:
        """An event that can't be written leaves everything as it was."""
        user_id = await create_user(database)
        await ask(resources, user_id)
        await ask(resources, user_id, respond_async=True)
        unended = await resources.exports.list_unended(database, user_id)
        await refuse_audit(database, "export:deleted")
        with pytest.raises(asyncpg.RaiseError, match="refused"):
            await operating.end_exports_of_user(database, resources.exports, user_id)
        assert len(unended) == 2
        assert await resources.exports.list_unended(database, user_id) == unended

    @pytest.mark.parametrize(
        ("arguments", "status", "sentence"),
        [
            ((), 2, "Give either JOB_ID or --user."),
            ((str(uuid.uuid4()), "--user", str(uuid.uuid4())), 2, "Give either JOB_ID or --user."),
            ((str(uuid.uuid4()),), 1, "carryout: Export not found\n"),
        ],
        ids=["neither", "both", "unknown"],
    )
    async def test_wrong_arguments(self, run: Run, arguments: tuple[str, ...], status: int, sentence: str) -> None:
        ended = await run("end", *arguments)
        assert (ended.status, ended.out) == (status, "")
        assert sentence in ended.err

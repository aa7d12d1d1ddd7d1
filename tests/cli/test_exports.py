"""The operators' commands about exports, on real exports and their files."""

import dataclasses
import re
import uuid
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from devstack.stack import Stack
from service.bookkeeping.exports import Export, ExportFilter, ExportStatus
from service.exports import attempts, cancellation, files
from service.formats import Format
from service.mails.sending import send_due_mails
from service.resources import Resources
from tests.conftest import PUBLIC_URL
from tests.sql.databases import database_environ
from tests.support import processes
from tests.support.exports import start_export
from tests.support.factories import Connection, create_user, list_audit, refuse_audit
from tests.support.mails import create_mailer
from tests.support.processes import Ended, Run
from worker.expiry import expire_files

NOTHING = "nothing to end: there is no running export and no working link\n"


@pytest.fixture
def run(stack: Stack, database_url: str) -> Run:
    urls = database_environ(stack, database_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}

    async def ended(*arguments: str) -> Ended:
        return await processes.run(stack.environ | urls, "exports", *arguments)

    return ended


async def fail(resources: Resources, database: Connection, export: Export) -> None:
    """As its worker would, with a mail."""
    await database.execute(
        "UPDATE carryout.export_jobs SET status = 'processing', attempt = 1, lease_expires_at = now() + '1 minute'"
        " WHERE id = $1",
        export.id,
    )
    async with resources.connection() as connection:
        claimed = await resources.exports.find(connection, export.id)
    assert claimed
    await attempts.fail(resources, claimed, message=attempts.FAILED_MESSAGE, cause="DocumentError")


async def show(run: Run, *arguments: str) -> list[dict[str, Any]]:
    ended = await run("list", "--json", *arguments)
    assert (ended.status, ended.err) == (0, "")
    return [msgspec.json.decode(line) for line in ended.out.splitlines()]


async def list_files(resources: Resources, export: Export) -> list[str]:
    return [key async for page in resources.storage.list_keys(f"exports/{export.id}/") for key in page]


class TestList:
    async def test_table(self, run: Run, resources: Resources, database: Connection) -> None:
        user_id = await create_user(database, activity=2)
        failed = await start_export(resources, user_id, Format.JSON)
        await fail(resources, database, failed)
        completed = await start_export(resources, user_id, queued=False)

        header, first, second = (await run("list")).table

        assert header == [
            *("id", "user", "status", "format", "records", "bytes", "created", "completed", "expires", "file deleted"),
            *("mail", "error message", "cause", "mail cause"),
        ]
        facts = [str(completed.id), str(user_id), "completed", "csv", "3", str(completed.size_bytes)]
        assert (first[:6], first[9:]) == (facts, ["-", "-", "-", "-", "-"])
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", cell) for cell in first[6:9])
        assert second[:6] == [str(failed.id), str(user_id), "failed", "json", "-", "-"]
        assert second[8:] == ["-", "-", "pending", attempts.FAILED_MESSAGE, "DocumentError", "-"]

    async def test_mail_that_waits(self, run: Run, resources: Resources, database: Connection) -> None:
        failed = await start_export(resources, await create_user(database))
        await fail(resources, database, failed)
        nowhere = create_mailer("smtp://127.0.0.1:1?starttls=never")
        await send_due_mails(dataclasses.replace(resources, mailer=nowhere), limit=1)
        (shown,) = await show(run)
        cause = "the server can't be reached: nothing listens there"
        assert (shown["mail"], shown["mail_cause"]) == ("pending", cause)

    async def test_json_lines(self, run: Run, resources: Resources, database: Connection) -> None:
        assert await show(run) == []
        export = await start_export(resources, await create_user(database))
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
        old = await start_export(resources, ada, queued=False)
        await database.execute("UPDATE carryout.export_jobs SET created_at = now() - interval '2 days'")
        theirs = await start_export(resources, grace, queued=False)
        queued = await start_export(resources, ada)
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


class TestShow:
    async def test_everything_known(self, run: Run, resources: Resources, database: Connection) -> None:
        failed = await start_export(resources, await create_user(database))
        await fail(resources, database, failed)

        ended = await run("show", str(failed.id), "--json")

        shown = msgspec.json.decode(ended.out)
        row = await database.fetchrow("SELECT * FROM carryout.export_jobs")
        assert row
        assert shown.keys() == {name for name, value in row.items() if value is not None} | {"mails", "events", "file"}
        assert (shown["error_cause"], shown["file"]) == ("DocumentError", "none")
        assert [mail["kind"] for mail in shown["mails"]] == ["failed"]
        assert [event["action"] for event in shown["events"]] == ["export:requested", "export:failed"]
        lines = (await run("show", str(failed.id))).out
        assert all(text in lines for text in (str(failed.user_id), "mails: 1", "events: 2", "DocumentError"))

    async def test_its_file(self, run: Run, resources: Resources, database: Connection) -> None:
        export = await start_export(resources, await create_user(database), queued=False)
        shown = msgspec.json.decode((await run("show", str(export.id), "--json")).out)
        async with resources.connection() as connection:
            completed = await files.get_file(resources, connection, export.id)
        assert (shown["file"], shown["sha256"]) == ("in the storage", (completed.sha256 or b"").hex())
        await resources.storage.delete(files.key_of(completed))
        assert "missing from the storage" in (await run("show", str(export.id))).out

    async def test_an_unknown_one(self, run: Run) -> None:
        ended = await run("show", str(uuid.uuid4()))
        assert (ended.status, ended.out, ended.err) == (1, "", "carryout: Export not found\n")


class TestEnd:
    async def test_all_of_a_user(
        self, run: Run, resources: Resources, database: Connection, api: httpx.AsyncClient
    ) -> None:
        user_id = await create_user(database)
        mine = [
            await start_export(resources, user_id, queued=False),
            await start_export(resources, user_id, Format.JSON, queued=False),
        ]
        running = await start_export(resources, user_id)
        theirs = await start_export(resources, await create_user(database), queued=False)
        before = len(await list_audit(database))

        ended = await run("end", "--user", str(user_id))

        assert (ended.status, ended.err) == (0, "")
        assert ended.out.splitlines() == [
            "running exports cancelled: 1",
            "links ended: 2 (a worker deletes the files within seconds)",
        ]
        for export, status in ((mine[0], 410), (mine[1], 410), (theirs, 302)):
            link = (files.download_url(resources, export) or "").removeprefix(PUBLIC_URL)
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
        export = await start_export(resources, await create_user(database), queued=False)
        assert await list_files(resources, export) == [files.key_of(export)]
        await run("end", str(export.id))
        (ended,) = await show(run)
        await expire_files(resources)
        (deleted,) = await show(run)
        assert (ended["file_deleted_at"], deleted["file_deleted_at"] is None) == (None, False)
        assert await list_files(resources, export) == []

    async def test_one_export(self, run: Run, resources: Resources, database: Connection) -> None:
        user_id = await create_user(database)
        completed = await start_export(resources, user_id, queued=False)
        running = await start_export(resources, user_id)
        ended = await run("end", str(running.id))
        assert ended.out == "running exports cancelled: 1\nlinks ended: 0\n"
        async with resources.connection() as connection:
            assert await files.get_file(resources, connection, completed.id)

    async def test_twice_is_once(self, run: Run, resources: Resources, database: Connection) -> None:
        export = await start_export(resources, await create_user(database), queued=False)
        await run("end", str(export.id))
        trail = await list_audit(database)
        for arguments in ((str(export.id),), ("--user", str(export.user_id))):
            again = await run("end", *arguments)
            assert (again.status, again.out, again.err) == (0, NOTHING, "")
        assert await list_audit(database) == trail

    async def test_all_or_none(self, resources: Resources, database: Connection) -> None:
        """An event that can't be written leaves everything as it was."""
        user_id = await create_user(database)
        await start_export(resources, user_id, queued=False)
        await start_export(resources, user_id)
        unended = await resources.exports.list_unended(database, user_id)
        await refuse_audit(database, "export:deleted")
        with pytest.raises(asyncpg.RaiseError, match="refused"):
            await cancellation.cancel_all_for_operator(database, resources.exports, user_id)
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

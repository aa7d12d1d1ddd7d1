"""From a queued export to a file on a stranger's disk, and mail servers that fail on the way."""

import asyncio
import hashlib
import re
from pathlib import Path

import httpx
import pytest

from devstack.ports import keep_port
from devstack.stack import Stack
from service.bookkeeping.exports import Export, ExportStatus
from tests.faults.oracle import assert_healed
from tests.faults.world import World, open_world
from tests.support.smtp import DROP, HANG, open_smtp_server


async def test_link_from_the_mail_works_in_a_fresh_curl(fragile_stack: Stack, tmp_path: Path) -> None:
    port = keep_port(tmp_path / "port")
    async with open_world(fragile_stack, tmp_path, CARRYOUT_PUBLIC_URL=f"http://127.0.0.1:{port}") as world:
        await asyncio.gather(world.start_api(port), world.start_worker())
        export = await world.ended(await world.ask(await world.create_user(records=1_200)))
        await assert_healed(world)
        (mail,) = [text for text in world.mails() if str(export.id) in text]
        link = re.search(r"https?://\S+", mail)
        assert link
        await world.until(lambda: _answers(link[0]), "the API")
        target = tmp_path / "file.csv"
        curl = await asyncio.create_subprocess_exec("curl", "-fsSL", "-o", str(target), link[0])
        assert await curl.wait() == 0
        assert hashlib.sha256(target.read_bytes()).digest() == export.sha256


async def _answers(link: str) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.head(link)).is_success
        except httpx.TransportError:
            return False


@pytest.mark.parametrize(
    ("step", "reply", "mails", "state"),
    [
        ("CONNECT", "421 try later", 0, "pending"),
        ("RCPT", "451 try later", 0, "pending"),
        ("RCPT", "554 5.7.1 Relay access denied", 0, "pending"),
        ("RCPT", "550 nobody here", 0, "failed"),
        ("MESSAGE", DROP, 0, "ambiguous"),
        ("MESSAGE", HANG, 0, "ambiguous"),
        ("QUIT", DROP, 1, "sent"),
    ],
)
async def test_mail_server_fails(  # noqa: PLR0913, PLR0917 (what the table above says)
    fragile_stack: Stack, tmp_path: Path, step: str, reply: str, mails: int, state: str
) -> None:
    async with open_smtp_server() as server:
        server.replies[step] = reply
        async with open_world(fragile_stack, tmp_path, CARRYOUT_SMTP_URL=server.url) as world:
            worker = await world.start_worker()
            export = await world.ended(await world.ask(await world.create_user(records=1_200)))
            assert export.status is ExportStatus.COMPLETED
            if reply == HANG:
                await world.until(lambda: _is_hanging(server.hanging), "the mail server to hang")
                worker.child.kill()
                await worker.ended()
                await _let_leases_pass(world)
                await world.start_worker()
            await world.until(lambda: _has_state(world, export, state), f"the mail to be {state}")
            if state == "pending":
                server.replies.clear()
                await _let_back_off_pass(world)
            await assert_healed(world)
            assert len(server.mails) == max(mails, state == "pending")


async def _is_hanging(hanging: asyncio.Event) -> bool:
    return hanging.is_set()


async def _has_state(world: World, export: Export, state: str) -> bool:
    async with world.database() as connection:
        row = await connection.fetchrow(
            "SELECT state, attempts FROM carryout.export_notifications WHERE job_id = $1", export.id
        )
    return bool(row and row["attempts"] and row["state"] == state)


async def _let_leases_pass(world: World) -> None:
    async with world.database() as connection:
        await connection.execute("UPDATE carryout.export_notifications SET lease_expires_at = now()")


async def _let_back_off_pass(world: World) -> None:
    async with world.database() as connection:
        await connection.execute("UPDATE carryout.export_notifications SET next_attempt_at = now()")

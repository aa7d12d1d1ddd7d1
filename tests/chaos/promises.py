"""The oracle: what must hold of everything that was accepted, once all is healed."""

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import asyncpg
from standardwebhooks import Webhook

from service.access.flags import Flag, FlagRepository
from service.bookkeeping.exports import ExportStatus
from service.errors import ServiceError
from tests.chaos.client import STORAGE, Ledger
from tests.chaos.fleet import Fleet
from tests.faults.oracle import (
    all_exports,
    at_rest,
    audit_chains_are_whole,
    files_are_as_recorded,
    none_idle_in_transaction,
    only_owned_objects,
)
from tests.faults.world import World
from tests.support.receiver import SECRET, Received, Receiver
from tests.support.smtp import AcceptedMail, SmtpServer

GROWTH_MEGABYTES = 150  # an upload's parts in flight, which the allocator keeps
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SECRETS: Final = (
    "CARRYOUT_JWT_SECRET",
    "CARRYOUT_LINK_SECRETS",
    "CARRYOUT_S3_SECRET_ACCESS_KEY",
)
# A user's tag is in their e-mail address, their name and their rows; the rest: a JWT, and a link's signature.
NEVER_LOGGED: Final = ("owner-[0-9a-f]{16}", r"eyJ[\w-]{10,}\.", "signature=[0-9a-f]{8}", "X-Amz-Signature=")


@dataclass(frozen=True)
class Aftermath:
    """The installation once the faults are over. `megabytes` is the memory of each process at its start."""

    world: World
    fleet: Fleet
    ledger: Ledger
    smtp: SmtpServer
    receiver: Receiver
    http: aiohttp.ClientSession
    megabytes: dict[str, int]


async def wait_for_rest(world: World) -> None:
    """Until every export, mail and event has ended. Their pauses are hours long: none is waited for here."""

    async def hurried() -> bool:
        async with world.database() as connection:
            for outbox in ("export_notifications", "export_events"):
                await connection.execute(
                    f"UPDATE carryout.{outbox} SET next_attempt_at = now() WHERE state = 'pending'"
                )
        return await at_rest(world)

    await world.until(hurried, "every export, mail and event to end")


async def every_accepted_export_ended(aftermath: Aftermath) -> None:
    exports = {export.id: export for export in await all_exports(aftermath.world)}
    lost = aftermath.ledger.accepted.keys() - exports.keys()
    assert not lost, f"accepted, and unknown: {lost}"
    ended = {ExportStatus.COMPLETED, ExportStatus.FAILED}
    stuck = [str(job_id) for job_id in exports if exports[job_id].status not in ended]
    assert not stuck, f"never ended: {stuck}"
    strange = [job_id for job_id, user in aftermath.ledger.accepted.items() if exports[job_id].user_id != user.id]
    assert not strange, f"another user's: {strange}"


async def files_match_their_records(aftermath: Aftermath) -> None:
    await files_are_as_recorded(aftermath.world, await all_exports(aftermath.world))


async def storage_holds_only_their_files(aftermath: Aftermath) -> None:
    await only_owned_objects(aftermath.world, await all_exports(aftermath.world))


async def audit_is_whole(aftermath: Aftermath) -> None:
    await audit_chains_are_whole(aftermath.world, await all_exports(aftermath.world))


async def requests_are_told_and_answered(aftermath: Aftermath) -> None:
    """The trail tells why the desk has asked. A request is answered if its mail was sent; no key got any bytes."""
    async with aftermath.world.database() as connection:
        rows = await connection.fetch(
            """SELECT job.id, job.reason, job.answered_at, mail.state AS mail, asked.outcome, asked.actor_type
            FROM carryout.export_jobs AS job
            JOIN carryout.export_audit AS asked ON asked.job_id = job.id AND asked.action = 'export:requested'
            LEFT JOIN carryout.export_notifications AS mail ON mail.job_id = job.id AND mail.kind = 'ready'
            WHERE job.requested_by IS NOT NULL"""
        )
        taken = await connection.fetchval(
            "SELECT count(*) FROM carryout.export_audit WHERE action = 'export:downloaded' AND actor_type = 'key'"
        )
    reasons = {row["id"]: row["reason"] for row in rows}
    assert aftermath.ledger.requested.items() <= reasons.items(), (
        "an accepted request is unknown, or has another reason"
    )
    untold = [row["id"] for row in rows if (row["actor_type"], row["outcome"]) != ("key", row["reason"])]
    assert not untold, f"the trail doesn't tell who asked, and why: {untold}"
    unanswered = [row["id"] for row in rows if row["mail"] == "sent" and not row["answered_at"]]
    assert not unanswered, f"mailed, and not answered: {unanswered}"
    assert not taken, "a key without the scope got bytes"


async def at_most_one_mail(aftermath: Aftermath) -> None:
    owners = {str(job_id): user.tag for job_id, user in aftermath.ledger.accepted.items()}
    accepted: Counter[tuple[str, str]] = Counter()
    for mail in aftermath.smtp.mails:
        job_id, kind = told_by(mail)
        accepted[job_id, kind] += 1
        (recipient,) = mail.recipients
        if job_id in owners:
            assert owners[job_id] in recipient, f"the mail of {job_id} went to another user"
    doubled = [key for key, count in accepted.items() if count > 1]
    assert not doubled, f"mailed twice: {doubled}"
    async with aftermath.world.database() as connection:
        rows = await connection.fetch("SELECT job_id::text, kind, state FROM carryout.export_notifications")
    states = {(row["job_id"], row["kind"]): row["state"] for row in rows}
    for key in accepted:
        assert states[key] in {"sent", "ambiguous"}, f"{key} was accepted, and is recorded as {states[key]}"
    unsent = [key for key, state in states.items() if state == "sent" and key not in accepted]
    assert not unsent, f"recorded as sent, and never accepted: {unsent}"


async def every_event_is_accepted(aftermath: Aftermath) -> None:
    """Those of each export are accepted, for the first time, in the order of their numbers."""
    received = aftermath.receiver.requests
    for request in received:
        _require_signature(request)
    events: list[asyncpg.Record] = []
    accepted: dict[str, None] = {}

    async def all_told() -> bool:
        nonlocal events, accepted
        changes, events = await _changes_and_events(aftermath.world)
        accepted = dict.fromkeys(got.headers["webhook-id"] for got in received if got.status == HTTPStatus.NO_CONTENT)
        told = Counter((event["job_id"], f"export:{event['kind']}") for event in events)
        return told == Counter(changes) and all(event["webhook_id"] in accepted for event in events)

    await aftermath.world.until(all_told, "every change to be told")
    unknown = accepted.keys() - {event["webhook_id"] for event in events}
    assert not unknown, f"events of no change: {unknown}"
    places = {webhook_id: place for place, webhook_id in enumerate(accepted)}
    latest: dict[str, int] = {}
    for event in events:
        place = places[event["webhook_id"]]
        assert place > latest.get(event["job_id"], -1), f"{event['kind']} of {event['job_id']} came too early"
        latest[event["job_id"]] = place


def _require_signature(request: Received) -> None:
    """The library's `verify` would refuse one of more than five minutes ago."""
    sent_at = dt.datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), dt.UTC)
    signature = Webhook(SECRET).sign(request.headers["webhook-id"], sent_at, request.body.decode())
    assert signature in request.headers["webhook-signature"].split(), f"signed wrongly: {request.headers}"


async def _changes_and_events(world: World) -> tuple[list[tuple[str, str]], list[asyncpg.Record]]:
    """As of one moment: erased users' exports end at any time."""
    async with world.database() as connection, connection.transaction(isolation="repeatable_read"):
        changes = await connection.fetch(
            "SELECT job_id::text, action FROM carryout.export_audit WHERE action = ANY($1)",
            [f"export:{kind}" for kind in ("completed", "failed", "downloaded", "expired", "deleted")],
        )
        events = await connection.fetch("SELECT job_id::text, kind, webhook_id FROM carryout.export_events ORDER BY id")
    return [(change["job_id"], change["action"]) for change in changes], events


def told_by(mail: AcceptedMail) -> tuple[str, str]:
    """Which export's end, and whether it is `ready` or `failed`."""
    body = mail.message.get_body(("plain",))
    assert body
    (job_id,) = set(UUID.findall(body.get_content()))
    return job_id, "failed" if "failed" in mail.message["Subject"] else "ready"


async def nobody_holds_a_transaction(aftermath: Aftermath) -> None:
    world = aftermath.world
    await world.until(lambda: none_idle_in_transaction(world), "sessions to leave their transactions")


async def pools_are_full(aftermath: Aftermath) -> None:
    used: dict[str, int] = {}

    async def given_back() -> bool:
        nonlocal used
        used = await aftermath.fleet.used_connections(aftermath.http)
        return not used

    try:
        await aftermath.world.until(given_back, "pools")
    except AssertionError:
        raise AssertionError(f"connections never given back: {used}") from None


async def answers_are_documented(aftermath: Aftermath) -> None:
    server_errors = {
        key: count
        for key, count in aftermath.ledger.statuses.items()
        if key[1] >= 500 and key[1] != 503
        if key[0] != STORAGE
    }
    assert not server_errors, f"answered: {server_errors}"


async def nobody_saw_what_they_should_not(aftermath: Aftermath) -> None:
    broken = Counter(aftermath.ledger.broken)
    assert not broken, "; ".join(f"{promise} ({count} times)" for promise, count in broken.most_common(20))


async def logs_hold_no_secret(aftermath: Aftermath) -> None:
    secrets = [re.escape(aftermath.world.environ[name]) for name in SECRETS]
    pattern = re.compile("|".join([*secrets, *NEVER_LOGGED]))
    for member in aftermath.fleet.members.values():
        with member.log_path.open(encoding="utf-8", errors="replace") as log:
            found = next((line for line in log if pattern.search(line)), None)
        assert found is None, f"{member.log_path}: {found!r}"


async def processes_end_only_by_faults(aftermath: Aftermath) -> None:
    for member in aftermath.fleet.members.values():
        own = [ending for ending in member.endings if ending.startswith("by itself")]
        assert not own, f"{member.name} ended {own}, see {member.log_path}"


async def memory_is_given_back(aftermath: Aftermath) -> None:
    now = await aftermath.fleet.resident_megabytes()
    grown = {name: (aftermath.megabytes[name], now[name]) for name in now}
    assert all(after <= before + GROWTH_MEGABYTES for before, after in grown.values()), f"MiB before and after: {grown}"


async def flags_are_followed(aftermath: Aftermath) -> None:
    async with aftermath.world.database() as connection:
        await FlagRepository().set(connection, Flag.USERS_EXPORT_ALIVE, enabled=False)

    async def refused() -> bool:
        answers = [
            await _status(aftermath.http, f"{url}/api/v1/users/export-alive") for url in aftermath.fleet.api_urls
        ]
        return set(answers) == {403}

    await aftermath.world.until(refused, "every API process to see a flag switched")


async def _status(http: aiohttp.ClientSession, url: str) -> int:
    async with http.get(url) as answer:
        return answer.status


async def nothing_ran_from_the_queue(aftermath: Aftermath) -> None:
    assert not (aftermath.world.stack.data_dir / "exploded").exists(), "a pickle in Redis was run"


Promise = Callable[[Aftermath], Coroutine[Any, Any, None]]
PROMISES: Final[tuple[Promise, ...]] = (
    every_accepted_export_ended,
    nobody_saw_what_they_should_not,
    answers_are_documented,
    requests_are_told_and_answered,
    at_most_one_mail,
    every_event_is_accepted,
    storage_holds_only_their_files,
    files_match_their_records,
    audit_is_whole,
    nobody_holds_a_transaction,
    pools_are_full,
    logs_hold_no_secret,
    processes_end_only_by_faults,
    memory_is_given_back,
    flags_are_followed,
    nothing_ran_from_the_queue,
)


async def broken_promises(aftermath: Aftermath, promises: Sequence[Promise] = PROMISES) -> list[str]:
    broken = []
    for promise in promises:
        try:
            await promise(aftermath)
        except (AssertionError, ServiceError) as error:
            broken.append(f"{promise.__name__.replace('_', ' ')}: {error}")
    return broken

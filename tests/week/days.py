"""Days of the week: each is done to the installation, and answers what happened. Row N is that of docs/week.md."""

import asyncio
import re
import secrets
import signal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import msgspec
from yarl import URL

from service.access.tokens import LEEWAY_SECONDS
from service.backends.database import connect
from service.exports.files import key_of
from service.telemetry.metrics import VERSION
from tests.chaos.faults import STRIKES
from tests.chaos.fleet import APIS
from tests.support import processes
from tests.week.disk import Disk
from tests.week.week import Week

REACHABLE = "carryout_server_reachable"
SERVERS_NAMES = re.compile(r"postgres|redis|\bs3\b|smtp|source", re.IGNORECASE)
REFUSALS_WANTED = 20
BEHIND_SECONDS = 600
LIBFAKETIME = "libfaketimeMT.so.1"
FARTHEST_ESTIMATE = 10.0  # times the seconds that it took, or as many seconds
# A fault, its target, the server that metrics count as unreachable meanwhile, and seconds.
OUTAGES: Final = (
    ("postgres restarted at once", "postgres", "postgresql", 2.0),
    ("postgres connections exhausted", "postgres", None, 3.0),
    ("redis SIGKILL, empty", "redis", "redis", 4.0),
    ("redis full", "redis", "redis", 3.0),
    ("s3 SIGKILL", "s3", "s3", 4.0),
)


async def log_disk_full(week: Week) -> str:
    """Row 1: a worker and an API whose stdout can't be written. They work, count the lost lines, and end by SIGTERM."""
    workers = [member for name, member in week.fleet.members.items() if name not in APIS]
    port = workers[0].port
    for member in workers:
        await member.end()
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 (a device)
        environ = week.environ | {"CARRYOUT_WORKER_METRICS_PORT": str(port)}
        worker = await processes.start(environ, "worker", stdout=full, stderr=full)
        _, export = await week.queue(week.load.users[0])
        lost = (await week.scrape(workers[0].name)).value("carryout_log_lines_lost_total")
        worker.send_signal(signal.SIGTERM)
        endings = [await worker.wait()]
        for member in workers:
            member.up()
        api = await processes.start(week.environ, "serve", "--port", str(port + 1), stdout=full, stderr=full)
        address = f"http://127.0.0.1:{port + 1}/livez"
        await week.until(lambda: week.answers(address), "the API without a log to live")
        api.send_signal(signal.SIGTERM)
        endings.append(await api.wait())
    week.require(endings == [0, 0], f"processes without a log ended with {endings}")
    week.require(lost > 0, "no lost line was counted")
    words = f"a worker made export {export.status}, and counted {lost:.0f} lost lines"
    return f"{words}; SIGTERM ended it and an API"


async def rolling_deploy(week: Week) -> str:
    """Rows 8 and 11: no user notices, each process says its version, and none could lift the trail's guard."""
    async with week.under_load():
        await week.roll()
    answer = week.without_failure("a rolling deploy")
    for name in week.fleet.members:
        seen = await week.scrape(name)
        week.require(seen.value("carryout_build", version=VERSION) == 1, f"{name} doesn't say that it is {VERSION}")
        week.require(not seen.total("carryout_audit_trail_unguarded"), f"{name} could lift the trail's guard")
    await _try_to_forge(week)
    return f"{answer}; all processes say {VERSION}, and their role can't change the audit trail"


async def _try_to_forge(week: Week) -> None:
    for statement in (
        "ALTER TABLE carryout.export_audit DISABLE TRIGGER ALL",
        "DELETE FROM carryout.export_audit",
        "UPDATE carryout.export_audit SET ip = NULL",
    ):
        connection = await asyncpg.connect(week.environ["CARRYOUT_DATABASE_URL"])
        try:
            await connection.execute(statement)
            week.require(held=False, words=f"the serving role may {statement}")
        except asyncpg.InsufficientPrivilegeError:
            pass
        finally:
            await connection.close()


async def outages(week: Week) -> str:
    """Rows 7 and 14, and the classics: nothing accepted may be lost; users see 503 alone, and read of no server."""
    told = []
    for name, target, server, seconds in OUTAGES:
        async with week.under_load():
            async with STRIKES[name](week.scene, target):
                await asyncio.sleep(seconds)
                await _measured(week, server, 0)
            await week.until(lambda: week.fleet.are_ready(week.load.http), "the APIs to be ready again")
            await _measured(week, server, 1)
        told.append(f"{name}: {_users_saw(week, name)}")
    return "; ".join(told)


async def _measured(week: Week, server: str | None, value: int) -> None:
    async def is_so() -> bool:
        return server is None or (await week.scrape()).value(REACHABLE, server=server) == value

    await week.until(is_so, f"{REACHABLE} of {server} to be {value}")


def _users_saw(week: Week, when: str) -> str:
    """Nothing but 503 among the server's errors, and no word about the servers."""
    load = week.load
    seen = {status: count for status, count in load.answers.items() if int(status) >= 500}
    week.require(set(seen) <= {"503"}, f"{when}: users saw {seen}")
    named = [told for told in load.told if SERVERS_NAMES.search(told)]
    week.require(not named, f"{when}: users read {named}")
    return f"{seen.get('503', 0)} of {load.answers.total()} were 503"


async def postgresql_disk_full(week: Week) -> str:
    """Rows 4, 9 and 14: what PostgreSQL itself says, by its code, is in the log and nowhere else."""
    disk = Disk(week.world.stack.admin_url, urlsplit(week.world.database_url).path.removeprefix("/"))
    async with week.all_down():
        await disk.open()
    try:
        await _fill_up(week, disk)
    finally:
        disk.free()
        async with week.all_down():
            await disk.close()
    return f"{_users_saw(week, 'a full disk')}, and the log has the code 53100"


async def _fill_up(week: Week, disk: Disk) -> None:
    async def refused() -> bool:
        return week.load.answers["503"] >= REFUSALS_WANTED

    async with week.under_load():
        await week.settle()
        disk.fill()
        await week.until(refused, "requests to be refused while the disk is full")
        await week.until(lambda: week.has_logged('"code": "53100"'), "53100 in the log")
        disk.free()
        await week.until(lambda: week.fleet.are_ready(week.load.http), "the APIs to be ready when there is space again")
        await week.settle()


async def readers_password_changed(week: Week) -> str:
    """Row 5: readiness asks as requests do."""
    url = urlsplit(week.environ["CARRYOUT_SOURCE_DATABASE_URL"])
    api = week.fleet.members["api-1"].url

    async def is_named() -> bool:
        async with week.load.http.get(f"{api}/readyz") as answer:
            return answer.status == 503 and "source" in await answer.text()

    async with week.under_load():
        async with connect(week.world.database_url) as server:
            await server.execute(f"ALTER ROLE {url.username} PASSWORD '{secrets.token_hex(16)}'")
        await week.until(is_named, "/readyz to name the source")
        async with connect(week.world.database_url) as server:
            await server.execute(f"ALTER ROLE {url.username} PASSWORD '{url.password}'")
        await week.until(lambda: week.fleet.are_ready(week.load.http), "the APIs to be ready with the old password")
    week.require(await week.has_logged("refused the password"), "no log line says that the password was refused")
    return f"/readyz named the source; {_users_saw(week, 'a changed password')}"


async def lost_file(week: Week) -> str:
    """Row 3."""
    user = week.load.users[0]
    job_id, link = await week.make(user)
    export = await week.find(job_id)
    await week.world.resources.storage.delete(key_of(export))
    statuses = [(await week.load.ask("GET", link, None, {410}))[0] for _ in range(2)]
    missing = (await week.scrape()).value("carryout_files_missing")
    again, _ = await week.make(user)
    week.require(
        (statuses, missing, bool(again)) == ([410, 410], 1, True), f"a lost file: {statuses}, {missing}, {again}"
    )
    await week.let_end(job_id)
    return f"its link answered {statuses[0]}, the metric counts {missing:.0f}, and its user made another"


async def wrong_clock(week: Week) -> str:
    """Row 13: the hosts of an API process and of both workers are ten minutes behind."""
    late = [member for name, member in week.fleet.members.items() if name != "api-2"]
    faked = {"LD_PRELOAD": find_libfaketime(), "FAKETIME": f"-{BEHIND_SECONDS}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    for member in late:
        await week.restart(member, **faked)
    api, right = (week.fleet.members[name].url for name in APIS)
    user = week.load.users[4]
    refused, _, _ = await week.load.ask("GET", f"{api}/api/export", user, {401}, token=week.load.issue(user))
    seen = await week.scrape()
    skew, causes = seen.value("carryout_clock_skew_seconds"), seen.value("carryout_token_refusals_total", cause="clock")
    _, export = await week.queue(user)
    _, _, view = await week.load.ask("GET", f"{right}/api/export/{export.id}", user, {200})
    link = URL(msgspec.json.decode(view)["download_url"]).raw_path_qs
    got, _, content = await week.load.ask("GET", f"{api}{link}", None, {200})
    for member in late:
        await week.restart(member, LD_PRELOAD="", FAKETIME="")
    healed, _, _ = await week.load.ask("GET", f"{api}/api/export", user, {200}, token=week.load.issue(user))
    week.require(abs(skew + BEHIND_SECONDS) < LEEWAY_SECONDS, f"a wrong clock: measured {skew:.0f} seconds")
    week.require(causes > 0, "a wrong clock: no refused token has it as its cause")
    week.require(len(content) == export.size_bytes, f"a wrong clock: a download of {len(content)} bytes")
    week.require(await week.has_logged('"event": "clock_differs"'), "a wrong clock: nothing in the log")
    words = f"a fresh token got {refused} with the cause clock, {skew:.0f} s measured; workers made an export"
    return f"{words}; its link {got}; afterwards the token got {healed}"


def find_libfaketime() -> str:
    """Where Debian keeps it; empty if it doesn't."""
    return next((str(path) for path in Path("/usr/lib").glob(f"*/faketime/{LIBFAKETIME}")), "")


async def user_asks(week: Week) -> str:
    """Rows 12 and 15: an estimate that is not a hundred times too long, and what support finds by a request's id."""
    accepted, export = await week.queue(week.load.users[5])
    assert export.completed_at
    took = (export.completed_at - export.created_at).total_seconds()
    estimated = (accepted.estimate - export.created_at).total_seconds()
    events = await week.carryout("audit", "--request", accepted.request_id, "--json")
    named = {msgspec.json.decode(line)["job_id"] for line in events.out.splitlines()}
    shown = await week.carryout("exports", "show", str(export.id))
    week.require(named == {str(export.id)}, f"the request {accepted.request_id} led to {named}, not to {export.id}")
    week.require(shown.status == 0 and str(export.id) in shown.out, f"exports show: {shown}")
    week.require(estimated < FARTHEST_ESTIMATE * max(took, 1.0), f"estimated {estimated:.1f} s for {took:.1f} s")
    return f"estimated {estimated:.1f} s, took {took:.1f} s; its request's id led to the export, and all that is known"

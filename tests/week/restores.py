"""The days when PostgreSQL and the bucket no longer fit each other."""

import time
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from service.backends.database import connect
from service.backends.storage import open_storage
from service.settings import from_env
from tests.chaos.promises import told_by
from tests.support import processes
from tests.week.manual import read_sql
from tests.week.week import Week

DRILL_EXPORTS = 100
DELETED_SINCE = 3
RECONCILE = ("reconcile", "--json")


async def moved_bucket(week: Week) -> str:
    """Row 10: links into an earlier bucket."""
    made = await week.make(week.load.users[1])
    earlier = dict(week.environ)
    await week.world.resources.storage._client.create_bucket(Bucket="moved")
    await week.roll(CARRYOUT_S3_BUCKET="moved", CARRYOUT_S3_PREFIX="carryout")
    before, _, _ = await week.load.ask("GET", made[1], None, {410})
    dry = await week.carryout("reconcile")
    done = await week.carryout("reconcile", "--apply")
    after, _, _ = await week.load.ask("GET", made[1], None, {200, 302})
    async with open_storage(from_env(earlier)) as storage:
        left = [key async for page in storage.list_keys("exports/") for key in page]
    await week.roll(CARRYOUT_S3_BUCKET=earlier["CARRYOUT_S3_BUCKET"], CARRYOUT_S3_PREFIX="")
    back = await week.carryout("reconcile", "--apply")
    week.require(
        (before, after in {200, 302}, done.status, back.status, left) == (410, True, 0, 0, []),
        f"a moved bucket: {before}, {after}, {done}, {back}, {left}",
    )
    seconds = week.took["reconcile --apply"]
    return f"link {before}; {dry.err.strip()}; --apply: {done.err.strip()} in {seconds:.1f} s; link {after}"


async def restore_drill(week: Week) -> str:
    """Row 2, by the steps of docs/backup.md: a backup, a hundred exports and some deletions, a restore, `reconcile`."""
    deleted = [await week.make(week.load.users[2]) for _ in range(DELETED_SINCE)]
    dump, url = week.nginx.folder / "backup", week.world.database_url
    took = {"backup": await _timed(week.postgres_bin / "pg_dump", "-Fc", "-d", url, "-f", str(dump))}
    for job_id, _ in deleted:
        await week.load.ask("DELETE", f"/api/export/{job_id}", week.load.users[2], {204})
    since = [await week.make(week.load.users[3]) for _ in range(DRILL_EXPORTS)]
    async with connect(url) as connection:
        last_id = await connection.fetchval("SELECT max(id) FROM carryout.export_audit")
    async with week.all_down():
        took["restore"] = await _restore(week, dump)
        await _forget_mails(week)
        (gap,) = read_sql("backup.md", "After a restore")
        async with connect(url) as connection:
            await connection.execute(gap)
        dry = await week.carryout(*RECONCILE)
        print("\n".join(_told(dry.out, dry.err)), flush=True)
        done = await week.carryout(*RECONCILE, "--apply")
        print("\n".join(_told(done.out, done.err)), flush=True)
    took |= {name: seconds for name, seconds in week.took.items() if name.startswith(" ".join(RECONCILE))}
    found = [msgspec.json.decode(line) for line in dry.out.splitlines()]
    counts = {kind: sum(line["mismatch"] == kind for line in found) for kind in ("unknown object", "missing file")}
    expected = {"unknown object": len(since), "missing file": len(deleted)}
    links = [(await week.load.ask("GET", link, None, {404, 410}))[0] for _, link in (*deleted, *since[:3])]
    for line in found:  # the operator has no better backup
        if line["mismatch"] == "unknown object":
            await week.world.resources.storage.delete("exports/" + line["url"].rpartition("/exports/")[2])
    for job_id, _ in since:
        week.load.ledger.accepted.pop(job_id, None)
    async with connect(url) as connection:
        next_id = await connection.fetchval("SELECT max(id) FROM carryout.export_audit")
    await week.let_end(*(job_id for job_id, _ in deleted))
    week.require((counts, done.status) == (expected, 0), f"the drill: {counts}, not {expected}; {done}")
    week.require(next_id > last_id, f"audit ids given twice: {next_id} after {last_id}")
    times = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in took.items())
    return f"{times}; reconcile found {counts}; links {links}"


async def _restore(week: Week, dump: Path) -> float:
    name = urlsplit(week.world.database_url).path.removeprefix("/")
    async with connect(week.world.stack.admin_url) as server:
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.execute(f"CREATE DATABASE {name}")
    seconds = await _timed(week.postgres_bin / "pg_restore", "-d", week.world.database_url, str(dump))
    migrated = await week.carryout("migrate")
    week.require(migrated.status == 0, f"migrate after the restore: {migrated.err}")
    return seconds


async def _forget_mails(week: Week) -> None:
    """A restored database sends again what was pending at its backup, and knows nothing of later exports' mails."""
    async with connect(week.world.database_url) as connection:
        rows = await connection.fetch(
            "SELECT job_id::text, kind FROM carryout.export_notifications WHERE state <> 'pending'"
        )
    known = {(row["job_id"], row["kind"]) for row in rows}
    mails = week.scene.smtp.mails
    mails[:] = [mail for mail in mails if told_by(mail) in known]


def _told(out: str, err: str) -> list[str]:
    """The first line of each kind, and the summary."""
    lines = {msgspec.json.decode(line)["mismatch"]: line for line in reversed(out.splitlines())}
    return [f"    {line}" for line in (*lines.values(), err.strip())]


async def _timed(program: Path, *arguments: str) -> float:
    started = time.monotonic()
    process = await processes.start({}, *arguments, program=[program])
    out, err = await process.communicate()
    assert process.returncode == 0, (out, err)
    return time.monotonic() - started

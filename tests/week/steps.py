"""The days of the week: each is done to the installation, and answers what happened."""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import redis.asyncio
from prometheus_client.parser import text_string_to_metric_families

from devstack.roles import with_role
from devstack.sample import READER
from service.access.tokens import create_token
from service.backends.database import connect
from service.backends.storage import open_storage
from service.bookkeeping.exports import Export
from service.exports.files import key_of
from service.settings import from_env
from tests.chaos.client import User
from tests.chaos.faults import STRIKES, Scene
from tests.chaos.fleet import APIS, Fleet
from tests.faults.world import World
from tests.support import processes
from tests.support.processes import Ended
from tests.week.load import Load
from tests.week.nginx import Nginx

PATIENCE_SECONDS = 60.0
DRILL_EXPORTS = 100
DELETED_SINCE = 3


@dataclass
class Week:
    world: World
    fleet: Fleet
    nginx: Nginx
    load: Load
    scene: Scene
    environ: dict[str, str]
    postgres_bin: Path
    broken: list[str] = field(default_factory=list)
    took: dict[str, float] = field(default_factory=dict)

    def require(self, held: object, words: str) -> None:
        if not held:
            self.broken.append(words)

    async def until(self, true: Callable[[], Awaitable[bool]], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await true():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self.broken.append(f"waited in vain for {what}")

    async def carryout(self, *arguments: str) -> Ended:
        started = time.monotonic()
        ended = await processes.run(self.environ, *arguments)
        self.took[" ".join(arguments)] = time.monotonic() - started
        return ended

    async def roll(self, **settings: str) -> None:
        """Restart each process with these settings, one after the other; an API while nginx leaves it alone."""
        self.environ |= settings
        for name, member in self.fleet.members.items():
            if name in APIS:
                async with self.nginx.without(member.port):
                    await member.restart(**settings)
                    await self.until(lambda url=member.url: self._is_alive(f"{url}/readyz"), f"{name} to be ready")  # type: ignore[misc]
            else:
                await member.restart(**settings)
                await self.until(lambda url=member.url: self._is_alive(f"{url}/livez"), f"{name} to live")  # type: ignore[misc]

    async def _is_alive(self, url: str) -> bool:
        try:
            async with self.load.http.get(url) as answer:
                return answer.status == 200
        except OSError:
            return False

    @asynccontextmanager
    async def all_down(self) -> AsyncIterator[None]:
        for member in self.fleet.members.values():
            await member.end()
        yield
        for member in self.fleet.members.values():
            member.up()
        await self.until(lambda: self.fleet.are_ready(self.load.http), "the APIs to be ready")
        await self.until(lambda: self.fleet.are_alive(self.load.http), "the workers to live")

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        self.load.clear()
        self.load.over.clear()
        running = asyncio.create_task(self.load.run())
        yield
        self.load.over.set()
        await running

    async def make(self, user: User) -> tuple[UUID, str]:
        """An export that is made at once, after the user's running one; its id and the path of its link."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (made := await self.load.export(user)):
                await asyncio.sleep(0.1)
        return made

    async def measure(self, name: str) -> float:
        async with self.load.http.get(f"{self.fleet.members['api-1'].url}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
            return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def without_failure(self, what: str) -> str:
        self.require(not self.load.failed, f"{what}: {dict(self.load.failed)}")
        failed = ", ".join(f"{name}: {count}" for name, count in self.load.failed.items()) or "none failed"
        return f"{self.load.answers.total()} answers, {failed}"


Step: TypeAlias = Callable[[Week], Awaitable[str]]


async def log_disk_full(week: Week) -> str:
    """Row 1: a worker and an API whose stdout can't be written."""
    members = week.fleet.members
    for name in members:
        if name not in APIS:
            await members[name].end()
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 (a device)
        worker = await processes.start(week.environ, "worker", stdout=full, stderr=full)
        user = week.load.users[0]
        status, _, body = await week.load.ask("POST", "/api/export", user, {202}, body={"format": "json"}, async_=True)
        job_id = UUID(msgspec.json.decode(body)["job_id"]) if status == 202 else None
        if job_id:
            week.load.ledger.accepted[job_id] = user

        async def completed() -> bool:
            _, _, view = await week.load.ask("GET", f"/api/export/{job_id}", user, {200})
            return bool(msgspec.json.decode(view)["status"] == "completed")

        await week.until(completed, "the worker without a log to make an export")
        worker.send_signal(signal.SIGTERM)
        status = await worker.wait()
    for name in members:
        members[name].up()
    week.require(status == 0, f"the worker without a log ended with {status}")
    return "an export was made by a worker whose log disk is full; SIGTERM ended it"


async def rolling_deploy(week: Week) -> str:
    async with week.under_load():
        await week.roll()
    return week.without_failure("a rolling deploy")


async def outages(week: Week) -> str:
    """Rows 4 and 7, and the classics: nothing accepted may be lost, and users see 503 alone."""
    told = []
    for name, target, seconds in (
        ("postgres restarted at once", "postgres", 2.0),
        ("postgres connections exhausted", "postgres", 3.0),
        ("redis SIGKILL, empty", "redis", 4.0),
        ("redis full", "redis", 3.0),
        ("s3 SIGKILL", "s3", 4.0),
    ):
        async with week.under_load():
            async with STRIKES[name](week.scene, target):
                await asyncio.sleep(seconds)
            await week.until(lambda: week.fleet.are_ready(week.load.http), f"the APIs to be ready after {name}")
        seen = {status: count for status, count in week.load.answers.items() if int(status) >= 500}
        week.require(set(seen) <= {"503"}, f"{name}: users saw {seen}")
        told.append(f"{name}: {seen.get('503', 0)} of {week.load.answers.total()} were 503")
    return "; ".join(told)


async def lost_file(week: Week) -> str:
    """Row 3."""
    user = week.load.users[0]
    job_id, link = await week.make(user)
    export = await _find(week, job_id)
    await week.world.resources.storage.delete(key_of(export))
    statuses = [(await week.load.ask("GET", link, None, {410}))[0] for _ in range(2)]
    missing = await week.measure("carryout_files_missing")
    again, _ = await week.make(user)
    async with week.world.database() as connection:  # the oracle counts files
        await connection.execute(
            "UPDATE carryout.export_jobs SET expires_at = now(), file_deleted_at = now() WHERE id = $1", job_id
        )
    week.require(
        (statuses, missing, bool(again)) == ([410, 410], 1, True), f"a lost file: {statuses}, {missing}, {again}"
    )
    return f"its link answered {statuses[0]}, the metric counts {missing:.0f}, and its user made another"


async def rotate_link_secrets(week: Week) -> str:
    old, new = week.environ["CARRYOUT_LINK_SECRETS"], secrets.token_hex(32)
    async with week.under_load():
        await week.roll(CARRYOUT_LINK_SECRETS=f"{old},{new}")
        await week.roll(CARRYOUT_LINK_SECRETS=f"{new},{old}")
    return week.without_failure("link secrets")


async def rotate_jwt_secret(week: Week) -> str:
    old, new = week.environ["CARRYOUT_JWT_SECRET"], secrets.token_hex(32)
    async with week.under_load():
        await week.roll(CARRYOUT_JWT_SECRET=f"{old},{new}")
        settings = from_env(week.environ | {"CARRYOUT_JWT_SECRET": new})
        tokens = {user.id: create_token(settings, str(user.id), 86_400) for user in week.load.users}
        week.load.sign = lambda user: tokens[user.id]  # the issuer signs with the new one from now on
        await week.roll(CARRYOUT_JWT_SECRET=new)
    return week.without_failure("JWT secrets")


async def rotate_database_roles(week: Week) -> str:
    """A second role with its own password, for the schema and for the reader; then the first may go."""
    password = secrets.token_hex(16)
    service, reader = f"service_{password[:8]}", f"reader_{password[:8]}"
    async with connect(week.world.database_url) as server:
        await server.execute(f"CREATE ROLE {service} LOGIN PASSWORD '{password}'")
        await server.execute(f"CREATE ROLE {reader} LOGIN PASSWORD '{password}' IN ROLE {READER}")
        await server.execute(f"ALTER ROLE {reader} SET default_transaction_read_only = on")
        await server.execute(f"ALTER ROLE {reader} SET search_path = pg_catalog")
    urls = {
        "CARRYOUT_DATABASE_URL": with_role(week.environ["CARRYOUT_DATABASE_URL"], service, password),
        "CARRYOUT_SOURCE_DATABASE_URL": with_role(week.environ["CARRYOUT_SOURCE_DATABASE_URL"], reader, password),
    }
    async with week.under_load():
        week.environ |= urls
        migrated = await week.carryout("migrate")
        week.require(migrated.status == 0, f"migrate for the new role: {migrated.err}")
        await week.roll(**urls)
    return week.without_failure("database roles")


async def rotate_redis_password(week: Week) -> str:
    """Redis takes several passwords for a user."""
    url = urlsplit(week.environ["CARRYOUT_REDIS_URL"])
    new = secrets.token_hex(16)
    async with week.under_load():
        async with redis.asyncio.Redis.from_url(week.environ["CARRYOUT_REDIS_URL"]) as connection:
            await connection.execute_command("ACL", "SETUSER", "default", f">{new}")
        changed = url._replace(netloc=f":{new}@{url.hostname}:{url.port}").geturl()
        await week.roll(CARRYOUT_REDIS_URL=changed)
        async with redis.asyncio.Redis.from_url(changed) as connection:
            await connection.execute_command("ACL", "SETUSER", "default", f"<{url.password}")
            await connection.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(1)
    return week.without_failure("Redis' password")


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
    """Row 2: a backup, a hundred exports and some deletions, a restore of the backup, and `reconcile`."""
    deleted = [await week.make(week.load.users[2]) for _ in range(DELETED_SINCE)]
    dump, url = week.nginx._folder / "backup", week.world.database_url
    took = {"backup": await _timed(week.postgres_bin / "pg_dump", "-Fc", "-d", url, "-f", str(dump))}
    for job_id, _ in deleted:
        await week.load.ask("DELETE", f"/api/export/{job_id}", week.load.users[2], {204})
    since = [await week.make(week.load.users[3]) for _ in range(DRILL_EXPORTS)]
    async with connect(url) as connection:
        last_id = await connection.fetchval("SELECT max(id) FROM carryout.export_audit")
    async with week.all_down():
        name = urlsplit(url).path.removeprefix("/")
        async with connect(week.world.stack.admin_url) as server:
            await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await server.execute(f"CREATE DATABASE {name}")
        took["restore"] = await _timed(week.postgres_bin / "pg_restore", "-d", url, str(dump))
        dry = await week.carryout("reconcile", "--json")
        took["reconcile"] = week.took["reconcile --json"]
        async with connect(url) as connection:  # as docs/backup.md says: before anything writes events
            await connection.execute(
                "SELECT setval(pg_get_serial_sequence('carryout.export_audit', 'id'), max(id) + 1000000)"
                " FROM carryout.export_audit"
            )
        done = await week.carryout("reconcile", "--apply")
    found = [msgspec.json.decode(line) for line in dry.out.splitlines()]
    counts = {kind: sum(line["mismatch"] == kind for line in found) for kind in ("unknown object", "missing file")}
    expected = {"unknown object": len(since), "missing file": len(deleted)}
    links = [(await week.load.ask("GET", link, None, {404, 410}))[0] for _, link in (*deleted, *since[:3])]
    storage = week.world.resources.storage
    for line in found:  # the operator has no better backup
        if line["mismatch"] == "unknown object":
            await storage.delete("exports/" + line["url"].rpartition("/exports/")[2])
    for job_id, _ in since:
        week.load.ledger.accepted.pop(job_id, None)
    async with connect(url) as connection:
        next_id = await connection.fetchval("SELECT max(id) FROM carryout.export_audit")
        await connection.execute(  # the oracle counts files
            "UPDATE carryout.export_jobs SET expires_at = now(), file_deleted_at = now()"
            " WHERE file_missing_at IS NOT NULL"
        )
    week.require((counts, done.status) == (expected, 0), f"the drill: {counts}, not {expected}; {done}")
    week.require(next_id > last_id, f"audit ids given twice: {next_id} after {last_id}")
    times = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in took.items())
    return f"{times}; reconcile found {counts}; links {links}"


async def _find(week: Week, job_id: UUID) -> Export:
    async with week.world.resources.connection() as connection:
        export = await week.world.resources.exports.find(connection, job_id)
    assert export
    return export


async def _timed(program: Path, *arguments: str) -> float:
    started = time.monotonic()
    process = await processes.start({}, *arguments, program=[program])
    out, err = await process.communicate()
    assert process.returncode == 0, (out, err)
    return time.monotonic() - started


STEPS: Final[dict[str, Step]] = {
    "log disk full": log_disk_full,
    "rolling deploy": rolling_deploy,
    "outages": outages,
    "lost file": lost_file,
    "bucket moved": moved_bucket,
    "link secrets rotated": rotate_link_secrets,
    "JWT secret rotated": rotate_jwt_secret,
    "database roles rotated": rotate_database_roles,
    "Redis password rotated": rotate_redis_password,
    "restore drill": restore_drill,
}

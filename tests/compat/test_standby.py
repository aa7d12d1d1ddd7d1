"""The application's data on a hot standby: what documents say of its age, conflicts with its primary, its promotion."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest

from devstack.servers import Postgres
from devstack.stack import Stack, open_stack
from service.api.app import create_app
from service.bookkeeping.exports import ExportStatus
from service.mails.sending import send_due_mails
from service.resources import Resources, open_resources
from service.settings import Settings, from_env
from tests.api.conftest import ASYNC, CSV
from tests.api.problems import bearer, read_problem
from tests.api.serving import serve
from tests.compat.standby import Standby, caught_up, open_standby
from tests.conftest import NOWHERE, PUBLIC_URL, Token, patient_client
from tests.faults.oracle import all_exports, assert_healed
from tests.faults.world import World
from tests.fleet.surroundings import at_server, create_sample
from tests.sql.databases import database_environ, with_database
from tests.support.factories import Connection, create_user_with
from tests.support.waiting import until
from worker.orphans import sweep
from worker.running import run_export

JSON_STREAM = "/api/export/stream?format=json"


@pytest.fixture
async def primary(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with open_stack(tmp_path_factory.mktemp("primary"), NOWHERE) as opened:
        yield opened


@pytest.fixture
async def database_url(primary: Stack) -> str:
    return await create_sample(primary)


@dataclass(frozen=True)
class Pair:
    """A primary and its standby. `database` and `replica` are administrators' connections to the same database."""

    primary: Postgres
    standby: Standby
    database: Connection
    replica: Connection

    async def replayed(self) -> None:
        await until(lambda: caught_up(self.primary.url, self.standby.url))

    async def commit(self) -> dt.datetime:
        """Change something; when that began, by the primary's clock."""
        async with self.database.transaction():
            await self.database.execute("CREATE TABLE IF NOT EXISTS public.beats (at timestamptz)")
            moment: dt.datetime = await self.database.fetchval("INSERT INTO public.beats VALUES (now()) RETURNING at")
        return moment

    async def in_conflict(self) -> bool:
        """Remove rows that the standby's snapshots still see; whether that has ended one by now.

        A vacuum spares them while any transaction of the primary is older, such as that of an automatic ANALYZE.
        """
        await self.database.execute("UPDATE public.activity SET kind = kind")
        await self.database.execute("VACUUM public.activity")
        await self.replayed()
        ended: int = await self.replica.fetchval(
            "SELECT confl_snapshot FROM pg_stat_database_conflicts WHERE datname = current_database()"
        )
        return ended > 0


@pytest.fixture
async def pair(primary: Stack, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    assert primary.postgres
    folder = tmp_path_factory.mktemp("standby")
    async with open_standby(folder, primary.admin_url, password=primary.postgres._password) as standby:
        database = await asyncpg.connect(database_url)
        replica = await asyncpg.connect(at_server(standby.url, database_url))
        yield Pair(primary.postgres, standby, database, replica)
        database.terminate()  # the server may be gone
        replica.terminate()


@pytest.fixture
def settings(stack: Stack, primary: Stack, pair: Pair, database_url: str) -> Settings:
    environ = stack.environ | database_environ(primary, database_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
    environ["CARRYOUT_SOURCE_DATABASE_URL"] = at_server(pair.standby.url, environ["CARRYOUT_SOURCE_DATABASE_URL"])
    environ["CARRYOUT_SCHEMA_OWNER"] = primary.environ["CARRYOUT_SCHEMA_OWNER"]
    return from_env(environ)


class TestMoment:
    async def test_is_that_of_the_last_replayed_commit(self, api: httpx.AsyncClient, token: Token, pair: Pair) -> None:
        user_id = await create_user_with(pair.database, 3)
        before = await pair.commit()
        await pair.replayed()
        await pair.replica.execute("SELECT pg_wal_replay_pause()")
        after = await pair.commit()
        document = (await api.get(JSON_STREAM, headers=bearer(token(user_id)))).json()
        assert before <= dt.datetime.fromisoformat(document["exported_at"]) < after

        await pair.replica.execute("SELECT pg_wal_replay_resume()")
        await pair.replayed()
        document = (await api.get(JSON_STREAM, headers=bearer(token(user_id)))).json()
        assert dt.datetime.fromisoformat(document["exported_at"]) >= after

    async def test_is_the_snapshots_on_a_promoted_one(self, api: httpx.AsyncClient, token: Token, pair: Pair) -> None:
        user_id = await create_user_with(pair.database, 3)
        await pair.replayed()
        await pair.replica.execute("SELECT pg_promote()")
        began = await pair.replica.fetchval("SELECT now()")
        document = (await api.get(JSON_STREAM, headers=bearer(token(user_id)))).json()
        assert dt.datetime.fromisoformat(document["exported_at"]) >= began


class TestLag:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, max_replica_lag_seconds=1)

    async def test_too_much_is_named(
        self, api: httpx.AsyncClient, token: Token, resources: Resources, pair: Pair
    ) -> None:
        user_id = await create_user_with(pair.database, 3)
        await pair.commit()
        await pair.replayed()
        headers = bearer(token(user_id))
        accepted = (await api.post("/api/export", json=CSV, headers=headers | ASYNC)).json()
        await pair.replica.execute("SELECT pg_wal_replay_pause()")
        await pair.commit()
        await asyncio.sleep(1.1)

        problem = read_problem(await api.get(JSON_STREAM, headers=headers), 503)
        assert "The replica of the application's database is" in problem["detail"]
        await run_export(resources, UUID(accepted["job_id"]))
        row = await pair.database.fetchrow("SELECT status, failures FROM carryout.export_jobs")
        assert row
        assert tuple(row) == ("pending", 0)

        await pair.replica.execute("SELECT pg_wal_replay_resume()")
        await pair.replayed()
        await pair.database.execute("UPDATE carryout.export_jobs SET run_after = now()")
        await run_export(resources, UUID(accepted["job_id"]))
        assert await pair.database.fetchval("SELECT status FROM carryout.export_jobs") == ExportStatus.COMPLETED

    async def test_an_idle_primary_is_no_lag(self, api: httpx.AsyncClient, token: Token, pair: Pair) -> None:
        user_id = await create_user_with(pair.database, 3)
        await pair.replayed()
        await asyncio.sleep(1.5)
        assert (await api.get(JSON_STREAM, headers=bearer(token(user_id)))).status_code == 200

    async def test_a_change_that_is_being_replayed_is_none(
        self, api: httpx.AsyncClient, token: Token, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.backends.database.CATCH_UP_LOOKS", 600)
        user_id = await create_user_with(pair.database, 3)
        await pair.replayed()
        await pair.replica.execute("SELECT pg_wal_replay_pause()")
        changed = await pair.commit()
        await asyncio.sleep(1.1)
        asking = asyncio.create_task(api.get(JSON_STREAM, headers=bearer(token(user_id))))
        await asyncio.sleep(0.3)
        assert not asking.done()
        await pair.replica.execute("SELECT pg_wal_replay_resume()")
        document = (await asking).json()
        assert dt.datetime.fromisoformat(document["exported_at"]) >= changed


async def test_a_conflict_with_the_primary_uses_up_no_try(settings: Settings, pair: Pair, token: Token) -> None:
    user_id = await create_user_with(pair.database, 20_000)
    await pair.replica.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    await pair.replica.execute("SELECT pg_reload_conf()")
    await pair.replayed()
    async with open_resources(settings) as resources:
        async with serve(create_app(resources)) as served, patient_client(served) as api:
            answer = await api.post("/api/export", json=CSV, headers=bearer(token(user_id)))
        assert answer.status_code == 202
        job_id = UUID(answer.json()["job_id"])
        upload = resources.storage.upload

        async def upload_after_vacuum(key: str, chunks: AsyncIterator[bytes], **options: str) -> object:
            await anext(chunks)
            await until(pair.in_conflict)
            return await upload(key, chunks, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resources.storage, "upload", upload_after_vacuum)
            await run_export(resources, job_id)
        row = await pair.database.fetchrow("SELECT status, failures, error_cause FROM carryout.export_jobs")
        assert row
        assert (row["status"], row["failures"]) == ("pending", 0)
        assert row["error_cause"].startswith("OutageError: ")
        await pair.database.execute("UPDATE carryout.export_jobs SET run_after = now()")
        await run_export(resources, job_id)
        assert await pair.database.fetchval("SELECT status FROM carryout.export_jobs") == ExportStatus.COMPLETED


async def test_a_promotion_meanwhile_leaves_exports_whole(
    settings: Settings, stack: Stack, pair: Pair, token: Token, tmp_path: Path
) -> None:
    """The primary is lost, and the standby takes its place for all that the URLs are for."""
    both = {name: _first(pair.standby.url, getattr(settings, name)) for name in ("database_url", "source_database_url")}
    users = [await create_user_with(pair.database, 1_200) for _ in range(50)]
    await pair.replayed()
    async with (
        open_resources(msgspec.structs.replace(settings, exports_per_hour=100, **both)) as resources,
        serve(create_app(resources)) as served,
        patient_client(served) as api,
    ):
        answers = [await api.post("/api/export", json=CSV, headers=bearer(token(user))) for user in users]
        assert {answer.status_code for answer in answers} == {202}
        await pair.replayed()
        job_ids = [UUID(answer.json()["job_id"]) for answer in answers]
        working = asyncio.gather(*(run_export(resources, job_id) for job_id in job_ids[:4]))
        await asyncio.sleep(0.05)
        pair.primary.kill()
        await pair.replica.execute("SELECT pg_promote()")
        await working

        async def all_ended() -> bool:
            await pair.replica.execute(
                "UPDATE carryout.export_jobs"
                " SET run_after = now(), lease_expires_at = CASE status WHEN 'processing' THEN now() END"
            )
            await asyncio.gather(*(run_export(resources, job_id) for job_id in job_ids))
            return not await pair.replica.fetchval(
                "SELECT count(*) FROM carryout.export_jobs WHERE status IN ('pending', 'processing')"
            )

        await until(all_ended)
        rows = await pair.replica.fetch("SELECT status, record_count, failures FROM carryout.export_jobs")
        assert {(row["status"], row["record_count"]) for row in rows} == {("completed", 1_200)}
        assert (await api.get("/readyz")).status_code == 200
        while await send_due_mails(resources, limit=100):
            pass
        assert await sweep(resources)
        world = World(stack, stack.environ, resources, tmp_path, with_database(pair.standby.url, "sample"))
        await assert_healed(world)
        assert len(await all_exports(world)) == 50


def _first(server_url: str, url: str) -> str:
    """`url` with two hosts: its own, and then that of `server_url`."""
    own = url.rpartition("@")[2].partition("/")[0]
    other = server_url.rpartition("@")[2].partition("/")[0]
    hosts = ",".join(dict.fromkeys([own, other]))
    return url.replace(f"@{own}/", f"@{hosts}/") if own != other else url

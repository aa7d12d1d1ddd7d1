"""The audit trail after an operator takes a list, whole or in part."""

import asyncio
from contextlib import AsyncExitStack

import httpx
import msgspec
import pytest

from service.access.flags import Flag
from service.api.http import permitted
from service.api.listings import TOO_MANY_LISTS
from service.resources import Resources
from service.settings import Settings
from tests.api.lists.conftest import EXPORT, EXPORT_FULL, UNCOMPRESSED, download_while, until_exported
from tests.api.problems import read_problem
from tests.support.factories import Connection, list_actions, list_audit, refuse_audit
from tests.support.operators import create_key, create_users, switch

# With names of 2,000 letters, 20 MB: more than all buffers between cursor and client hold, if it isn't compressed.
MANY = 10_000
TERMINATE_SOURCE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'carryout-lists'
"""
REVOKE = "UPDATE carryout.api_keys SET revoked_at = now()"
EXPIRE = "UPDATE carryout.api_keys SET expires_at = now()"


class TestTrail:
    async def test_the_trail_names_the_operator_and_the_list(
        self, operator: httpx.AsyncClient, database: Connection, key: str
    ) -> None:
        await create_users(database, 3)
        response = await operator.get(f"{EXPORT_FULL}?after=1", headers={"User-Agent": "backup/1"})
        await until_exported(database)
        started, exported = [event for event in await list_audit(database) if event["action"].startswith("users:")]
        assert (started["action"], started["outcome"], started["records"]) == (
            "users:export_started",
            "all users after 1",
            None,
        )
        assert (exported["action"], exported["outcome"], exported["records"]) == ("users:exported", "complete", 2)
        for event in (started, exported):
            assert (event["actor_type"], event["actor"]) == ("key", key.split("_")[1])
            assert (event["subject"], event["format"]) == ("users/export_full", "csv")
            assert (event["ip"].compressed, event["user_agent"]) == ("127.0.0.1", "backup/1")
            assert event["request_id"] == response.headers["x-request-id"]

    async def test_without_it_nothing_leaves(self, operator: httpx.AsyncClient, database: Connection) -> None:
        await create_users(database, 3)
        await refuse_audit(database, "users:export_started")
        response = await operator.get(EXPORT)
        read_problem(response, 500)
        assert b"user-1" not in response.content

    async def test_a_client_that_leaves(
        self, operator: httpx.AsyncClient, database: Connection, resources: Resources
    ) -> None:
        await create_users(database, MANY, name_bytes=2_000)
        async with operator.stream("GET", EXPORT, headers=UNCOMPRESSED) as response:
            await anext(response.aiter_bytes())
            assert "users:export_started" in await list_actions(database)
        action, list_, records, outcome = await until_exported(database)
        assert (action, list_, outcome) == ("users:exported", "users/export", "client_gone")
        assert records is not None
        assert 0 < records < MANY
        while resources.lists.get_idle_size() != resources.lists.get_size():
            await asyncio.sleep(0.02)

    async def test_a_source_that_fails_breaks_the_download(
        self, operator: httpx.AsyncClient, database: Connection
    ) -> None:
        await create_users(database, MANY, name_bytes=2_000)
        with pytest.raises(httpx.RemoteProtocolError):
            await download_while(operator, database, TERMINATE_SOURCE)
        assert (await until_exported(database))[3] == "failed"

    @pytest.mark.parametrize("ending", [REVOKE, EXPIRE])
    async def test_a_key_that_ends_breaks_the_download(
        self, operator: httpx.AsyncClient, database: Connection, monkeypatch: pytest.MonkeyPatch, ending: str
    ) -> None:
        monkeypatch.setattr(permitted, "CHECK_SECONDS", 0)
        await create_users(database, MANY, name_bytes=2_000)
        with pytest.raises(httpx.RemoteProtocolError):
            await download_while(operator, database, ending)
        assert (await until_exported(database))[3] == "failed"

    async def test_a_flag_that_is_switched_off_breaks_the_download(
        self,
        operator: httpx.AsyncClient,
        database: Connection,
        resources: Resources,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(permitted, "CHECK_SECONDS", 0)
        await create_users(database, MANY, name_bytes=2_000)
        async with operator.stream("GET", EXPORT, headers=UNCOMPRESSED) as response:
            parts = response.aiter_bytes()
            await anext(parts)
            await switch(database, Flag.USERS_EXPORT, enabled=False)
            while resources.flags.is_enabled(Flag.USERS_EXPORT):
                await asyncio.sleep(0.02)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in parts:
                    pass
        assert (await until_exported(database))[3] == "failed"


class TestPlaces:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, stream_pool_size=1, list_pool_size=4)

    async def test_users_who_read_slowly_take_none_of_them(
        self, operator: httpx.AsyncClient, resources: Resources, database: Connection
    ) -> None:
        await create_users(database, 3)
        async with resources.streams.acquire():
            assert (await operator.get(EXPORT)).status_code == 200

    async def test_one_key_leaves_half_of_them_to_others(
        self, operator: httpx.AsyncClient, database: Connection
    ) -> None:
        await create_users(database, MANY, name_bytes=2_000)
        other = {"X-API-Key": await create_key(database, name="other")}
        async with AsyncExitStack() as lists:
            running = []
            for _ in range(2):
                response = await lists.enter_async_context(operator.stream("GET", EXPORT, headers=UNCOMPRESSED))
                running.append(response.aiter_bytes())
                await anext(running[-1])
            refused = await operator.get(EXPORT)
            assert read_problem(refused, 429)["detail"] == TOO_MANY_LISTS
            assert refused.headers["retry-after"] == "10"
            async with operator.stream("GET", EXPORT, headers=other | UNCOMPRESSED) as response:
                assert response.status_code == 200


class TestLongestTime:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, stream_seconds=5)

    async def test_ends_the_list_and_its_snapshot(
        self, operator: httpx.AsyncClient, database: Connection, resources: Resources
    ) -> None:
        await create_users(database, MANY, name_bytes=2_000)
        async with operator.stream("GET", EXPORT, headers=UNCOMPRESSED) as response:
            parts = response.aiter_bytes()
            await anext(parts)
            assert (await until_exported(database))[3] == "too_long"
            while resources.lists.get_idle_size() != resources.lists.get_size():
                await asyncio.sleep(0.02)
            with pytest.raises(httpx.TransportError):
                async for _ in parts:
                    pass

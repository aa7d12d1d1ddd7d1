"""Redis as others run it: Sentinels, users with few rights, a replica after a failover."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import redis.asyncio
from redis.asyncio import Redis

from service.api.app import create_app
from service.backends.failures import NO_PRIMARY, NO_SENTINEL, describe_cause
from service.backends.queue import QUEUE_NAME, JobQueue, open_queue
from service.errors import ConfigurationError, OutageError
from service.resources import open_resources
from service.settings import Settings
from tests.api.conftest import ASYNC, CSV
from tests.api.problems import bearer
from tests.api.serving import serve
from tests.conftest import Token, patient_client
from tests.support.factories import Connection, create_user_with
from tests.support.processes import start
from tests.support.redis_servers import PASSWORD, SERVICE, administering, can_fail_over, open_sentinel, open_server
from tests.support.waiting import until

# The rights in docs/compatibility.md.
RIGHTS = "~carryout:* ~arq:* +@read +@write +@transaction +ping -@dangerous"


async def is_writable(queue: JobQueue) -> bool:
    try:
        await queue.check_writable()
    except OutageError:
        return False
    return True


async def has_no_primary(queue: JobQueue) -> bool:
    try:
        await queue.check()
    except OutageError as error:
        return describe_cause(error) == NO_PRIMARY
    return False


class TestReplica:
    async def test_is_not_ready_and_exports_go_on(
        self, settings: Settings, database: Connection, token: Token, tmp_path: Path
    ) -> None:
        user_id = await create_user_with(database, 3)
        async with open_server(tmp_path, "one") as one, open_server(tmp_path, "two") as two:
            changed = msgspec.structs.replace(settings, redis_url=one.url)
            async with open_resources(changed) as resources, administering(one) as server:
                async with serve(create_app(resources)) as served, patient_client(served) as api:
                    assert (await api.get("/readyz")).status_code == 200
                    await server.replicaof("127.0.0.1", two.port)  # as after a failover, behind an old address
                    await until(lambda: _says(api, "unavailable"))
                    assert (await api.get("/readyz?exclude=redis")).status_code == 200
                    answer = await api.post("/api/export", json=CSV, headers=bearer(token(user_id)) | ASYNC)
                assert answer.status_code == 202
                with pytest.raises(OutageError) as caught:
                    await resources.queue.check_writable()
        assert describe_cause(caught.value) == "is a read-only replica"


async def _says(api: httpx.AsyncClient, word: str) -> bool:
    return bool((await api.get("/readyz")).json()["checks"]["redis"] == word)


class TestRights:
    @pytest.fixture
    async def limited_url(self, tmp_path: Path) -> AsyncIterator[str]:
        """The URL of a user with rights to our keys alone."""
        async with open_server(tmp_path, "redis") as opened:
            async with administering(opened) as server:
                await server.execute_command(  # type: ignore[no-untyped-call]
                    "ACL", "SETUSER", "carryout", "on", f">{PASSWORD}", *RIGHTS.split()
                )
            yield f"redis://carryout:{PASSWORD}@127.0.0.1:{opened.port}/0"

    async def test_to_our_keys_suffice(self, limited_url: str) -> None:
        async with open_queue(limited_url) as queue:
            await queue.check_writable()
            assert await queue.enqueue_export(uuid4(), 1)

    async def test_a_worker_needs_no_others(
        self, settings: Settings, database: Connection, limited_url: str, token: Token, tmp_path: Path
    ) -> None:
        user_id = await create_user_with(database, 3)
        changed = msgspec.structs.replace(settings, redis_url=limited_url)
        async with open_resources(changed) as resources:
            async with serve(create_app(resources)) as served, patient_client(served) as api:
                answer = await api.post("/api/export", json=CSV, headers=bearer(token(user_id)) | ASYNC)
            job_id = UUID(answer.json()["job_id"])
            log = tmp_path / "worker.log"
            with log.open("wb") as output:
                environ = {f"CARRYOUT_{name.upper()}": _text(value) for name, value in _set(changed)}
                worker = await start(environ, "worker", stdout=output, stderr=output)
            try:
                await until(lambda: _is_empty(limited_url))

                async def ended() -> bool:
                    query = "SELECT status FROM carryout.export_jobs WHERE id = $1"
                    return bool(await database.fetchval(query, job_id) == "completed")

                await until(ended)
            finally:
                worker.terminate()
                await worker.wait()
        assert "worker_loop_failed" not in log.read_text()
        assert "queue_unavailable" not in log.read_text()


def _set(settings: Settings) -> list[tuple[str, object]]:
    return [(name, value) for name, value in msgspec.structs.asdict(settings).items() if value not in {None, "", ()}]


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


async def _is_empty(url: str) -> bool:
    async with redis.asyncio.Redis.from_url(url) as client:
        return bool(await client.zcard(QUEUE_NAME) == 0)


class TestSentinels:
    async def test_a_failover_is_followed(self, tmp_path: Path) -> None:
        async with (
            open_server(tmp_path, "one") as one,
            open_server(tmp_path, "two", "--replicaof", f"127.0.0.1 {one.port}"),
            open_sentinel(tmp_path, one.port) as sentinel,
            open_queue(f"redis+sentinel://:{PASSWORD}@127.0.0.1:1,127.0.0.1:{sentinel}/queue/0") as queue,
            administering(one) as server,
        ):
            await queue.check_writable()
            assert await queue.enqueue_export(uuid4(), 1)
            await until(lambda: can_fail_over(sentinel, one))
            await server.shutdown(nosave=True, now=True)
            await until(lambda: is_writable(queue))
            assert await queue.enqueue_export(uuid4(), 1)

    async def test_a_start_amid_a_failover_waits_for_its_end(self, settings: Settings, tmp_path: Path) -> None:
        async with (
            open_server(tmp_path, "one") as one,
            open_server(tmp_path, "two", "--replicaof", f"127.0.0.1 {one.port}"),
            open_sentinel(tmp_path, one.port) as sentinel,
            open_queue(url := f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel}/queue/0") as queue,
        ):
            await until(lambda: can_fail_over(sentinel, one))
            await one.kill()
            await until(lambda: has_no_primary(queue))
            async with open_resources(msgspec.structs.replace(settings, redis_url=url)) as resources:
                await until(lambda: is_writable(resources.queue))

    @pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/x?no_such=1"])
    async def test_a_wrong_url_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match="CARRYOUT_REDIS_URL has a parameter that is unknown or wrong"):
            async with open_queue(url):
                pass

    async def test_none_that_can_be_asked(self) -> None:
        assert await _refuse("127.0.0.1:1") == f"{NO_SENTINEL} can't be reached: nothing listens there"

    async def test_a_wrong_password_of_theirs(self, tmp_path: Path) -> None:
        async with (
            open_server(tmp_path, "one") as one,
            open_sentinel(tmp_path, one.port, "--requirepass", "theirs") as sentinel,
        ):
            for query, words in (
                ("", "wants a password, and was given none"),
                ("?sentinel_password=wrong", "refused the password"),
            ):
                assert await _refuse(f"127.0.0.1:{sentinel}", query) == f"{NO_SENTINEL} {words}"


async def _refuse(hosts: str, query: str = "") -> str:
    """The words for a URL by which no primary is found."""
    async with open_queue(f"redis+sentinel://{hosts}/{SERVICE}{query}") as queue:
        with pytest.raises(OutageError) as caught:
            await queue.check()
    return describe_cause(caught.value)


class TestRefusedWrites:
    """Redis answers pings all the while; its own word for the cause is in ours."""

    async def test_too_few_replicas(self, tmp_path: Path) -> None:
        async with open_server(tmp_path, "one", "--min-replicas-to-write", "1") as server:
            assert await find_cause(server.url) == "takes no writes, because too few replicas follow it: NOREPLICAS"

    async def test_a_disk_that_takes_no_snapshot(self, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        async with open_server(tmp_path, "one", "--dir", str(folder), "--save", "3600 1") as server:
            async with administering(server) as redis:
                folder.rmdir()
                await redis.bgsave()
                await until(lambda: has_failed_to_save(redis))
            words = "takes no writes, because it can't save its data to disk: MISCONF"
            assert await find_cause(server.url) == words

    @pytest.mark.parametrize(("last_slot", "code"), [(None, "CLUSTERDOWN"), (16_383, "CROSSSLOT")])
    async def test_a_cluster(self, tmp_path: Path, unused_tcp_port: int, last_slot: int | None, code: str) -> None:
        """Even one node that has all slots: it takes single keys, and none of arq's transactions."""
        bus = "--cluster-port", str(unused_tcp_port)  # by default 10,000 above the other, which may be in use
        async with open_server(tmp_path, "one", "--cluster-enabled", "yes", *bus) as server:
            if last_slot:
                async with administering(server) as redis:
                    await redis.execute_command("CLUSTER ADDSLOTSRANGE", 0, last_slot)  # type: ignore[no-untyped-call]
            words = f"is a Cluster, which Carryout doesn't use: name a single server, or its Sentinels: {code}"
            await until(lambda: is_cause(server.url, words))

    async def test_no_password_in_the_url(self, tmp_path: Path) -> None:
        async with open_server(tmp_path, "one") as server:
            url = server.url.replace(f":{PASSWORD}@", "")
            assert await find_cause(url) == "wants a password, and was given none"


async def find_cause(url: str) -> str | None:
    async with open_queue(url) as queue:
        try:
            await queue.check_writable()
        except OutageError as error:
            return describe_cause(error)
    return None


async def is_cause(url: str, words: str) -> bool:
    return await find_cause(url) == words


async def has_failed_to_save(redis: Redis) -> bool:
    state: str = (await redis.info("persistence"))["rdb_last_bgsave_status"]
    return state == "err"

"""An operator reads of an outage which server failed, why, since when and until when, in few short lines."""

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple

import httpx
import msgspec

from devstack.ports import keep_port
from devstack.stack import Stack
from service.access.tokens import create_token
from service.readiness import SERVERS
from service.telemetry.outages import REMIND_SECONDS
from tests.faults.world import Process, World
from tests.support.scraping import scrape

Line = dict[str, Any]
HEALING_SECONDS = 60.0
BEFORE = {"tokens_of_any_purpose_accepted"}  # the sample's


class Told(NamedTuple):
    """Events and servers, in each process's log."""

    api: set[tuple[str, str]]
    worker: set[tuple[str, str]]


WITHOUT_REDIS_AND_S3 = Told(
    {("server_unavailable", "redis"), ("server_unavailable", "s3"), ("enqueue_failed", "redis")},
    {
        ("server_unavailable", "redis"),
        ("server_unavailable", "s3"),
        ("queue_unavailable", "redis"),
        ("export_attempt_failed", "s3"),
    },
)
WITHOUT_POSTGRESQL = Told(
    {("server_unavailable", "postgresql"), ("server_unavailable", "source"), ("flags_not_read", "postgresql")},
    {
        ("server_unavailable", "postgresql"),
        ("server_unavailable", "source"),
        ("flags_not_read", "postgresql"),
        ("repair_postponed", "postgresql"),
        ("mails_postponed", "postgresql"),
    },
)
HEALED = Told(
    {*(("server_available", server) for server in SERVERS), ("flags_read_again", "postgresql")},
    {
        *(("server_available", server) for server in SERVERS),
        ("flags_read_again", "postgresql"),
        ("queue_available", "redis"),
        ("repair_resumed", "postgresql"),
        ("mails_resumed", "postgresql"),
    },
)


async def test_outages_are_told_in_short_lines(world: World, fragile_stack: Stack) -> None:
    world.healing_seconds = HEALING_SECONDS
    redis, s3, postgres = fragile_stack.redis, fragile_stack.object_store, fragile_stack.postgres
    assert redis
    assert s3
    assert postgres
    async with _open_client(world) as client:
        api, worker = await world.start_api(client.base_url.port or 0), await world.start_worker()
        await world.until(lambda: _is_served(client), "the API to start")
        try:
            redis.kill()
            s3.kill()
            assert (await client.post("/api/export", json={"format": "csv"})).status_code == HTTPStatus.ACCEPTED
            await _until_told(world, api, worker, WITHOUT_REDIS_AND_S3)
            assert await _reachable(client) == {"postgresql", "source"}
            postgres.kill()
            await world.until(lambda: _is_refused(client), "a request to be refused")
            await _until_told(world, api, worker, WITHOUT_POSTGRESQL)
        finally:
            for server in (redis, s3, postgres):
                await server.stop()
                await server.start()
        await _until_told(world, api, worker, HEALED)
        assert await _reachable(client) == set(SERVERS)
    for process in (api, worker):
        lines = _lines(process)
        _assert_short(lines)
        _assert_not_repeated([line for line in lines if "since" in line])
    assert ("request_failed", "postgresql") in _told(api)


@asynccontextmanager
async def _open_client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    token = create_token(world.resources.settings, str(await world.create_user(records=9)), 600)
    headers = {"Authorization": f"Bearer {token}", "Prefer": "respond-async"}
    url = f"http://127.0.0.1:{keep_port(world.folder / 'port')}"
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=HEALING_SECONDS, trust_env=False) as client:
        yield client


async def _is_served(client: httpx.AsyncClient) -> bool:
    with suppress(httpx.TransportError):
        return (await client.get("/livez")).is_success
    return False


async def _is_refused(client: httpx.AsyncClient) -> bool:
    return (await client.get("/api/export")).status_code == HTTPStatus.SERVICE_UNAVAILABLE


async def _reachable(client: httpx.AsyncClient) -> set[str]:
    scraped = await scrape(client)
    return {server for server in SERVERS if scraped.value("carryout_server_reachable", server=server)}


async def _until_told(world: World, api: Process, worker: Process, told: Told) -> None:
    for process, expected in ((api, told.api), (worker, told.worker)):
        await world.until(partial(_has_told, process, expected), f"a log to tell of {expected}")


async def _has_told(process: Process, expected: set[tuple[str, str]]) -> bool:
    return expected <= _told(process)


def _told(process: Process) -> set[tuple[str, str]]:
    return {(line["event"], line["server"]) for line in _lines(process) if "server" in line}


def _lines(process: Process) -> list[Line]:
    whole, _, _ = process.log.rpartition("\n")
    return [msgspec.json.decode(line) for line in whole.splitlines()]


def _assert_short(lines: list[Line]) -> None:
    warnings = [line for line in lines if line["level"] == "warning" and line["event"] not in BEFORE]
    for line in warnings:
        assert line["server"] in SERVERS
        assert line["cause"]
        assert line["error_type"]
    assert not any("exception" in line or line["level"] == "error" for line in lines)


def _assert_not_repeated(lines: list[Line]) -> None:
    """A line that repeats the last one of its kind comes REMIND_SECONDS after it."""
    kinds: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        kinds.setdefault((line.get("server", ""), line.get("step", ""), line["since"], line["event"]), []).append(line)
    for same in kinds.values():
        for one, other in pairwise(sorted(same, key=itemgetter("timestamp"))):
            seconds = (_time(other) - _time(one)).total_seconds()
            assert one["error_type"] != other["error_type"] or seconds > REMIND_SECONDS / 2, same


def _time(line: Line) -> dt.datetime:
    return dt.datetime.fromisoformat(line["timestamp"])

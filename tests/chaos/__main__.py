"""`python -m tests.chaos [--seed N] [--minutes M] [--users U]`: see docs/chaos.md."""

import argparse
import asyncio
import logging
import os
import random
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import structlog

from devstack.stack import open_stack
from tests.chaos.client import Client, Ledger, User
from tests.chaos.faults import KINDS, LEASE_SECONDS, Scene
from tests.chaos.fleet import open_fleet
from tests.chaos.operators import Lists, Operator, open_lists
from tests.chaos.promises import Aftermath, broken_promises, wait_for_rest
from tests.chaos.report import print_report
from tests.chaos.schedule import draw
from tests.chaos.storm import Storm
from tests.chaos.users import Visitor, create_desk_key, create_users
from tests.chaos.wire import Wire
from tests.faults.world import World, open_world
from tests.support.receiver import SECRET, Receiver, open_receiver
from tests.support.smtp import SmtpServer, open_smtp_server

HEALING_SECONDS = 120.0
# The receiver of events draws one for each of them; None drops the connection.
ANSWERS = (204, 204, 204, 204, 500, 302, None)
SETTINGS = {
    "CARRYOUT_LEASE_SECONDS": str(LEASE_SECONDS),
    "CARRYOUT_SWEEP_SECONDS": "10",
    "CARRYOUT_WORKER_GRACE_SECONDS": "1",
    "CARRYOUT_SHUTDOWN_GRACE_SECONDS": "3",
    "CARRYOUT_STREAM_POOL_SIZE": "4",
    "CARRYOUT_LIST_POOL_SIZE": "4",
    "CARRYOUT_EXPORTS_PER_HOUR": "100000",
    "CARRYOUT_STREAMS_PER_HOUR": "100000",
    "CARRYOUT_KEPT_FILES": "100000",
    "CARRYOUT_WEBHOOK_ALLOW_PRIVATE": "true",
    "CARRYOUT_DATASETS_DIR": str(Path(__file__).parent / "datasets"),
    "CARRYOUT_FILE_STORES": "uploads=s3://carryout/uploads/{user_id}",
    "CARRYOUT_PUBLIC_URL": "http://exports.invalid",  # users follow a link's path to either process
}


@dataclass(frozen=True)
class Options:
    seed: int
    minutes: float
    users: int
    folder: Path


async def run(options: Options) -> list[str]:
    """Storm, healing and oracle; returns the promises that were broken."""
    chance = random.Random(options.seed)  # noqa: S311 (reproducible on purpose)
    async with (
        open_stack(options.folder, {}) as stack,
        open_world(stack, options.folder, **SETTINGS) as world,
        open_smtp_server() as smtp,
        _open_unsteady_receiver(options.seed) as receiver,
        _open_wires(world, smtp, receiver) as (wires, through),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        open_lists(world, options.folder / "lists") as lists,
        open_fleet(options.folder / "run", dict(os.environ) | world.environ | through | lists.environ, http) as fleet,
    ):
        world.healing_seconds = HEALING_SECONDS
        aftermath = Aftermath(world, fleet, Ledger(), smtp, receiver, http, await fleet.resident_megabytes())
        over = asyncio.Event()
        users = await create_users(world, options.users, chance)
        visitors = _visitors(aftermath, users, over, chance, await create_desk_key(world))
        operators = _operators(aftermath, lists, over, chance)
        storm = Storm(Scene(stack, world.database_url, fleet, wires, smtp), http)
        async with asyncio.TaskGroup() as lives:
            for visitor in visitors:
                lives.create_task(visitor.live())
            for operator in operators:
                lives.create_task(operator.live())
            await storm.rage(draw(KINDS, options.seed, 60 * options.minutes))
            over.set()
        receiver.answer = lambda _: HTTPStatus.NO_CONTENT
        healed_at = time.monotonic()
        try:
            await wait_for_rest(world)
            rest_seconds = time.monotonic() - healed_at
            await _ask_again(visitors)
            await asyncio.gather(*(operator.ask_again() for operator in operators))
            await wait_for_rest(world)
        except AssertionError as error:
            return [str(error).splitlines()[0]]
        broken = await broken_promises(aftermath)
        await print_report(aftermath, storm, rest_seconds)
        return broken


@asynccontextmanager
async def _open_unsteady_receiver(seed: int) -> AsyncIterator[Receiver]:
    chance = random.Random(seed)  # noqa: S311 (reproducible on purpose)
    async with open_receiver() as receiver:
        receiver.answer = lambda _: chance.choice(ANSWERS)
        yield receiver


@asynccontextmanager
async def _open_wires(
    world: World, smtp: SmtpServer, receiver: Receiver
) -> AsyncIterator[tuple[dict[str, Wire], dict[str, str]]]:
    """The wires by the names of their servers, and the settings that lead through them."""
    servers = {
        "postgres": "CARRYOUT_DATABASE_URL",
        "redis": "CARRYOUT_REDIS_URL",
        "s3": "CARRYOUT_S3_ENDPOINT_URL",
        "store": "CARRYOUT_FILE_STORE_UPLOADS_ENDPOINT_URL",
        "smtp": "CARRYOUT_SMTP_URL",
        "receiver": "CARRYOUT_WEBHOOK_URL",
    }
    events = {"CARRYOUT_WEBHOOK_SECRETS": SECRET}
    own = {"smtp": smtp.url, "receiver": receiver.url, "store": world.environ["CARRYOUT_S3_ENDPOINT_URL"]}
    urls = {name: own.get(name) or world.environ[setting] for name, setting in servers.items()}
    async with AsyncExitStack() as opened:
        wires = {name: await opened.enter_async_context(Wire(url).open()) for name, url in urls.items()}
        through = events | {servers[name]: wire.url for name, wire in wires.items()}
        source = urlsplit(world.environ["CARRYOUT_SOURCE_DATABASE_URL"])
        port = urlsplit(wires["postgres"].url).port
        netloc = f"{source.username}:{source.password}@{source.hostname}:{port}"
        yield wires, through | {"CARRYOUT_SOURCE_DATABASE_URL": source._replace(netloc=netloc).geturl()}


def _visitors(
    aftermath: Aftermath, users: list[User], over: asyncio.Event, chance: random.Random, desk_key: str
) -> list[Visitor]:
    visitors = []
    for user in users:
        own = random.Random(chance.random())  # noqa: S311 (reproducible on purpose)
        client = Client(aftermath.http, aftermath.fleet.api_urls, aftermath.ledger, own)
        visitors.append(
            Visitor(
                user,
                client=client,
                world=aftermath.world,
                ledger=aftermath.ledger,
                over=over,
                chance=own,
                desk_key=desk_key,
            )
        )
    return visitors


def _operators(aftermath: Aftermath, lists: Lists, over: asyncio.Event, chance: random.Random) -> list[Operator]:
    return [
        Operator(
            f"operator-{number}",
            urls=aftermath.fleet.api_urls,
            lists=lists,
            key=key,
            ledger=aftermath.ledger,
            over=over,
            chance=random.Random(chance.random()),  # noqa: S311 (reproducible on purpose)
        )
        for number, key in enumerate(lists.keys)
    ]


async def _ask_again(visitors: list[Visitor]) -> None:
    for start in range(0, len(visitors), 20):
        await asyncio.gather(*(visitor.ask_again() for visitor in visitors[start : start + 20]))


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--folder", type=Path, default=Path(".carryout-chaos"))
    given = parser.parse_args()
    return Options(given.seed, given.minutes, given.users, given.folder / str(given.seed))


def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # our own pools' worries
    options = _options()
    again = f"make chaos SEED={options.seed} MINUTES={options.minutes:g} USERS={options.users}"
    print(f"Chaos with seed {options.seed}; again: {again}", flush=True)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    broken = asyncio.run(run(options))
    print(f"\n  logs              {options.folder / 'run'}")
    for promise in broken:
        print(f"\nBROKEN: {promise}")
    print(f"\nBroken with seed {options.seed}; again: {again}" if broken else "\nEvery promise held.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""`make week`: see docs/week.md."""

import argparse
import asyncio
import logging
import os
import random
import shutil
import sys
import time
from pathlib import Path

import aiohttp
import structlog

from devstack.files import own_folder
from devstack.servers import find_postgres
from devstack.stack import open_stack
from service.access.tokens import create_token
from service.backends.database import MIGRATION_URL
from service.errors import ConfigurationError
from service.settings import from_env
from tests.chaos.__main__ import SETTINGS
from tests.chaos.client import Ledger
from tests.chaos.faults import Scene
from tests.chaos.fleet import APIS, WORKERS, open_fleet
from tests.chaos.promises import Aftermath, broken_promises, wait_for_rest
from tests.chaos.users import create_users
from tests.faults.world import open_world
from tests.sql.databases import owner_url
from tests.support.receiver import SECRET, open_receiver
from tests.support.smtp import open_smtp_server
from tests.week.days import find_libfaketime
from tests.week.load import TOKEN_SECONDS, Load
from tests.week.nginx import NGINX, Nginx
from tests.week.promises import WEEK_PROMISES
from tests.week.schedule import DAYS
from tests.week.week import Week

USERS = 30
OWN_SETTINGS = {
    "CARRYOUT_STREAM_POOL_SIZE": "32",  # one process serves all users while the other is restarted
    "CARRYOUT_SHUTDOWN_GRACE_SECONDS": "20",  # production's: a request on a busy machine takes longer than chaos' grace
}
DEBIAN_POSTGRES = "/usr/lib/postgresql/15/bin"


async def run(folder: Path, days: list[str]) -> list[str]:
    """All days, healing and oracle; returns what was broken."""
    chance = random.Random(1)  # noqa: S311 (reproducible on purpose)
    async with (
        open_stack(folder, {}) as stack,
        open_smtp_server(extensions=["AUTH PLAIN"]) as smtp,
        open_receiver() as receiver,
        open_world(
            stack,
            folder,
            **SETTINGS | OWN_SETTINGS,
            CARRYOUT_SMTP_URL=smtp.url,
            CARRYOUT_WEBHOOK_URL=receiver.url,
            CARRYOUT_WEBHOOK_SECRETS=SECRET,
        ) as world,
        # A reload of nginx closes idle connections, which a client may be about to use again.
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as http,
    ):
        run_dir = folder / "run"
        migration = {MIGRATION_URL: owner_url(stack, world.database_url)}
        environ = dict(os.environ) | world.environ | migration
        async with open_fleet(run_dir, environ, http, WORKERS[:2]) as fleet:
            nginx = Nginx(run_dir, [fleet.members[name].port for name in APIS])
            await nginx.start()
            try:
                users = [user for user in await create_users(world, USERS, chance) if user.records < 1_000]
                ledger = Ledger()
                settings = from_env(world.environ)
                load = Load(
                    nginx.url, http, users, ledger, lambda user: create_token(settings, str(user.id), TOKEN_SECONDS)
                )
                scene = Scene(stack, world.database_url, fleet, {}, smtp)
                week = Week(world, fleet, nginx, load, scene, environ, find_postgres())
                aftermath = Aftermath(world, fleet, ledger, smtp, receiver, http, await fleet.resident_megabytes())
                for name in days:
                    started = time.monotonic()
                    answer = await DAYS[name](week)
                    print(f"  {name:<24} {answer} ({time.monotonic() - started:.0f} s)", flush=True)
                await wait_for_rest(world)
                left = await week.carryout("reconcile")
                week.require((left.status, left.err) == (0, "nothing differs\n"), f"carryout reconcile: {left}")
                return [*week.broken, *await broken_promises(aftermath, WEEK_PROMISES)]
            finally:
                await nginx.stop()


def needed() -> dict[str, bool]:
    """Each thing that a day needs, and whether this machine has it."""
    return {
        "root, to mount a small disk": os.geteuid() == 0,
        f"PostgreSQL at {DEBIAN_POSTGRES}": Path(DEBIAN_POSTGRES).is_dir(),
        "nginx": NGINX.is_file(),
        "faketime": bool(find_libfaketime()),
    }


def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # our own pools' worries
    parser = argparse.ArgumentParser(prog="python -m tests.week")
    parser.add_argument("--folder", type=Path, default=Path(".carryout-week"))
    parser.add_argument("--day", action="append", choices=DAYS, help="only this day; repeatable")
    given = parser.parse_args()
    if missing := [what for what, there in needed().items() if not there]:
        parser.error(f"a bad week needs {', '.join(missing)}")
    folder: Path = given.folder.resolve()
    try:
        with own_folder(folder):  # no other week is under way there
            shutil.rmtree(folder)
    except ConfigurationError as error:
        parser.error(error.detail)
    folder.mkdir(parents=True)
    started = time.monotonic()
    broken = asyncio.run(run(folder, given.day or [*DAYS]))
    for promise in broken:
        print(f"\nBROKEN: {promise}")
    print(
        f"\n{'The week was bad' if broken else 'Everything held'}: {time.monotonic() - started:.0f} s, logs in {folder}"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

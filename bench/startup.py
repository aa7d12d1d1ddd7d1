"""Starting a process, and the memory of those that have had no work yet."""

import time
from functools import partial

from bench.clients import run
from bench.measure import Contender, Transfer, resident_mib
from bench.report import Report, Table
from bench.world import World, open_api
from devstack.dev import CARRYOUT

IDLE_MIB = 70
READY_SECONDS = 1.0
HELP_SECONDS = 0.2
SERVE = "carryout serve, from exec to ready"
HELP = "carryout --help"


async def measure_startup(world: World, report: Report) -> None:
    idle = {"API": resident_mib(world.api.pid), "worker": resident_mib(world.worker_pid)}
    contenders = [Contender(SERVE, None, partial(_serve, world)), Contender(HELP, None, _help)]
    measured = await world.meter.interleave("starts", contenders, world.size.rounds)
    report.limit("idle process, the larger of API and worker", max(idle.values()), IDLE_MIB, "MiB", digits=1)
    report.limit(SERVE, measured[SERVE].seconds.median, READY_SECONDS, "s")
    report.limit(HELP, measured[HELP].seconds.median, HELP_SECONDS, "s")
    rows = [(name, each.seconds.text("s")) for name, each in measured.items()]
    rows += [(f"idle {name}", f"{mib:.1f} MiB") for name, mib in idle.items()]
    report.tables.append(
        Table("Start", "Ready is the first `200` of /readyz, asked every 20 ms.", ("what", "figure"), rows)
    )


async def _serve(world: World) -> Transfer:
    started = time.perf_counter()
    async with open_api(world, "startup", {}):
        return Transfer(time.perf_counter() - started)


async def _help() -> Transfer:
    _, seconds = await run([*CARRYOUT, "--help"])
    return Transfer(seconds)

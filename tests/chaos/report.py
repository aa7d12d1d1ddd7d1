"""The table at the end."""

from collections import Counter
from collections.abc import Iterable, Sequence

import asyncpg

from tests.chaos.client import STORAGE
from tests.chaos.promises import Aftermath
from tests.chaos.storm import Storm


async def print_report(aftermath: Aftermath, storm: Storm, rest_seconds: float) -> None:
    exports, mails, events = await _outcomes(aftermath)
    posted = Counter(str(got.status or "dropped") for got in aftermath.receiver.requests)
    ledger = aftermath.ledger
    answers: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for (operation, status), count in ledger.statuses.items():
        answers[operation == STORAGE][str(status) if status else "no answer"] += count
    endings: Counter[str] = Counter()
    for member in aftermath.fleet.members.values():
        endings.update(member.endings)
    now = await aftermath.fleet.resident_megabytes()
    rows = {
        **_struck(storm.struck),
        "exports": f"{len(ledger.accepted)} accepted: {_listed(exports.items())}",
        "mails": f"{len(aftermath.smtp.mails)} accepted by the server: {_listed(mails.items())}",
        "events": f"{_listed(events.items())}; the receiver answered {_listed(posted.items())}",
        "checked": _listed(ledger.counts.items()),
        "API answered": _listed(answers[False].items()),
        "storage answered": _listed(answers[True].items()),
        "processes ended": _listed(endings.items()),
        "MiB": ", ".join(f"{name} {aftermath.megabytes[name]} → {now[name]}" for name in sorted(now)),
        "healing": f"API ready {storm.longest_healing_seconds:.1f} s after a fault at most",
        "rest": f"{rest_seconds:.1f} s after the last fault",
    }
    print()
    for name, text in rows.items():
        print(f"  {name:<17} {text}")


async def _outcomes(aftermath: Aftermath) -> tuple[Counter[str], Counter[str], Counter[str]]:
    async with aftermath.world.database() as connection:
        exports = await connection.fetch(
            """SELECT CASE WHEN error_message = 'cancelled by user' THEN 'cancelled' ELSE status::text END AS outcome,
            count(*) AS count FROM carryout.export_jobs GROUP BY 1"""
        )
        mails = await connection.fetch(
            "SELECT state AS outcome, count(*) AS count FROM carryout.export_notifications GROUP BY 1"
        )
        events = await connection.fetch(
            "SELECT kind AS outcome, count(*) AS count FROM carryout.export_events GROUP BY 1"
        )
    return _counted(exports), _counted(mails), _counted(events)


def _counted(rows: Sequence[asyncpg.Record]) -> Counter[str]:
    return Counter({row["outcome"]: row["count"] for row in rows})


def _struck(struck: Counter[str]) -> dict[str, str]:
    """The faults of each kind of target, and of all."""
    rows = {"faults": str(struck.total())}
    for target in sorted({name.partition(" ")[0] for name in struck}):
        own = {
            name.removeprefix(f"{target} "): count for name, count in struck.items() if name.startswith(f"{target} ")
        }
        rows[f"  {target}"] = _listed(own.items())
    return rows


def _listed(counted: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted)) or "none"

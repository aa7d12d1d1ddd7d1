"""The measurements as text: first the goals, then the tables."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.data import Size


class Goal(NamedTuple):
    work: str
    measured: str
    goal: str
    met: bool


class Table(NamedTuple):
    """`note` says how it was measured."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Report:
    """For the charts: `series` are (seconds, MiB) of streams, `list_rates` thousand rows and `export_rates` small
    exports a second of contenders.
    """

    goals: list[Goal] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    list_rates: dict[str, float] = field(default_factory=dict)
    export_rates: dict[str, float] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def limit(self, work: str, figure: float, goal: float, unit: str = "x", *, digits: int = 2) -> None:
        """Add a goal that is an upper limit."""
        self.goals.append(Goal(work, f"{figure:.{digits}f} {unit}", f"≤ {goal:g} {unit}", figure <= goal))

    def reach(self, work: str, figure: float, goal: float, unit: str = "x", *, digits: int = 2) -> None:
        """Add a goal that is a lower limit."""
        self.goals.append(Goal(work, f"{figure:.{digits}f} {unit}", f"≥ {goal:g} {unit}", figure >= goal))


def render(report: Report, size: Size, *, charts: bool) -> str:
    lines = ["# Benchmarks", "", *_conditions(size), ""]
    lines += _table(
        Table(
            "Goals",
            "Ratios are ratios of medians. [row.md](row.md#goals-that-are-missed) has the layers of what is missed.",
            ("work", "measured", "goal", "met"),
            [(*goal[:3], "yes" if goal.met else "**no**") for goal in report.goals],
        )
    )
    if charts:
        lines += ["![Rows a second, Carryout and its peers](images/throughput.png)", ""]
        lines += ["![Small exports a second, Carryout and the usual way](images/small_exports.png)", ""]
        lines += ["![Memory of the service while a million rows leave](images/memory.png)", ""]
    for table in report.tables:
        lines += _table(table)
    return "\n".join(lines)


def _conditions(size: Size) -> list[str]:
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {sys.version.split()[0]}"
    return [
        f"Measured by `make bench` in one run: {size.rounds} rounds after a warm-up round, all contenders in turns",
        f"in each; figures are medians (smallest to largest). {machine};",
        "PostgreSQL, Redis, S3, the contenders and the client share the machine. Times are of whole `curl` or",
        "`psql` commands, including their start. CPU is that of the contender's processes; PostgreSQL's is listed",
        "separately; memory is the peak resident set above that of the idle process.",
    ]


def _table(table: Table) -> list[str]:
    lines = [f"## {table.title}", "", table.note, ""]
    lines += [_row(table.header), _row(["---"] * len(table.header)), *map(_row, table.rows)]
    return [*lines, ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

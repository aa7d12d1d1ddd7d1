"""Output of operators' commands: a table for people, or JSON lines for scripts."""

import datetime as dt
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TypeVar

import click

from guard.records import echo_columns, echo_json
from guard.text import printable

T = TypeVar("T")

MAX_CELL_CHARACTERS = 250

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")


async def echo_found(
    found: AsyncGenerator[T], header: Iterable[str], row: Callable[[T], Sequence[object]], *, as_json: bool
) -> None:
    """Print each object as a line of JSON as soon as it is read, or all of them as a table with a `row` of each."""
    async with aclosing(found):
        if as_json:
            async for each in found:
                echo_json([each])
        else:
            echo_table([*header], [row(each) async for each in found])


def echo_rows(header: Iterable[str], rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    if as_json:
        echo_json(rows)
    else:
        echo_table([*header], [[*row.values()] for row in rows])


def echo_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    echo_columns([header, *([_cell(value) for value in row] for row in rows)])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%SZ}"
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return printable(text, max_characters=MAX_CELL_CHARACTERS)

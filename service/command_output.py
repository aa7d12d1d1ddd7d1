"""What operators' commands print: a table for people, or JSON lines for scripts."""

import datetime as dt
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing

import click
import msgspec

# Terminals obey some of them, as they do ESC; JSON has only what is below the space escaped (RFC 8259, section 7).
CONTROLS = re.compile("[\x7f-\x9f]")

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


async def echo_each(objects: AsyncGenerator[object]) -> None:
    """As JSON, each as it comes."""
    async with aclosing(objects):
        async for each in objects:
            echo_json([each])


def echo_rows(header: Iterable[str], rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    if as_json:
        echo_json(rows)
    else:
        echo_table([*header], [[*row.values()] for row in rows])


def echo_json(objects: Iterable[object]) -> None:
    text = b"".join(msgspec.json.encode(each) + b"\n" for each in objects).decode()
    click.echo(CONTROLS.sub(lambda control: f"\\u{ord(control[0]):04x}", text).encode(), nl=False)


def echo_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    lines = [header, *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:%Y-%m-%d %H:%M:%SZ}" if isinstance(value, dt.datetime) else str(value)

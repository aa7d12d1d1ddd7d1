"""Records on the terminal: lines of JSON for scripts, or columns for people."""

from collections.abc import Iterable, Sequence

import click
import msgspec

from guard.terminal import echo
from guard.text import printable_json


def echo_json(objects: Iterable[object]) -> None:
    """Print each object as a line of JSON."""
    text = b"".join(msgspec.json.encode(each) + b"\n" for each in objects).decode()
    click.echo(printable_json(text).encode(), nl=False)


def echo_columns(lines: Sequence[Sequence[str]]) -> None:
    """Print the cells of all lines, which have equally many, below each other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

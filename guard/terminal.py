"""Terminal output of all commands. Text stays on its line, and escape sequences in it have no effect."""

import traceback
from collections.abc import Iterable, Sequence
from types import TracebackType

import click
import msgspec

from guard.text import printable, printable_json


def echo(*lines: str, err: bool = False) -> None:
    """Print each line. None is truncated, because an SQL statement must stay whole."""
    click.echo("\n".join(printable(line, max_characters=None) for line in lines), err=err)


def echo_json(objects: Iterable[object]) -> None:
    """Print each object as a line of JSON."""
    text = b"".join(msgspec.json.encode(each) + b"\n" for each in objects).decode()
    click.echo(printable_json(text).encode(), nl=False)


def echo_columns(lines: Sequence[Sequence[str]]) -> None:
    """Print the cells of all lines, which have equally many, below each other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def prompt(text: str) -> None:
    """Print `text` without ending its line."""
    click.echo(printable(text), nl=False)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For `sys.excepthook`. Python's own hook prints messages unescaped, and they may quote a server."""
    echo(*"".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n"), err=True)

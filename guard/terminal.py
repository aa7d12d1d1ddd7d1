"""Terminal output of all commands. Text stays on its line, and escape sequences in it have no effect."""

import traceback
from types import TracebackType

import click

from guard.text import printable


def echo(*lines: str, err: bool = False) -> None:
    """Print each line. None is truncated, because an SQL statement must stay whole."""
    click.echo("\n".join(printable(line, max_characters=None) for line in lines), err=err)


def prompt(text: str) -> None:
    """Print `text` without ending its line."""
    click.echo(printable(text), nl=False)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For `sys.excepthook`. Python's own hook prints messages unescaped, and they may quote a server."""
    echo(*"".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n"), err=True)

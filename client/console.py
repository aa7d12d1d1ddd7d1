"""What a person sees meanwhile, on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

SECONDS_BETWEEN_LINES = 5.0
ERASE_LINE = "\r\x1b[K"

Advance = Callable[[int], None]


class Console:
    """`quiet`: only errors. `resume_hint` is the command that goes on with what an interrupted one leaves."""

    def __init__(self, *, quiet: bool) -> None:
        self.resume_hint = ""
        self._quiet = quiet
        self._bars = sys.stderr is not None and sys.stderr.isatty()  # None where a script closed it

    def say(self, sentence: str) -> None:
        if not self._quiet:
            click.echo(f"{ERASE_LINE if self._bars else ''}{_printable(sentence)}", err=True)

    def fail(self, sentence: str, *, resumable: bool, hint: str | None = None) -> None:
        """What went wrong, and what may help; if it is `resumable`, also how to go on, once that is known."""
        click.echo(f"{ERASE_LINE if self._bars else ''}carryout: {_printable(sentence)}", err=True)
        if hint:
            click.echo(_printable(hint), err=True)
        if resumable and self.resume_hint:
            click.echo(f"To go on: {self.resume_hint}", err=True)

    @contextmanager
    def progress(self, label: str, unit: str, total: int | None = None) -> Iterator[Advance]:
        """Gives a function that is told how many `unit` are done by now; `total` is None where nobody knows it."""
        if self._quiet:
            yield lambda _done: None
        elif self._bars and total:
            with click.progressbar(length=total, label=label, file=sys.stderr, show_pos=True) as bar:
                yield lambda done: bar.update(done - bar.pos)
        else:
            yield self._lines(label, unit, total)

    def _lines(self, label: str, unit: str, total: int | None) -> Advance:
        due = 0.0

        def advance(done: int) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + SECONDS_BETWEEN_LINES
                self.say(f"{label}: {done:,}{f' of {total:,}' if total else ''} {unit}")

        return advance


def _printable(text: str) -> str:
    """A server's words may not move anybody's cursor."""
    return "".join(character if character.isprintable() else "�" for character in text)

"""Progress and messages on stderr: a progress bar on a terminal, otherwise a line every few seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from client.words import gettext, number
from guard.text import printable

SECONDS_BETWEEN_LINES = 5.0
ERASE_LINE = "\r\x1b[K"

Advance = Callable[[int], None]
Count = Callable[[int], str]
"""A number with its unit, as `3 records`."""


class Console:
    """`quiet` prints errors only. `resume_hint` is the command that resumes an interrupted run."""

    def __init__(self, *, quiet: bool) -> None:
        self.resume_hint = ""
        self._quiet = quiet
        self._bars = sys.stderr is not None and sys.stderr.isatty()  # None where a script closed it

    def say(self, sentence: str) -> None:
        if not self._quiet:
            click.echo(f"{ERASE_LINE if self._bars else ''}{printable(sentence)}", err=True)

    def fail(self, sentence: str, *, resumable: bool, hint: str | None = None) -> None:
        """Print the error and the hint; if it is `resumable`, also the command to resume, once it is known."""
        click.echo(f"{ERASE_LINE if self._bars else ''}carryout: {printable(sentence)}", err=True)
        if hint:
            click.echo(printable(hint), err=True)
        if resumable and self.resume_hint:
            click.echo(gettext("To resume: %(command)s", command=printable(self.resume_hint)), err=True)

    @contextmanager
    def progress(self, label: str, count: Count, total: int | None = None) -> Iterator[Advance]:
        """Yields a function to report the number done so far; `total` is None if it is unknown."""
        if self._quiet:
            yield lambda _done: None
        elif self._bars and total:
            with click.progressbar(length=total, label=label, file=sys.stderr, show_pos=True) as bar:
                yield lambda done: bar.update(done - bar.pos)
        else:
            yield self._lines(label, count, total)

    def _lines(self, label: str, count: Count, total: int | None) -> Advance:
        due = 0.0

        def advance(done: int) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + SECONDS_BETWEEN_LINES
                self.say(line(done))

        def line(done: int) -> str:
            if not total:
                return gettext("%(work)s: %(done)s", work=label, done=count(done))
            return gettext("%(work)s: %(done)s of %(total)s", work=label, done=number(done), total=count(total))

        return advance

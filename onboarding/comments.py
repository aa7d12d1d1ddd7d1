"""Writes and reads the decisions in the comments of dataset files.

    -- users: public.users               the users' table (in profile.sql)
    -- own: account_id                   its columns that point to rows of the user alone
    -- table: public.orders              the table of the file's other lines
    -- deny COLUMN, COLUMN: why          they aren't exported
    -- key COLUMN: why                   it finds or orders rows, and isn't exported
    -- COLUMN,  -- undecided: why        a question of `init`
    -- deny table public.tokens: why     no column of that table is exported (in any file)

Names are quoted as in SQL. A comment is always one printable line, because text after a line break would be run.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath

import msgspec

from guard.text import printable
from service.documents.datasets import naming, read_sql

IDENTIFIER = r'(?:(?:U&)?"(?:[^"\n]|"")+"|[^\s":.,()]+)'
LINE = re.compile(
    rf"^\s*-- (?:(?P<head>users|own|table): (?P<named>.+?)"
    rf"|(?P<verdict>deny|key) (?P<columns>{IDENTIFIER}(?:, {IDENTIFIER})*): (?P<why>.*?)"
    rf"|deny table (?P<denied_table>{IDENTIFIER}\.{IDENTIFIER}): (?P<why_table>.*?)"
    rf"|(?:\w+\.)?(?P<asked>{IDENTIFIER})(?: AS {IDENTIFIER})?,?  -- undecided: (?P<why_asked>.*?)"
    rf"|undecided: (?P<doubt>.*?))\s*$",
    re.MULTILINE,
)


class Comments(msgspec.Struct):
    """The decisions of one file, each with its reason. `denied`, `keys` and `undecided` are columns of `table`;
    `doubt` is the reason why the whole file is undecided.
    """

    users: str | None = None
    own: tuple[str, ...] = ()
    table: str | None = None
    denied: dict[str, str] = msgspec.field(default_factory=dict)
    keys: dict[str, str] = msgspec.field(default_factory=dict)
    undecided: dict[str, str] = msgspec.field(default_factory=dict)
    denied_tables: dict[str, str] = msgspec.field(default_factory=dict)
    doubt: str = ""


def read_comments(path: FilePath) -> Comments:
    """Raises ConfigurationError, naming the file, if it can't be read."""
    with naming(path.name):
        text = read_sql(path)
    found = Comments()
    for line in LINE.finditer(text):
        if line["denied_table"]:
            found.denied_tables[line["denied_table"]] = line["why_table"]
        elif line["verdict"]:
            decided = found.denied if line["verdict"] == "deny" else found.keys
            decided.update(dict.fromkeys(_names(line["columns"]), line["why"]))
        elif line["asked"]:
            found.undecided[line["asked"]] = line["why_asked"]
        elif line["doubt"] is not None:
            found.doubt = line["doubt"]
        elif line["head"] == "own":
            found.own = tuple(_names(line["named"]))
        else:
            setattr(found, line["head"], line["named"])
    return found


def _names(text: str) -> Iterator[str]:
    yield from re.findall(IDENTIFIER, text)


def comment(text: str) -> str:
    """A comment isn't truncated: it may be a statement that an operator runs without the dashes."""
    return f"-- {printable(text, max_characters=None)}"


def head_comment(head: str, named: Iterable[str]) -> str:
    return comment(f"{head}: {', '.join(named)}")


def verdict_comment(verdict: str, named: str, why: str) -> str:
    return comment(f"{verdict} {named}: {why}")

"""The decisions that stand in the dataset files' comments, written and read.

    -- users: public.users               the users' table (in profile.sql)
    -- own: account_id                   its columns that point to rows of the user alone
    -- table: public.orders              what the file's `deny` and `key` lines are about
    -- deny COLUMN: why                  it doesn't leave
    -- key COLUMN: why                   it is read to find or to order rows, and doesn't leave
    -- deny table public.tokens: why     nothing of that table leaves (in any file)

Names are quoted as in SQL.
"""

import re
from collections.abc import Iterable
from pathlib import Path as FilePath

import msgspec

IDENTIFIER = r'(?:"(?:[^"]|"")+"|[^\s":.,]+)'
LINE = re.compile(
    rf"^\s*-- (?:(?P<head>users|own|table): (?P<named>.+?)"
    rf"|(?P<verdict>deny|key) (?P<column>{IDENTIFIER}): .*"
    rf"|deny table (?P<denied_table>{IDENTIFIER}\.{IDENTIFIER}): .*)\s*$",
    re.MULTILINE,
)


class Comments(msgspec.Struct):
    """What one file says; `denied` and `keys` are columns of `table`."""

    users: str | None = None
    own: tuple[str, ...] = ()
    table: str | None = None
    denied: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    denied_tables: frozenset[str] = frozenset()


def read_comments(path: FilePath) -> Comments:
    found = Comments()
    for line in LINE.finditer(path.read_text(encoding="utf-8")):
        if line["denied_table"]:
            found.denied_tables |= {line["denied_table"]}
        elif line["verdict"] == "deny":
            found.denied |= {line["column"]}
        elif line["verdict"] == "key":
            found.keys |= {line["column"]}
        elif line["head"] == "own":
            found.own = tuple(name.strip() for name in line["named"].split(","))
        else:
            setattr(found, line["head"], line["named"])
    return found


def head_comment(head: str, named: Iterable[str]) -> str:
    return f"-- {head}: {', '.join(named)}"


def verdict_comment(verdict: str, named: str, why: str) -> str:
    return f"-- {verdict} {named}: {why}"

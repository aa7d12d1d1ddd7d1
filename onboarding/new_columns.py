"""Columns that are new in tables whose files were there before, as questions in these files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from onboarding.catalog import Column, Table
from onboarding.comments import comment
from onboarding.drafting import Drafts
from onboarding.ledger import NEW, Ledger, TableEntry
from onboarding.questions import INDENT, Edits, read_text
from onboarding.rules import Rule, read_rules, table_names
from onboarding.verdicts import Verdict
from service.documents.datasets import DECISIONS_FILE, read_decisions

WOULD_EXPORT = "init would export it"
SELECT = re.compile(r"^[ \t]*SELECT(?:[ \t]*$|[ \t]+(?!DISTINCT\b|ALL\b|--))", re.IGNORECASE | re.MULTILINE)
FROM = re.compile(
    r"(?:^[ \t]*|\bSELECT\b[^()]*\s)FROM\s+(?P<table>\S+)(?:\s+AS\s+(?P<alias>\S+))?", re.IGNORECASE | re.MULTILINE
)
JOIN = re.compile(r"^[ \t]*(?:\w+ )*JOIN\b", re.IGNORECASE | re.MULTILINE)


class NewColumns(msgspec.Struct, frozen=True):
    """`edits` ask about them. `unasked` are those, as `table.column`, whose file has no select list that a line can be
    added to.
    """

    edits: Edits
    unasked: tuple[str, ...]


def find_new_columns(ledger: Ledger, drafts: Drafts, directory: Path) -> NewColumns:
    edits: dict[Path, str | None] = {}
    unasked: list[str] = []
    for entry in ledger.tables:
        new = [one.column for one in entry.undecided if one.why == NEW]
        if not new or entry.verdict is Verdict.UNDECIDED:
            continue
        if entry.verdict is Verdict.NOT_PERSONAL:
            path = directory / DECISIONS_FILE
            edits[path] = _ask_again(edits.get(path) or read_decisions(directory), directory, entry, new)
            continue
        path = directory / min(entry.files, key=lambda name: name == DECISIONS_FILE)
        text = (
            _add(read_text(path), entry.table, _describe(entry.table, new, drafts)) if path.suffix == ".sql" else None
        )
        if text is None:
            unasked += [f"{entry.table.quoted}.{column.quoted}" for column in new]
        else:
            edits[path] = text
    return NewColumns(edits, tuple(unasked))


def _describe(table: Table, new: Sequence[Column], drafts: Drafts) -> Mapping[str, str]:
    """Why each of the columns is asked about, by their quoted names."""
    decisions = {
        one.column.quoted: one
        for draft in drafts.datasets
        if draft.table.quoted == table.quoted
        for one in draft.decisions
    }
    why = {name: one.why or WOULD_EXPORT for name, one in decisions.items()}
    why |= {name: WOULD_EXPORT for name, one in decisions.items() if one.verdict is Verdict.EXPORT}
    return {
        column.quoted: f"new in the table, {why.get(column.quoted, 'and nothing links its rows')}" for column in new
    }


def _add(text: str, table: Table, new: Mapping[str, str]) -> str | None:
    """The file with a line for each column at the beginning of its select list."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    select, source = SELECT.search(text), FROM.search(text)
    if select is None or source is None or not SELECT.match(code):
        return None
    prefix = f"{source['alias'] or table.name}." if JOIN.search(text) else ""
    lines = [INDENT + comment(f"{prefix}{name},  -- undecided: {why}") for name, why in new.items()]
    head, rest = text[: select.end()].rstrip(), text[select.end() :].lstrip("\n")
    return "\n".join([head, *lines, rest if rest.startswith((" ", "\t")) else INDENT + rest])


def _ask_again(text: str, directory: Path, entry: TableEntry, new: Sequence[Column]) -> str:
    """`tables.sql` with the question of a table that was called not personal before it had these columns."""
    known = read_rules(directory).find_for_table(entry.table)
    listed = ", ".join(column.quoted for column in new)
    rule = Rule(Verdict.UNDECIDED, table_names(entry.table), f"{listed} new in a table that was called not personal")
    return "".join(_replaced(text, known.text if known else "", rule.text))


def _replaced(text: str, old: str, new: str) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        yield f"{new}\n" if line.strip() == old else line

"""The open questions in a datasets folder, and the edits that answer them.

The files hold all that is decided: an interrupted session loses nothing, and the next one goes on where it ended.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from guard.files import read_trusted, replace_file
from guard.text import unquote_identifier
from onboarding.catalog import Table
from onboarding.comments import IDENTIFIER, read_comments, verdict_comment
from onboarding.drafts import label_source
from onboarding.initializing import DOUBTED_SUFFIX, READABLE, SUFFIX
from onboarding.rules import Rule, parse_rule, read_rules, replace_rule, table_names
from onboarding.suspicions import NO_LINK_BUT, alike_reasons
from onboarding.verdicts import Verdict
from service.documents.datasets import DECISIONS_FILE, PROFILE, list_paths, naming, read_decisions

COLUMN = re.compile(r"\s*-- (?P<item>.+?),?  -- undecided: (?P<why>.+)")
ITEM = re.compile(rf"(?:{IDENTIFIER}\.)?(?P<column>{IDENTIFIER})(?: AS {IDENTIFIER})?")
WHOLE_TABLE = re.compile(r"-- undecided: (?P<why>.+)")
INDENT = "    "
SEVERAL_COLUMNS = 3
"""So many columns of a table with one reason are asked about at once."""
SEVERAL_TABLES = 2
"""Likewise, tables."""

Edits = Mapping[Path, str | None]
"""The new text of each file; None for a file that goes."""


class Kind(StrEnum):
    COLUMN = "column"
    ALIKE_COLUMNS = "alike columns"
    """All of one file that are undecided for one reason."""
    LINKED_TABLES = "linked tables"
    """All that are undecided for one reason."""
    LINKED_TABLE = "linked table"
    """It has a file that the service doesn't read yet."""
    COLUMNS = "columns"
    """All of one name, or with one end of the name."""
    OTHER_TABLES = "other tables"
    """All that nothing links to the user, and that are suspicious for the same slight reasons."""
    OTHER_TABLE = "other table"
    """Nothing links it to the user."""


class Question(msgspec.Struct, frozen=True):
    """`line` of the file at `path` asks. `table` is quoted, empty if the file names none.

    `item` is what an answer would export: mostly one `column`, which is quoted, and empty for other expressions.
    """

    kind: Kind
    path: Path
    table: str
    why: str
    line: str
    column: str = ""
    item: str = ""

    @property
    def is_about_profile(self) -> bool:
        return self.path.name == f"{PROFILE}{SUFFIX}"

    def covers(self, other: "Question") -> bool:
        """Whether this question about several columns or tables is about the other's, too."""
        if self.kind is Kind.ALIKE_COLUMNS:
            return other.kind is Kind.COLUMN and (other.path, other.why) == (self.path, self.why)
        if self.kind is Kind.LINKED_TABLES:
            return other.kind is Kind.LINKED_TABLE and other.why == self.why
        if self.kind is Kind.OTHER_TABLES:
            return other.kind is Kind.OTHER_TABLE and alike_reasons(other.why) == alike_reasons(self.why)
        rule = parse_rule(self.line) if self.kind is Kind.COLUMNS else None
        return (
            rule is not None
            and other.kind is Kind.COLUMN
            and bool(other.column)
            and rule.matches(unquote_identifier(other.column))
        )


def list_questions(directory: Path) -> list[Question]:
    """First about columns of several tables, then about the profile's, the datasets', the undecided files, and the
    tables without a link.
    """
    rules = read_rules(directory)
    decided = [rule for rule in rules.rules if rule.is_about_columns and rule.verdict is not Verdict.UNDECIDED]
    columns = [
        question
        for path in list_paths(directory)
        for question in _ask_columns(path)
        if not any(_decides(rule, question) for rule in decided)
    ]
    several = [one for one in _ask_rules(directory, Kind.COLUMNS) if sum(map(one.covers, columns)) > 1]
    single = [one for one in columns if not any(group.covers(one) for group in several)]
    others = list(_ask_rules(directory, Kind.OTHER_TABLE))
    tables = [_ask_linked_table(path) for path in sorted(directory.glob(f"*{DOUBTED_SUFFIX}"))]
    return [
        *several,
        *_ask_alike_columns(single),
        *columns,
        *_ask_linked_tables(directory, tables),
        *tables,
        *_ask_other_tables(directory, others),
        *others,
    ]


def _decides(rule: Rule, question: Question) -> bool:
    names = [unquote_identifier(name) for name in re.findall(IDENTIFIER, question.table)]
    column = unquote_identifier(question.column)
    return bool(column) and (rule.matches(column) or rule.matches(*names, column))


def read_text(path: Path) -> str:
    with naming(path.name):
        return read_trusted(path, named=False).decode()


def _ask_columns(path: Path) -> Iterator[Question]:
    table = read_comments(path).table or ""
    for line in read_text(path).splitlines():
        if found := COLUMN.fullmatch(line):
            item = ITEM.fullmatch(found["item"])
            column = item["column"] if item else ""
            yield Question(Kind.COLUMN, path, table, found["why"], line, column, found["item"])


def _ask_linked_table(path: Path) -> Question:
    comments = read_comments(path)
    lines = (line for line in read_text(path).splitlines() if WHOLE_TABLE.fullmatch(line))
    why = comments.doubt or "its file has not been checked"
    return Question(Kind.LINKED_TABLE, path, comments.table or "", why, next(lines, ""))


def _ask_alike_columns(columns: Sequence[Question]) -> Iterator[Question]:
    counts = Counter((question.path, question.table, question.why) for question in columns)
    for (path, table, why), count in counts.items():
        if count >= SEVERAL_COLUMNS:
            yield Question(Kind.ALIKE_COLUMNS, path, table, why, why)


def _ask_linked_tables(directory: Path, tables: Sequence[Question]) -> Iterator[Question]:
    """The most tables first."""
    counts = Counter(question.why for question in tables)
    for why, count in counts.most_common():
        if count >= SEVERAL_TABLES:
            yield Question(Kind.LINKED_TABLES, directory, "", why, why)


def _ask_other_tables(directory: Path, tables: Sequence[Question]) -> Iterator[Question]:
    counts = Counter(alike_reasons(question.why) for question in tables)
    for reasons, count in counts.most_common():
        if reasons and count >= SEVERAL_TABLES:
            why = NO_LINK_BUT + " and ".join(f"a column {reason}" for reason in reasons)
            yield Question(Kind.OTHER_TABLES, directory / DECISIONS_FILE, "", why, why)


def _ask_rules(directory: Path, kind: Kind) -> Iterator[Question]:
    for line in read_decisions(directory).splitlines():
        rule = parse_rule(line)
        if rule and rule.verdict is Verdict.UNDECIDED and rule.is_about_columns == (kind is Kind.COLUMNS):
            names = ".".join(rule.names)
            table, column = ("", names) if kind is Kind.COLUMNS else (names, "")
            yield Question(kind, directory / DECISIONS_FILE, table, rule.why, line, column)


def export(question: Question) -> Edits:
    """The file with the item in its result."""
    lines = read_text(question.path).splitlines()
    place = lines.index(question.line)
    lines[place] = f"{INDENT}{question.item}"
    following = next(_live(lines, range(place + 1, len(lines))), None)
    if following is not None and not lines[following].lstrip().upper().startswith("FROM"):
        lines[place] += ","
        return {question.path: _joined(lines)}
    before = next(_live(lines, range(place - 1, -1, -1)), None)
    if before is not None and lines[before].strip().upper() != "SELECT" and not lines[before].rstrip().endswith(","):
        lines[before] += ","
    return {question.path: _joined(lines)}


def deny(questions: Sequence[Question]) -> Edits:
    """The files with the reasons why the columns aren't exported; items other than columns are removed."""
    texts: dict[Path, list[str]] = {}
    for question in questions:
        lines = texts.setdefault(question.path, read_text(question.path).splitlines())
        place = lines.index(question.line)
        denied = INDENT + verdict_comment(Verdict.DENY, question.column, question.why)
        lines[place : place + 1] = [denied] if question.column else []
    return {path: _joined(lines) for path, lines in texts.items()}


def deny_columns(question: Question) -> Edits:
    """With the rule that denies all columns that the question is about."""
    rule = Rule(Verdict.DENY, tuple(re.findall(IDENTIFIER, question.column)), question.why)
    return _decide(question.path.parent, rule)


def export_columns(question: Question, covered: Sequence[Question]) -> Iterator[Edits]:
    """The edits that export each of `covered`, one after the other, without the question about all of them."""
    yield from map(export, covered)
    if question.kind is Kind.COLUMNS:
        lines = read_decisions(question.path.parent).splitlines()
        yield {question.path: _joined([line for line in lines if line != question.line])}


def keep_table(question: Question) -> Edits:
    """The undecided file as a dataset."""
    lines = [line for line in read_text(question.path).splitlines() if line != question.line]
    live = question.path.with_name(question.path.name.removesuffix(DOUBTED_SUFFIX) + SUFFIX)
    return {live: _joined(lines), question.path: None}


def deny_table(question: Question, table: Table) -> Edits:
    """Without the table's file and its names in other files, and with the reason in `tables.sql`."""
    why = "an operator's decision" if question.kind is Kind.COLUMN else question.why
    directory = question.path.parent
    edits = {**_remove_labels(directory, table), **_decide(directory, Rule(Verdict.DENY, table_names(table), why))}
    return edits if question.kind is Kind.OTHER_TABLE else {question.path: None, **edits}


def _remove_labels(directory: Path, table: Table) -> dict[Path, str | None]:
    """The files without the readable names that they take from the table."""
    mark = label_source(table.quoted)
    edits: dict[Path, str | None] = {}
    for path in [*list_paths(directory), *directory.glob(f"*{DOUBTED_SUFFIX}")]:
        lines = read_text(path).splitlines()
        kept = [line for line in lines if mark not in line]
        if kept != lines:
            end = next(place for place, line in enumerate(kept) if line.startswith("FROM "))
            last = next(_live(kept, range(end - 1, -1, -1)))
            kept[last] = kept[last].removesuffix(",")
            edits[path] = _joined(kept)
    return edits


def merge(first: Edits, then: Edits) -> Edits:
    """The edits that undo both, of which `first` was saved first."""
    return {**then, **first}


def call_table_not_personal(question: Question, table: Table) -> Edits:
    """With the columns that it has now: a further one is a question again."""
    columns = tuple(column.quoted for column in table.columns)
    rule = Rule(Verdict.NOT_PERSONAL, table_names(table), f"an operator's decision, although {question.why}", columns)
    edits = _decide(question.path.parent, rule)
    return edits if question.kind is Kind.OTHER_TABLE else {question.path: None, **edits}


def save(edits: Edits) -> Edits:
    """Write the files in their order, and return the edits that restore what was there.

    Interrupted between two of them, nothing is lost: the question is asked again.
    """
    before = {path: read_text(path) if path.exists() else None for path in edits}
    for path, text in edits.items():
        if text is None:
            path.unlink(missing_ok=True)
        else:
            replace_file(path, text.encode(), mode=READABLE)
    return before


def _decide(directory: Path, rule: Rule) -> Edits:
    return {directory / DECISIONS_FILE: replace_rule(read_decisions(directory), rule)}


def _live(lines: list[str], places: Iterable[int]) -> Iterator[int]:
    return (place for place in places if lines[place].strip() and not lines[place].lstrip().startswith("--"))


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


class Outline(msgspec.Struct, frozen=True):
    """A file's JOIN and WHERE lines, and the names of what it exports."""

    joins: tuple[str, ...]
    exported: tuple[str, ...]


def read_outline(path: Path) -> Outline:
    lines = [line.strip() for line in read_text(path).splitlines() if not line.lstrip().startswith("--")]
    starts = [line.upper() for line in lines]
    first = starts.index("SELECT") + 1 if "SELECT" in starts else 0
    end = next((place for place, line in enumerate(starts) if line.startswith("FROM")), first)
    joins = tuple(line for line in lines if line.upper().startswith(("JOIN", "WHERE")))
    return Outline(joins, tuple(_name_of(line.removesuffix(",")) for line in lines[first:end]))


def _name_of(item: str) -> str:
    """The alias, or the column without its table."""
    _, is_named, alias = item.rpartition(" AS ")
    column = ITEM.fullmatch(item)
    return alias if is_named else column["column"] if column else item

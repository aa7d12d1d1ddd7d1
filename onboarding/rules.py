"""Writes and reads `tables.sql`: decisions about tables without a dataset, and about columns of several tables.

    -- not personal table public.countries (code, name): why     these columns tell nothing about a user
    -- not personal table public.schema_*: why                   with all columns; a link to a user is a finding
    -- deny table public.tokens: why                             no column of the table is exported
    -- deny column *_by_id: why                                  nor this column, in any table
    -- deny column public.orders.*_score: why                    nor this column of one table
    -- undecided table public.letters: why                       a question of `init`: replace its first word

Names are quoted as in SQL. Outside quotes, `*` stands for any characters. The file has no statement.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path as FilePath

import msgspec

from guard.text import quote_identifier
from onboarding.catalog import Column, Table
from onboarding.comments import IDENTIFIER, comment
from onboarding.verdicts import TableDecision, Verdict
from service.documents.datasets import read_decisions

VERDICTS = (Verdict.NOT_PERSONAL, Verdict.DENY, Verdict.UNDECIDED)
NAMES = rf"{IDENTIFIER}(?:\.{IDENTIFIER})*"
RULE = re.compile(
    rf"-- (?P<verdict>{'|'.join(VERDICTS)}) (?P<kind>table|column) (?P<names>{NAMES})"
    rf"(?: \((?P<columns>{IDENTIFIER}(?:, {IDENTIFIER})*)\))?: (?P<why>.*\S)"
)
ANY_RULE = re.compile(rf"-- (?:{'|'.join(VERDICTS)})\b")
TABLE_PARTS = 2
COLUMN_PARTS = (1, 3)
HEAD = f"""\
{comment("The tables that no dataset is about, and the columns that are decided in all tables at once.")}
{comment("An undecided line is a question: write `not personal` or `deny` instead of `undecided`.")}
"""


class Rule(msgspec.Struct, frozen=True):
    """`names` are the quoted schema and table, perhaps with a column, or a column alone; each may be a pattern.

    `columns` are those that the table had when it was decided; None covers all.
    """

    verdict: Verdict
    names: tuple[str, ...]
    why: str
    columns: tuple[str, ...] | None = None

    @property
    def is_about_columns(self) -> bool:
        return len(self.names) in COLUMN_PARTS

    @property
    def is_pattern(self) -> bool:
        return any(map(_is_pattern, self.names)) or len(self.names) == 1

    @property
    def text(self) -> str:
        kind = "column" if self.is_about_columns else "table"
        listed = f" ({', '.join(self.columns)})" if self.columns is not None else ""
        return comment(f"{self.verdict} {kind} {'.'.join(self.names)}{listed}: {self.why}")

    def matches(self, *names: str) -> bool:
        """`names` as the database has them, unquoted."""
        return len(names) == len(self.names) and all(map(_matches, self.names, names))


class Rules(msgspec.Struct, frozen=True):
    """`unread` are lines that begin like a rule, and aren't one."""

    rules: tuple[Rule, ...] = ()
    unread: tuple[str, ...] = ()

    def find_for_table(self, table: Table) -> Rule | None:
        return self._find(rule for rule in self.rules if rule.matches(table.schema, table.name))

    def find_for_column(self, table: Table, column: Column) -> Rule | None:
        names = (table.schema, table.name, column.name)
        return self._find(rule for rule in self.rules if rule.matches(*names) or rule.matches(column.name))

    @staticmethod
    def _find(found: Iterable[Rule]) -> Rule | None:
        """An exact rule wins, then the first."""
        return min(found, key=lambda rule: rule.is_pattern, default=None)


def read_rules(directory: FilePath) -> Rules:
    """Empty without that file. Raises ConfigurationError if it can't be read, or has a statement."""
    rules, unread = [], []
    for line in read_decisions(directory).splitlines():
        if rule := parse_rule(line):
            rules.append(rule)
        elif ANY_RULE.match(line.strip()):
            unread.append(line.strip())
    return Rules(tuple(rules), tuple(unread))


def table_rule(decision: TableDecision) -> Rule:
    table = decision.table
    columns = tuple(column.quoted for column in table.columns) if decision.verdict is Verdict.NOT_PERSONAL else None
    return Rule(decision.verdict, table_names(table), decision.why, columns)


def table_names(table: Table) -> tuple[str, str]:
    return quote_identifier(table.schema), quote_identifier(table.name)


def render_rules(existing: str, rules: Sequence[Rule]) -> str:
    """The file with `rules` below the lines that it has."""
    head = existing if not existing or existing.endswith("\n") else f"{existing}\n"
    return (head or HEAD) + "".join(f"{rule.text}\n" for rule in rules)


def replace_rule(existing: str, rule: Rule) -> str:
    """The file with `rule` in place of the question about the same table, or below all others."""
    lines = existing.splitlines()
    asked = [place for place, line in enumerate(lines) if _asks_about(line, rule.names)]
    if not asked:
        return render_rules(existing, [rule])
    lines[asked[0]] = rule.text
    return "\n".join(lines) + "\n"


def _asks_about(line: str, names: tuple[str, ...]) -> bool:
    found = parse_rule(line)
    return found is not None and found.verdict is Verdict.UNDECIDED and found.names == names


def parse_rule(line: str) -> Rule | None:
    """None for other lines."""
    found = RULE.fullmatch(line.strip())
    if not found:
        return None
    names = tuple(re.findall(IDENTIFIER, found["names"]))
    columns = tuple(re.findall(IDENTIFIER, found["columns"])) if found["columns"] else None
    is_table = found["kind"] == "table"
    if is_table != (len(names) == TABLE_PARTS) or not (is_table or len(names) in COLUMN_PARTS):
        return None
    if columns is not None and not (is_table and found["verdict"] == Verdict.NOT_PERSONAL):
        return None
    return Rule(Verdict(found["verdict"]), names, found["why"], columns)


def _is_pattern(part: str) -> bool:
    return "*" in part and not part.endswith('"')


def _matches(part: str, name: str) -> bool:
    if not _is_pattern(part):
        return part == quote_identifier(name)
    return re.fullmatch(".*".join(map(re.escape, part.split("*"))), name, re.DOTALL) is not None

"""Questions about columns of one kind, asked once: `-- undecided column *_score: why`."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from guard.text import quote_identifier
from onboarding.catalog import Catalog
from onboarding.drafts import Draft
from onboarding.rules import Rule
from onboarding.verdicts import Verdict
from onboarding.words import words

LEAST = 3
LEAST_OF_ONE_NAME = 2
NAMED = 4


class Group(msgspec.Struct, frozen=True):
    """`columns` are pairs of a table's and a column's quoted names; `rule` decides about all of them."""

    rule: Rule
    columns: tuple[tuple[str, str], ...]


def group_columns(catalog: Catalog, drafts: Sequence[Draft]) -> tuple[Group, ...]:
    """Groups of undecided columns, of one name, or of names with one end, that catch no column which is exported."""
    asked: dict[tuple[str, str], tuple[str, str]] = {}
    used = set()
    for draft in drafts:
        for decision in draft.decisions:
            if decision.verdict is Verdict.UNDECIDED and not draft.doubt:
                asked[draft.table.quoted, decision.column.quoted] = decision.column.name, decision.why
            elif decision.verdict in {Verdict.EXPORT, Verdict.KEY}:
                used.add((draft.table.quoted, decision.column.quoted))
    named: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for table in catalog.tables.values():
        for column in table.columns:
            named[column.name].append((table.quoted, column.quoted))
    groups = []
    for pattern in _candidates(asked):
        rule = Rule(Verdict.UNDECIDED, (pattern,), "")
        matched = [one for name, columns in named.items() if rule.matches(name) for one in columns]
        caught = [one for one in matched if one in asked]
        if len(caught) >= _least(pattern) and used.isdisjoint(matched):
            listed = ", ".join(f"{table}.{column}" for table, column in caught[:NAMED])
            more = f" and {len(caught) - NAMED} more" if len(caught) > NAMED else ""
            why = f"{asked[caught[0]][1]}: {listed}{more}"
            groups.append(Group(msgspec.structs.replace(rule, why=why), tuple(caught)))
            for one in caught:
                del asked[one]
    return tuple(groups)


def _candidates(asked: dict[tuple[str, str], tuple[str, str]]) -> list[str]:
    """Patterns for the names, the ones that catch the most first."""
    counts: dict[str, int] = defaultdict(int)
    for name, _ in asked.values():
        for pattern in _patterns(name):
            counts[pattern] += 1
    several = (one for one, count in counts.items() if count >= _least(one))
    return sorted(several, key=lambda one: (-counts[one], one))


def _least(pattern: str) -> int:
    return LEAST if pattern.startswith("*") else LEAST_OF_ONE_NAME


def _patterns(name: str) -> Iterator[str]:
    yield quote_identifier(name)
    parts = words(name)
    if len(parts) > 1 and name.endswith(f"_{parts[-1]}"):
        yield f"*_{parts[-1]}"

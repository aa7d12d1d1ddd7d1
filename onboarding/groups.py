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
NAMED = 4


class Group(msgspec.Struct, frozen=True):
    """`columns` are pairs of a table's and a column's quoted names; `rule` decides about all of them."""

    rule: Rule
    columns: tuple[tuple[str, str], ...]


def group_columns(catalog: Catalog, drafts: Sequence[Draft]) -> tuple[Group, ...]:
    """Groups of undecided columns, of one name, or of names with one end, that catch no other column."""
    asked: dict[tuple[str, str], tuple[str, str]] = {}
    for draft in drafts:
        for decision in draft.decisions:
            if decision.verdict is Verdict.UNDECIDED and not draft.doubt:
                asked[draft.table.quoted, decision.column.quoted] = decision.column.name, decision.why
    named: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for table in catalog.tables.values():
        for column in table.columns:
            named[column.name].append((table.quoted, column.quoted))
    groups = []
    for pattern in _candidates(asked):
        rule = Rule(Verdict.UNDECIDED, (pattern,), "")
        caught = [one for name, columns in named.items() if rule.matches(name) for one in columns]
        if len(caught) >= LEAST and all(one in asked for one in caught):
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
    return sorted((one for one, count in counts.items() if count >= LEAST), key=lambda one: (-counts[one], one))


def _patterns(name: str) -> Iterator[str]:
    yield quote_identifier(name)
    parts = words(name)
    if len(parts) > 1 and name.endswith(f"_{parts[-1]}"):
        yield f"*_{parts[-1]}"

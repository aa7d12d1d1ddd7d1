"""The names in a PromQL expression. Unknown words are reported, so no real parser is needed."""

import re
from dataclasses import dataclass

WORDS = frozenset({"absent", "and", "count", "histogram_quantile", "increase", "max", "or", "rate", "sum", "time"})
GROUPING = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"\b([a-zA-Z_][\w:]*)\s*(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
DURATION = re.compile(r"\[[^]]*\]")


@dataclass(frozen=True)
class Selector:
    """A metric, and the values that each label is compared with."""

    metric: str
    labels: dict[str, list[str]]


def selectors(expression: str) -> list[Selector]:
    plain = DURATION.sub("", GROUPING.sub("", expression))
    return [
        Selector(name, {label: value.split("|") for label, _, value in MATCHER.findall(matchers)})
        for name, matchers in SELECTOR.findall(plain)
        if name not in WORDS
    ]


def groupings(expression: str) -> set[str]:
    """The labels of all its `by` and `on`."""
    return {label.strip() for labels in GROUPING.findall(expression) for label in labels.split(",") if label.strip()}

"""`python -m tests.support.words`: words and sentences that make readers go over them twice, counted by rule.

A rule fails above its ceiling in pyproject.toml, `[tool.words]`. Ceilings only go down: when a count falls, lower it.
`--list` shows every hit.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "bench",
    "client",
    "deploy",
    "devstack",
    "docs",
    "guard",
    "languages",
    "onboarding",
    "service",
    "sql",
    "tests",
    "worker",
)
SUFFIXES = frozenset({".css", ".html", ".js", ".md", ".py", ".sql", ".toml", ".yaml"})
SKIPPED = re.compile(
    r"swagger-ui|node_modules|tests/support/(test_)?words\.py|/sql/migrations/"
)  # applied migrations stay as they are

# A sentence's begin: in a docstring, a comment, or a document; not the question that `What …?` is.
BEGIN = r'(?:"""|^\s*(?:#|--|//|\*) |^(?:[-|>] )?|[.:] )'
RULES = {
    # An account of Unix is called nobody.
    "vague_actor": re.compile(r"\b(?:nobody(?!['\"]?\)|\.pw_| =)|somebody|whoever|whatever)\b", re.IGNORECASE),
    "headless_sentence": re.compile(BEGIN + r"(?:Of|Who|Whom|Whose|What)\b(?![^.|]*\?)"),
    "is_no": re.compile(r"\b(?:is|are|was|were) no\b(?! longer| more than)", re.IGNORECASE),
}


class Hit(NamedTuple):
    rule: str
    path: Path
    line: int
    text: str


def find_hits(path: Path, text: str) -> Iterator[Hit]:
    for number, line in enumerate(text.splitlines(), 1):
        for rule, pattern in RULES.items():
            for _ in pattern.finditer(line):
                yield Hit(rule, path, number, line.strip())


def sources() -> Iterator[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    for path in sorted([*ROOT.glob("*.md"), *found]):
        if path.suffix in SUFFIXES and not SKIPPED.search(path.as_posix()):
            yield path


def main() -> int:
    hits = [hit for path in sources() for hit in find_hits(path.relative_to(ROOT), path.read_text())]
    if "--list" in sys.argv:
        sys.stdout.writelines(f"{hit.path}:{hit.line}: {hit.rule}: {hit.text}\n" for hit in hits)
    ceilings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["words"]
    status = 0
    for rule in RULES:
        count = sum(hit.rule == rule for hit in hits)
        verdict = {True: "too many: see make words", False: "lower the ceiling"}.get(count > ceilings[rule], "")
        sys.stdout.write(
            f"{rule}: {count}, at most {ceilings[rule]}{f' ({verdict})' if count != ceilings[rule] else ''}\n"
        )
        status |= count > ceilings[rule]
    return status


if __name__ == "__main__":
    sys.exit(main())

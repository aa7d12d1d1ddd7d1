"""Steps that the manuals tell operators, read from their text: the week takes them as they are written."""

import re
from collections.abc import Mapping

from service.settings import SQL_DIR

DOCS = SQL_DIR.parent / "docs"
STEP = re.compile(r"^\d+\. (.+?)(?=^\d+\. |^\S|\Z)", re.MULTILINE | re.DOTALL)
SQL = re.compile(r"^ *```sql\n(.+?)^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")


def read_section(page: str, heading: str) -> str:
    """Up to the next heading."""
    text = (DOCS / page).read_text()
    found = re.search(rf"^#+ {re.escape(heading)}\n(.+?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section {heading}"
    return found[1]


def read_steps(page: str, heading: str) -> list[str]:
    return STEP.findall(read_section(page, heading))


def read_sql(page: str, heading: str) -> list[str]:
    return SQL.findall(read_section(page, heading))


def read_code(step: str) -> list[str]:
    """The SQL of a step, and what it shows in line."""
    return [*SQL.findall(step), *CODE.findall(SQL.sub("", step))]


def fill_in(code: str, names: Mapping[str, str]) -> str:
    """Put real names in the place of the manual's."""
    pattern = "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in sorted(names, key=len, reverse=True))
    return re.sub(pattern, lambda found: names[found[0]], code)

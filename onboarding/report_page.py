"""The decisions as a page for the person who answers for the data: `carryout check --html`.

It is one file without scripts, and loads nothing. Names and comments of the schema are hostile input: they are escaped.
"""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from guard.text import printable
from onboarding.checking import find_open
from onboarding.ledger import ColumnEntry, Ledger, TableEntry
from onboarding.links import Link
from onboarding.verdicts import Verdict

WORDS = {
    Verdict.EXPORT: "leaves",
    Verdict.KEY: "stays",
    Verdict.DENY: "stays",
    Verdict.NOT_PERSONAL: "not personal",
    Verdict.UNDECIDED: "undecided",
}
FOREIGN_KEY = "a foreign key"


def _print(value: object) -> object:
    """Text from the database, visible and on one line. Macros' results are markup already."""
    return printable(value, max_characters=None) if isinstance(value, str) and not isinstance(value, Markup) else value


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_print,
)


def render_report(ledger: Ledger, directory: Path, *, made_at: dt.datetime) -> str:
    by_verdict = {verdict: [one for one in ledger.tables if one.verdict is verdict] for verdict in Verdict}
    columns = Counter(_find_word(table, column) for table in ledger.tables for column in table.columns)
    return TEMPLATES.get_template("report.html").render(
        users=ledger.users.table.quoted,
        directory=str(directory.resolve()),
        made_at=f"{made_at:%Y-%m-%d %H:%M} UTC",
        findings=find_open(ledger),
        count=len(ledger.tables),
        exported=by_verdict[Verdict.EXPORT],
        denied=by_verdict[Verdict.DENY],
        not_personal=by_verdict[Verdict.NOT_PERSONAL],
        undecided=by_verdict[Verdict.UNDECIDED],
        columns=columns,
        words=WORDS,
        describe_link=_describe_link,
        sort_columns=_sort_columns,
    )


def _find_word(table: TableEntry, column: ColumnEntry) -> str:
    """A column of a table that is decided as a whole has the table's word."""
    return WORDS[column.verdict if table.verdict is Verdict.EXPORT else table.verdict]


def _sort_columns(columns: Sequence[ColumnEntry]) -> list[ColumnEntry]:
    """The columns that leave come first, then the undecided ones; each in the table's order."""
    order = (Verdict.EXPORT, Verdict.UNDECIDED)
    return sorted(columns, key=lambda one: order.index(one.verdict) if one.verdict in order else len(order))


def _describe_link(link: Link) -> str:
    pairs = zip(link.columns, link.parent_columns, strict=True)
    equal = [f"{link.child}.{column} = {link.parent}.{other}" for column, other in pairs]
    further = [f"{link.child}.{column} = {literal}" for column, literal in link.where]
    return f"{' and '.join([*equal, *further])} ({link.why or FOREIGN_KEY})"

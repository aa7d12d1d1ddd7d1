"""The part of a user's data that a spec selects: sections, and rows of a half-open range of time.

The condition stands around the dataset's checked query, so it can neither widen it nor change what `$1` is compared
with; PostgreSQL moves it down to the index. Rows whose time is NULL are kept. They have a query of their own, because
an OR would keep PostgreSQL from finding the others by an index on the user and the time.
"""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from guard.text import quote_identifier
from languages.words import Words
from service.documents.datasets import PROFILE, Column, Dataset
from service.errors import DocumentError
from service.export_spec import ExportSpec

USER_SECTION = "user"


class Query(NamedTuple):
    """A dataset whose SQL selects the wanted rows, given `arguments`: the user, and the bounds of a range."""

    dataset: Dataset
    arguments: tuple[object, ...]


class Selected(NamedTuple):
    """A section: its dataset, and the queries that give its rows one after the other."""

    dataset: Dataset
    queries: tuple[Query, ...]


def section_name(dataset: Dataset) -> str:
    """The dataset's name in documents."""
    return USER_SECTION if dataset.name == PROFILE else dataset.name


def title_of(dataset: Dataset) -> str:
    """The section's name for people."""
    return dataset.facts.title or section_name(dataset).replace("_", " ").capitalize()


def select_datasets(datasets: Sequence[Dataset], spec: ExportSpec) -> list[Selected]:
    """The profile, and the selected sections in their order. Raises DocumentError if one isn't configured any more."""
    chosen = [one for one in datasets if not spec.sections or one.name == PROFILE or one.name in spec.sections]
    if missing := set(spec.sections) - {section_name(one) for one in chosen}:
        raise DocumentError(f"Section {min(missing)} isn't exported any more")
    return [_restrict(dataset, spec) for dataset in chosen]


def list_unfiltered(selected: Sequence[Selected]) -> list[str]:
    """The sections beside the profile whose rows have no time."""
    return [one.dataset.name for one in selected[1:] if one.dataset.time is None]


def describe_filter(selected: Sequence[Selected], spec: ExportSpec) -> dict[str, object] | None:
    """The member `filter` of documents and views; None if all data is selected."""
    if not spec.is_filtered:
        return None
    return {
        "sections": list(spec.sections) or None,
        "from": instant_text(spec.start),
        "to": instant_text(spec.end),
        "since": str(spec.since) if spec.since else None,
        "unfiltered": list_unfiltered(selected) if spec.start or spec.end else [],
    }


def selection_words(spec: ExportSpec, words: Words) -> str:
    """The same for users; empty if all data is selected. An instant that isn't a day's begin stays exact."""
    start, end = (_day_words(instant, words) for instant in (spec.start, spec.end))
    parts = [
        words.gettext("sections %(names)s", names=", ".join(spec.sections)) if spec.sections else "",
        words.gettext("from %(time)s", time=start) if start else "",
        words.gettext("before %(time)s", time=end) if end else "",
    ]
    return ", ".join(filter(None, parts))


def _day_words(instant: dt.datetime | None, words: Words) -> str | None:
    if instant is None or instant.time() != dt.time.min:
        return instant_text(instant)
    return words.date(instant)


def instant_text(instant: dt.datetime | None) -> str | None:
    """RFC 3339 in UTC; a midnight is a date."""
    if instant is None:
        return None
    if instant.time() == dt.time.min:
        return instant.date().isoformat()
    return instant.replace(tzinfo=None).isoformat() + "Z"


def _restrict(dataset: Dataset, spec: ExportSpec) -> Selected:
    if dataset.time is None or (spec.start is None and spec.end is None):
        return Selected(dataset, (Query(dataset, (spec.user_id,)),))
    value = f'"row".{quote_identifier(dataset.time.name)}'
    comparisons = [name for name, bound in ((">=", spec.start), ("<", spec.end)) if bound is not None]
    within = " AND ".join(
        _compared(dataset.time, comparison, number) for number, comparison in enumerate(comparisons, start=2)
    )
    bounds = [bound for bound in (spec.start, spec.end) if bound is not None]
    dated = Query(where(dataset, within), (spec.user_id, *bounds))
    undated = Query(where(dataset, f"{value} IS NULL"), (spec.user_id,))
    return Selected(dataset, (dated, undated))


def where(dataset: Dataset, condition: str) -> Dataset:
    """The dataset with only the rows that meet a condition on `"row"`."""
    sql = f'SELECT * FROM ({dataset.sql}) AS "row" WHERE {condition}\n'  # noqa: S608 (checked at start-up)
    return msgspec.structs.replace(dataset, sql=sql)


def at_least(time: Column, number: int) -> str:
    """The condition that a row's time isn't before parameter `number`."""
    return _compared(time, ">=", number)


def _compared(time: Column, comparison: str, number: int) -> str:
    return f'"row".{quote_identifier(time.name)} OPERATOR(pg_catalog.{comparison}) {_bound(time, number)}'


def _bound(time: Column, number: int) -> str:
    """A parameter as the column's type compares it: in UTC, if it has no zone. A date is its midnight."""
    instant = f"${number}::pg_catalog.timestamptz"
    return instant if time.type_name == "timestamptz" else f"pg_catalog.timezone('UTC', {instant})"

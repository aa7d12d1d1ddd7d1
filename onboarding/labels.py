"""Readable names for the shared things that a row points to: the country's name, the team's."""

from collections.abc import Collection

from guard.text import is_printable, quote_identifier
from onboarding.catalog import Column, Table
from onboarding.drafts import Label
from onboarding.links import Kind, Link, Strength, find_stem, is_about_people
from onboarding.paths import Graph, Path
from onboarding.words import LABELS, OTHERS_TABLES, is_called_like_users, is_secret, singular, snake, words

TEXT_TYPES = {"text", "varchar", "citext", "bpchar"}


def find_labels(graph: Graph, path: Path, with_way: Collection[str]) -> list[Label]:
    """Those of tables that aren't about people. The rows of tables `with_way` are the user's, and exported."""
    table = graph.catalog.tables[path.table]
    taken = {column.name for column in table.columns}
    labels = []
    for link in graph.links_of(table):
        target = graph.catalog.tables.get(link.parent)
        if target is None or link.parent in with_way or not _is_simple(link) or _is_of_people(target):
            continue
        stem = find_stem(table.get_column(link.columns[0]).name)
        alias = f"{'_'.join(stem)}_name"
        if (column := _find_label(target)) and stem and alias not in taken:
            labels.append(Label(link, column.quoted, quote_identifier(alias)))
            taken.add(alias)
    return labels


def _is_simple(link: Link) -> bool:
    return link.kind is Kind.KEY and len(link.columns) == 1 and link.strength is not Strength.WEAK


def _is_of_people(table: Table) -> bool:
    last = singular(words(table.name)[-1])
    return last in OTHERS_TABLES or is_called_like_users(table.name) or is_about_people(table)


def _find_label(table: Table) -> Column | None:
    by_name = {snake(column.name): column for column in table.columns if column.type_name in TEXT_TYPES}
    found = (by_name[name] for name in LABELS if name in by_name)
    return next((column for column in found if is_printable(column.name) and not is_secret(column.name)), None)

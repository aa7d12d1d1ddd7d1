"""What may leave, column by column, with the reason; whatever isn't sure stays undecided."""

from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum

import msgspec

from onboarding.catalog import Column, Table
from onboarding.paths import Graph, Link, Path, Relation
from onboarding.words import (
    ADDRESS_WORDS,
    ID_WORDS,
    MESSAGES,
    OTHERS,
    OTHERS_TABLES,
    PERSON_NAMES,
    PERSON_WORDS,
    PLAIN_TEXT,
    REACTED_TO,
    SECRET_TABLE_WORDS,
    STAFF_WORDS,
    TIMES,
    USERS_TABLES,
    WRITES,
    is_secret,
    singular,
    snake,
    words,
)
from service.datasets import INTEGERS, is_forbidden

PLAIN_TYPES = {*INTEGERS, "bool", "numeric", "float4", "float8", "money", "date", "time", "timetz",
    "timestamp", "timestamptz", "interval"}  # fmt: skip
TEXT_TYPES = {"text", "varchar", "bpchar", "citext", "name"}
TIME_TYPES = {"date", "timestamp", "timestamptz"}
KEY_TYPES = {*INTEGERS, "uuid"}


class Verdict(StrEnum):
    """KEY columns are read to find or to order the rows, and don't leave."""

    EXPORT = "export"
    KEY = "key"
    DENY = "deny"
    UNDECIDED = "undecided"


class Decision(msgspec.Struct, frozen=True):
    column: Column
    verdict: Verdict
    why: str


class Judge:
    """Decides for one table; `path` is its way to the user, None for the users' own table."""

    def __init__(
        self,
        graph: Graph,
        table: Table,
        path: Path | None,
        *,
        forbidden: Sequence[str],
        needed: Collection[str],
    ) -> None:
        """`needed` are columns by which other tables' rows, or the operators' lists, are found."""
        self._graph = graph
        self._table = table
        self._path = path
        self._forbidden = forbidden
        self._needed = needed
        self._targets = {name: key.target for key in table.foreign_keys for name in key.columns}
        people = graph.links_to_people(table)
        self._people = {name for link in people for name in _columns_of_others(link)}
        self._way = set(path.links[0].columns) if path else set()
        is_of_user = table.quoted in graph.people
        self.others = [link for link in people if not set(link.columns) <= self._way]
        shared = bool(self.others) and not (path and _is_authors(path) and all(map(_is_reaction, self.others)))
        self._is_own_row = is_of_user or (path is not None and path.depth == 1 and not shared)
        self._is_subject = self._is_own_row and (path is None or path.relation is Relation.SUBJECT)
        self._is_author = path is not None and path.depth == 1 and path.relation is Relation.AUTHOR
        self._is_link = bool(self.others) and path is not None and path.depth == 1
        self.order = self._find_order()

    def decide_all(self) -> list[Decision]:
        return [self._decide(column) for column in self._table.columns]

    def is_empty_without_others(self, decisions: Sequence[Decision]) -> bool:
        """Whether the row links the user to another person, who stays back, and tells no more than that and when."""
        exported = [decision.column for decision in decisions if decision.verdict is Verdict.EXPORT]
        return self._is_link and not any(map(self._tells, exported))

    def _tells(self, column: Column) -> bool:
        name = column.quoted
        return name in self._targets or not (name in self.order or column.type_name in {*TIME_TYPES, "bool"})

    def _find_order(self) -> tuple[str, ...]:
        """A key without a secret; none if there is none."""
        keys = [key for key in self._table.unique_keys if not any(map(self._is_denied, key))]
        return keys[0] if keys else ()

    def _is_denied(self, quoted: str) -> bool:
        name = self._table.get_column(quoted).name
        return is_forbidden(name, self._forbidden) or is_secret(name)

    def _decide(self, column: Column) -> Decision:
        verdict, why = next(
            self._reasons(column), (Verdict.UNDECIDED, f"nothing is known of {column.type_name} values")
        )
        return Decision(column, verdict, why)

    def _reasons(self, column: Column) -> Iterator[tuple[Verdict, str]]:
        """The first counts: what mustn't leave, whose it is, then what the column is."""
        if is_secret(column.name):
            yield Verdict.DENY, "a secret, by its name"
        if is_forbidden(column.name, self._forbidden):
            verdict = Verdict.KEY if column.quoted in {*self._way, *self._needed} else Verdict.DENY
            yield verdict, "its name is in CARRYOUT_FORBIDDEN_COLUMNS"
        yield from self._link_reasons(column)
        yield from self._name_reasons(column)
        yield from self._type_reasons(column)

    def _link_reasons(self, column: Column) -> Iterator[tuple[Verdict, str]]:
        name = column.quoted
        if self._path is None and name in self._graph.users.own:
            yield Verdict.EXPORT, f"points to the user's own row of {self._targets[name]}"
        if self._path is None and name == self._graph.users.id_column.quoted:
            yield Verdict.EXPORT, "the user's id"
        is_own_table = self._table.quoted in self._graph.own_tables
        if self._path and self._path.depth == 1 and name in self._way and not is_own_table:
            yield Verdict.KEY, "the user's own id, which the profile has"
        if name in self._people:
            verdict = Verdict.KEY if name in self.order else Verdict.DENY
            yield verdict, "another person"
        if name in self._targets and self._path and self._is_of_people(self._targets[name]):
            yield Verdict.KEY if name in self.order else Verdict.UNDECIDED, "may be another person"
        if name in self._targets and column.type_name in KEY_TYPES:
            yield Verdict.EXPORT, f"points to {self._targets[name]}"
        if name in self.order:
            verdict = Verdict.EXPORT if column.type_name in {*KEY_TYPES, *TIME_TYPES} else Verdict.KEY
            yield verdict, "part of the row's own key"

    def _is_of_people(self, quoted: str) -> bool:
        return snake(self._graph.catalog.tables[quoted].name) in USERS_TABLES

    def _name_reasons(self, column: Column) -> Iterator[tuple[Verdict, str]]:
        parts = words(column.name)
        if parts and (parts[-1] in ID_WORDS or column.type_name == "uuid"):
            yield Verdict.UNDECIDED, "an id that no foreign key explains"
        if column.type_name in {"inet", "cidr", "macaddr", "macaddr8"} or not ADDRESS_WORDS.isdisjoint(parts):
            yield (Verdict.EXPORT, "") if self._is_subject else (Verdict.DENY, "may be somebody else's address")
        if not STAFF_WORDS.isdisjoint(parts):
            yield Verdict.UNDECIDED, "may be written by the staff, or work as a key"
        if not OTHERS.isdisjoint(parts[:-1]):
            yield Verdict.UNDECIDED, "may be about somebody else"

    def _type_reasons(self, column: Column) -> Iterator[tuple[Verdict, str]]:
        name, plain = snake(column.name), column.type_name in PLAIN_TYPES or column.is_enum
        if column.type_name == "tsvector":
            yield Verdict.DENY, "a search index, made of other columns"
        if name in TIMES and column.type_name in TIME_TYPES:
            yield Verdict.EXPORT, ""
        if plain and not self._is_own_row and self._path and self._path.depth == 1:
            yield Verdict.UNDECIDED, "the row names several people: whose is it?"
        if plain:
            yield Verdict.EXPORT, ""
        if column.type_name in TEXT_TYPES:
            yield self._decide_text(column)

    def _decide_text(self, column: Column) -> tuple[Verdict, str]:
        if not (self._is_own_row or self._is_author):
            return Verdict.UNDECIDED, "free text in a row that isn't the user's alone"
        known = words(column.name)[-1:]
        if known and known[0] in PLAIN_TEXT:
            return Verdict.EXPORT, ""
        return Verdict.UNDECIDED, "text of an unknown kind"


def _is_authors(path: Path) -> bool:
    """Whether the user wrote the row, by the name of its column."""
    return path.relation < Relation.RUNS or not WRITES.isdisjoint(words(path.links[0].columns[-1]))


def _columns_of_others(link: Link) -> Iterator[str]:
    """Without those that a row shares with the rows of its own table, such as the tenant."""
    for column, target in zip(link.columns, link.parent_columns, strict=True):
        if (link.child, column) != (link.parent, target):
            yield column


def _is_reaction(link: Link) -> bool:
    parts = words(link.columns[-1])
    return not REACTED_TO.isdisjoint(parts) and MESSAGES.isdisjoint(parts)


def find_table_denial(table: Table) -> str | None:
    """Why nothing of the table may leave, if its name says so."""
    if SECRET_TABLE_WORDS.isdisjoint(words(table.name)):
        return None
    return "it holds secrets, by its name"


def find_table_doubt(graph: Graph, path: Path, *, trust_names: bool) -> str | None:
    """Why it isn't sure that the rows are the user's, if so."""
    return next(_doubts(graph, path, trust_names=trust_names), None)


def _doubts(graph: Graph, path: Path, *, trust_names: bool) -> Iterator[str]:
    if any(is_secret(column) for link in path.links for column in (*link.columns, *link.parent_columns)):
        yield "a secret leads to its rows"
    for link in path.links:
        if link.by_name and not trust_names:
            yield f"{link.columns[0]} has the name of a link to the user, but is no foreign key"
        if link.parent in graph.people and path.relation is Relation.OTHER:
            yield f"{link.columns[-1]} names the user, but the row may be somebody else's"
    if path.depth > 1 and path.relation is not Relation.SUBJECT:
        yield "what hangs below a thing that the user made or runs may be other people's"
    for link in path.links:
        yield from _table_doubts(graph, path, link)


def _table_doubts(graph: Graph, path: Path, link: Link) -> Iterator[str]:
    """About the table where `link` of the path begins."""
    table = graph.catalog.tables[link.child]
    is_extension = link.columns in table.keys or table.quoted in graph.people
    if not is_extension and singular(words(table.name)[-1]) in OTHERS_TABLES:
        yield f"{table.quoted} is about other people, by its name"
    if find_table_denial(table) or is_secret(table.name):
        yield f"{table.quoted} holds secrets, by its name"
    if link in path.links[: path.depth - 1] and any(map(_is_about_people, table.columns)):
        yield f"{table.quoted} may be about other people, by its columns"


def _is_about_people(column: Column) -> bool:
    parts = set(words(column.name))
    return bool(parts & (PERSON_WORDS | ADDRESS_WORDS)) or snake(column.name) in PERSON_NAMES

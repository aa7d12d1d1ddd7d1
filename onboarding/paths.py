"""Finds how each table's rows lead to the user: by the best way, not the shortest."""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from enum import IntEnum
from itertools import count

import msgspec

from onboarding.catalog import Catalog, Table
from onboarding.links import PEOPLE, Kind, Link, Links, Strength, find_links, find_stem
from onboarding.users_table import Users
from onboarding.words import (
    ASIDE,
    AUTHOR,
    OWNS,
    RUNS,
    STAFF_TABLES,
    SUBJECT,
    TARGETS,
    USERS_NAMES,
    is_called_like_users,
    singular,
    snake,
    words,
)

__all__ = ["Graph", "Kind", "Link", "Path", "Relation", "Strength"]

PAIR = 2


class Relation(IntEnum):
    """The user's relation to the row, by a link's name; the most certain first."""

    SUBJECT = 0
    AUTHOR = 1
    RUNS = 2
    OTHER = 3


class Rank(IntEnum):
    """How well a way fits: the row's owner before those who act on it, and a step between before those."""

    SUBJECT = 0
    OWNER = 1
    AUTHOR = 2
    RUNS = 3
    BELOW = 4
    ASIDE = 5
    OTHER = 6
    BELOW_OTHER = 7
    CONTACT = 8


class Path(msgspec.Struct, frozen=True):
    """The path from `table` to the users' table, link by link.

    `relation` is the user's relation to the last row of the path. `depth` counts the links except those between the
    user's own rows, so that 1 is a row that names the user. `rank` is that of its worst link. `others` are the table's
    alternative links.
    """

    table: str
    links: tuple[Link, ...]
    relation: Relation
    depth: int
    rank: Rank = Rank.SUBJECT
    others: tuple[Link, ...] = ()

    @property
    def is_sure(self) -> bool:
        return all(link.strength is not Strength.WEAK for link in self.links)


class Graph:
    """The links between the tables of `catalog`, as seen from `users`."""

    def __init__(self, catalog: Catalog, users: Users, links: Links | None = None) -> None:
        """`links` are those of `find_links`, perhaps with further evidence."""
        self.catalog = catalog
        self.users = users
        self._links = find_links(catalog, users) if links is None else links
        self._own_links = _own_links(catalog, users)
        self.own_tables = {link.child for link in self._own_links}
        self._person_names = _person_names(catalog.tables[name] for name in (users.table.quoted, *self.own_tables))
        self.people = {users.table.quoted, *self.own_tables}
        self._extensions = self._find_extensions()
        self.numbers = self._find_numbers()
        self._pushes = count()  # orders ways that cost the same
        self.start = Path(users.table.quoted, (), Relation.SUBJECT, 0)

    def links_of(self, table: Table) -> tuple[Link, ...]:
        return self._links[table.quoted]

    def links_to_people(self, table: Table) -> list[Link]:
        """Those by an id of a person: no addresses, and no rows that the person's row points to."""
        return [
            link
            for link in self.links_of(table)
            if link.parent in self.people and link.kind in {Kind.KEY, Kind.POLYMORPHIC}
        ]

    def _find_extensions(self) -> list[Link]:
        """The links from rows that extend the user's row, such as profiles: a link to such a row names the user.

        Adds their tables to the people.
        """
        found: list[Link] = []
        while more := [link for link in map(self._find_extension, self.catalog.tables.values()) if link]:
            found += more
            self.people |= {link.child for link in more}
        return found

    def _find_extension(self, table: Table) -> Link | None:
        if table.quoted in self.people:
            return None
        declared = [link for link in self.links_to_people(table) if link.strength is Strength.FOREIGN_KEY]
        return next((link for link in declared if link.columns in table.keys and self._extends(table, link)), None)

    def _extends(self, table: Table, link: Link) -> bool:
        if link.columns == table.keys[0]:
            return True
        return is_called_like_users(table.name) and self._relation(link) is Relation.SUBJECT

    def _find_numbers(self) -> dict[str, str]:
        """The ids that tell the rows of one user apart, with the table: device_id beside user_id in a key."""
        found: dict[str, str] = {}
        for table in self.catalog.tables.values():
            people = {
                name
                for link in self.links_to_people(table)
                if self._relation(link) is Relation.SUBJECT
                for name in link.columns
            }
            rests = [set(key) - people for key in table.keys if len(key) == PAIR]
            found |= {name: table.quoted for rest in rests if len(rest) == 1 for name in rest if not _is_person(name)}
        return found

    def find_paths(self) -> list[Path]:
        """The best way of each table that has one, by distance, without the users' own table."""
        places = {name: place for place, name in enumerate(self.catalog.tables)}
        found = (path for path in self._find_ways().values() if path.links)
        return sorted(found, key=lambda path: (path.depth, places[path.table]))

    def find_shared(self) -> dict[str, Link]:
        """The tables without a way whose rows hang on something that several users share, with the link there."""
        found: dict[str, Link] = {}
        known = self._find_ways().keys()
        queue = [
            link
            for links in self._links.values()
            for link in links
            if link.kind is Kind.SHARED and link.parent in known
        ]
        by_parent = self._links_by_parent()
        while queue:
            link = queue.pop()
            if link.child not in known and link.child not in found:
                found[link.child] = link
                queue += by_parent[link.child]
        return found

    def _find_ways(self) -> dict[str, Path]:
        ways = {self.start.table: self.start}
        for link in (*self._own_links, *self._extensions):
            ways[link.child] = Path(link.child, (link, *ways[link.parent].links), Relation.SUBJECT, 1)
        by_parent = self._links_by_parent()
        heap: list[tuple[tuple[int, ...], str, int, Path]] = []
        for path in ways.values():
            self._offer(heap, by_parent, path)
        while heap:
            *_, path = heapq.heappop(heap)
            if path.table not in ways:
                ways[path.table] = path
                self._offer(heap, by_parent, path)
        return {
            table: msgspec.structs.replace(path, others=self._find_others(path, ways)) for table, path in ways.items()
        }

    def _offer(
        self, heap: list[tuple[tuple[int, ...], str, int, Path]], by_parent: dict[str, list[Link]], parent: Path
    ) -> None:
        for link in by_parent[parent.table]:
            if link.child not in {parent.table, self.start.table} and link.kind is not Kind.SHARED:
                path = self._extend(parent, link)
                heapq.heappush(heap, (self._cost(path), path.table, next(self._pushes), path))

    def _find_others(self, path: Path, ways: dict[str, Path]) -> tuple[Link, ...]:
        links = self._links[path.table]
        return tuple(
            link
            for link in sorted(links, key=lambda link: self._rank(link).value)
            if link.parent in ways
            and link.parent != path.table
            and link not in path.links[:1]
            and link.kind in {Kind.KEY, Kind.POLYMORPHIC}
            and path.links
        )

    def _links_by_parent(self) -> dict[str, list[Link]]:
        by_parent: dict[str, list[Link]] = defaultdict(list)
        for links in self._links.values():
            for link in links:
                by_parent[link.parent].append(link)
        return by_parent

    def _extend(self, parent: Path, link: Link) -> Path:
        rank = self._rank(link)
        if link.parent in self.people and link.kind is not Kind.REVERSED:
            return Path(link.child, (link, *parent.links), self._relation(link), 1, rank)
        below = Rank.BELOW if parent.rank < Rank.OTHER else Rank.BELOW_OTHER
        return Path(link.child, (link, *parent.links), parent.relation, parent.depth + 1, max(rank, below, parent.rank))

    def _relation(self, link: Link) -> Relation:
        if link.kind is Kind.CONTACT:
            return Relation.OTHER
        if set(link.columns) <= set(link.parent_columns):
            return Relation.SUBJECT  # a row that extends the user's own
        table = self.catalog.tables[link.child]
        name = set(find_stem(_name_of(table, link))) - {"by"}
        if name & TARGETS and _is_staffs(table):
            return Relation.SUBJECT  # the staff's word about a user is that user's
        if (
            snake(_name_of(table, link)) in USERS_NAMES
            or name <= self._person_names
            or (len(name) == 1 and name <= SUBJECT)
        ):
            return Relation.SUBJECT
        if name & AUTHOR:
            return Relation.AUTHOR
        return Relation.RUNS if name & RUNS else Relation.OTHER

    def _rank(self, link: Link) -> Rank:
        """How well the link alone fits."""
        if link.kind is Kind.CONTACT:
            return Rank.CONTACT
        name = set(find_stem(_name_of(self.catalog.tables[link.child], link)))
        if link.parent in self.people and link.kind is not Kind.REVERSED:
            relation = self._relation(link)
            if relation is Relation.RUNS and name & OWNS:
                return Rank.OWNER
            if relation is Relation.RUNS and self._names_subject(self.catalog.tables[link.child]):
                return Rank.ASIDE
            if relation is Relation.SUBJECT and not name & TARGETS and _is_staffs(self.catalog.tables[link.child]):
                return Rank.AUTHOR
            return Rank[relation.name]
        return Rank.ASIDE if name & ASIDE and link.kind is Kind.KEY else Rank.BELOW

    def _names_subject(self, table: Table) -> bool:
        """Whether a link to a row about a person, such as customer_id, says whose the row is: its maker's word, then,
        is that of a clerk.
        """
        return any(
            link.parent not in self.people
            and link.kind is Kind.KEY
            and link.strength is not Strength.WEAK
            and not SUBJECT.isdisjoint(find_stem(_name_of(table, link))[-1:])
            for link in self.links_of(table)
        )

    def _cost(self, path: Path) -> tuple[int, ...]:
        link = path.links[0]
        table = self.catalog.tables[link.child]
        columns = [table.get_column(name) for name in link.columns]
        weakest = max(link.strength for link in path.links)
        nullable = not all(column.not_null for column in columns)
        places = [table.columns.index(column) for column in columns]
        return path.rank, path.depth, weakest, nullable, *places


def _is_person(quoted: str) -> bool:
    return not PEOPLE.isdisjoint(find_stem(quoted.strip('"'))[-1:])


def _is_staffs(table: Table) -> bool:
    return not STAFF_TABLES.isdisjoint(words(table.name))


def _name_of(table: Table, link: Link) -> str:
    return table.get_column(link.columns[-1]).name


def _person_names(tables: Iterable[Table]) -> set[str]:
    return {word for table in tables for word in words(singular(snake(table.name)))}


def _own_links(catalog: Catalog, users: Users) -> list[Link]:
    """The links from the rows of the user alone back to the user."""
    keys = {key.columns[0]: key for key in users.table.foreign_keys if len(key.columns) == 1}
    return [
        Link(keys[name].target, keys[name].target_columns, users.table.quoted, keys[name].columns)
        for name in users.own
        if keys[name].target in catalog.tables
    ]

"""Which tables point to the user, and by which columns: breadth first, so that each has its shortest way."""

from collections import defaultdict
from collections.abc import Iterable
from enum import IntEnum

import msgspec

from onboarding.catalog import Catalog, Table
from onboarding.users_table import Users
from onboarding.words import AUTHOR, RUNS, SUBJECT, is_called_like_users, singular, snake, words


class Relation(IntEnum):
    """What a link's name says about the user and the row, the surest first."""

    SUBJECT = 0
    AUTHOR = 1
    RUNS = 2
    OTHER = 3


class Link(msgspec.Struct, frozen=True):
    """The columns of `child` that equal those of `parent`; `by_name` if no foreign key says so."""

    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    by_name: bool = False


class Path(msgspec.Struct, frozen=True):
    """The way from `table` to the user's, link by link.

    `relation` is the user's to the row where the way ends; `depth` counts the links that aren't between the user's own
    rows, so that 1 is a row that names the user. `others` are the table's further links to where it could go on.
    """

    table: str
    links: tuple[Link, ...]
    relation: Relation
    depth: int
    others: tuple[Link, ...] = ()


class Graph:
    """The links between the tables of `catalog`, as seen from `users`."""

    def __init__(self, catalog: Catalog, users: Users) -> None:
        self.catalog = catalog
        self.users = users
        self._own_links = _own_links(catalog, users)
        self.own_tables = {link.child for link in self._own_links}
        self._person_names = _person_names(catalog.tables[name] for name in (users.table.quoted, *self.own_tables))
        self.people = {users.table.quoted, *self.own_tables}
        self._extensions = self._find_extensions()

    def links_of(self, table: Table) -> list[Link]:
        """Its foreign keys, and what is called like one to the users and has their ids' type."""
        links = [Link(table.quoted, key.columns, key.target, key.target_columns) for key in table.foreign_keys]
        if table.quoted == self.users.table.quoted:
            return links
        explained = {column for link in links for column in link.columns}
        names = {"user_id", f"{singular(snake(self.users.table.name))}_id"}
        target = (self.users.table.quoted, (self.users.id_column.quoted,))
        return links + [
            Link(table.quoted, (column.quoted,), *target, by_name=True)
            for column in table.columns
            if snake(column.name) in names and column.quoted not in explained and self.users.is_id(column)
        ]

    def links_to_people(self, table: Table) -> list[Link]:
        return [link for link in self.links_of(table) if link.parent in self.people]

    def _find_extensions(self) -> list[Link]:
        """From rows that extend the user's, as profiles do, to what they extend: who points to one names the user.

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
        links = [link for link in self.links_to_people(table) if not link.by_name and link.columns in table.keys]
        return next((link for link in links if self._extends(table, link)), None)

    def _extends(self, table: Table, link: Link) -> bool:
        if link.columns == table.keys[0]:
            return True
        return is_called_like_users(table.name) and self._relation(link) is Relation.SUBJECT

    def find_paths(self) -> list[Path]:
        """In the order of their distance; never of the users' own table."""
        start = self.users.table.quoted
        found = {start: Path(start, (), Relation.SUBJECT, 0)}
        by_parent = self._links_by_parent()
        frontier = self._start(found)
        while frontier:
            ways: dict[str, list[Path]] = defaultdict(list)
            for parent in frontier:
                for link in by_parent[parent]:
                    if link.child not in found:
                        ways[link.child].append(self._extend(found[parent], link))
            for table, several in ways.items():
                best, *rest = sorted(several, key=self._rank)
                found[table] = msgspec.structs.replace(best, others=tuple(path.links[0] for path in rest))
            frontier = list(ways)
        return [path for table, path in found.items() if table != start]

    def _start(self, found: dict[str, Path]) -> list[str]:
        for link in (*self._own_links, *self._extensions):
            found[link.child] = Path(link.child, (link, *found[link.parent].links), Relation.SUBJECT, 1)
        return list(found)

    def _links_by_parent(self) -> dict[str, list[Link]]:
        links: dict[str, list[Link]] = defaultdict(list)
        for table in self.catalog.tables.values():
            for link in self.links_of(table):
                links[link.parent].append(link)
        return links

    def _extend(self, parent: Path, link: Link) -> Path:
        if link.parent in self.people:
            return Path(link.child, (link, *parent.links), self._relation(link), 1)
        return Path(link.child, (link, *parent.links), parent.relation, parent.depth + 1)

    def _relation(self, link: Link) -> Relation:
        if set(link.columns) <= set(link.parent_columns):
            return Relation.SUBJECT  # a row that extends the user's own
        name = set(words(link.columns[-1])) - {"id", "by", "uuid", "no", "pk"}
        if name <= self._person_names or (len(name) == 1 and name <= SUBJECT):
            return Relation.SUBJECT
        if name & RUNS:
            return Relation.RUNS
        return Relation.AUTHOR if name & AUTHOR else Relation.OTHER

    def _rank(self, path: Path) -> tuple[int, bool, bool, list[int]]:
        link = path.links[0]
        table = self.catalog.tables[link.child]
        columns = [table.get_column(name) for name in link.columns]
        nullable = not all(column.not_null for column in columns)
        return path.relation, link.by_name, nullable, [table.columns.index(column) for column in columns]


def _person_names(tables: Iterable[Table]) -> set[str]:
    return {word for table in tables for word in words(singular(snake(table.name)))}


def _own_links(catalog: Catalog, users: Users) -> list[Link]:
    """From the rows that are the user's alone, back to the user."""
    keys = {key.columns[0]: key for key in users.table.foreign_keys if len(key.columns) == 1}
    return [
        Link(keys[name].target, keys[name].target_columns, users.table.quoted, keys[name].columns)
        for name in users.own
        if keys[name].target in catalog.tables
    ]

"""Finds the links between tables: foreign keys, and columns that are one by their names and types.

A name is a link if it ends in a table's name (`author_user_id`, `importid`), or in a word for a person (`owner`,
`created_by`), and its type is that of the table's key. Evidence makes it strong: what is strong is followed, what is
weak is asked about.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import IntEnum, StrEnum
from functools import cache

import msgspec

from guard.text import is_printable
from onboarding.catalog import Catalog, Column, Table
from onboarding.users_table import ID_TYPES, Users, find_email
from onboarding.words import (
    ACTIONS,
    AUTHOR,
    ELSEWHERE,
    NAMES,
    NAMES_OF_PHONES,
    ORGANIZATIONS,
    OTHER_ROLES,
    PERSON_NAMES,
    PERSON_WORDS,
    RUNS,
    SUBJECT,
    TYPE_WORDS,
    USERS_NAMES,
    is_called_like_users,
    singular,
    snake,
    words,
)

PEOPLE = SUBJECT | AUTHOR | RUNS | OTHER_ROLES
ID_ENDINGS = {"id", "ids", "uuid", "guid", "uid", "fk", "pk", "ref", "no"}
LONGEST_DISTINCTIVE = 64
SHORTEST_STEM = 3


class Strength(IntEnum):
    """How sure a link is: a strong one is followed, a weak one is asked about."""

    FOREIGN_KEY = 0
    STRONG = 1
    WEAK = 2


class Kind(StrEnum):
    """REVERSED: the parent's row points to the child's. SHARED: likewise, but other people's rows do, too."""

    KEY = "key"
    POLYMORPHIC = "polymorphic"
    CONTACT = "contact"
    REVERSED = "reversed"
    SHARED = "shared"


class Link(msgspec.Struct, frozen=True):
    """The columns of `child` that equal those of `parent`. `why` is the evidence, where no foreign key says so.

    `where` are further conditions on the child, each a column and an SQL literal: owner_type = 'User'.
    """

    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    strength: Strength = Strength.FOREIGN_KEY
    kind: Kind = Kind.KEY
    why: str = ""
    where: tuple[tuple[str, str], ...] = ()


Links = dict[str, tuple[Link, ...]]


def find_links(catalog: Catalog, users: Users) -> Links:
    """The links of each table, by its quoted name."""
    finder = _Finder(catalog, users)
    links = {name: list(finder.find(table)) for name, table in catalog.tables.items()}
    for link in [link for found in links.values() for link in found]:
        if reversed_link := finder.reverse(link, links):
            links[reversed_link.child].append(reversed_link)
    return {name: tuple(found) for name, found in links.items()}


@cache
def find_stem(name: str) -> tuple[str, ...]:
    """The words that say what a column points to: ("author", "user") for author_user_id, ("created", "by") for
    createdBy; () for an id.
    """
    parts = words(name)
    if parts[-1] in ID_ENDINGS:
        return tuple(parts[:-1])
    last = parts[-1]
    if last.endswith("by") and last[:-2] in ACTIONS:
        return (*parts[:-1], last[:-2], "by")
    if last.endswith("id") and len(last) >= SHORTEST_STEM:
        return (*parts[:-1], last[:-2])
    return tuple(parts)


def squash(parts: Sequence[str]) -> str:
    return singular("".join(parts))


class _Finder:
    def __init__(self, catalog: Catalog, users: Users) -> None:
        self._catalog = catalog
        self._users = users
        self._by_name: dict[str, list[tuple[int, Table]]] = defaultdict(list)
        self._by_key: dict[str, list[Table]] = defaultdict(list)
        for table in catalog.tables.values():
            self._remember(table)
        if not self._by_name["user"]:
            self._by_name["user"].append((0, users.table))

    def _remember(self, table: Table) -> None:
        """By its name, and less surely by its name without a prefix, such as an application's."""
        for key in table.keys[:1]:
            self._by_key[key[0] if len(key) == 1 else ""].append(table)
        parts = words(table.name)
        self._by_name[squash(parts)].append((0, table))
        if len(parts) > 1:
            self._by_name[squash(parts[1:])].append((1, table))

    def find(self, table: Table) -> Iterator[Link]:
        declared = [Link(table.quoted, key.columns, key.target, key.target_columns) for key in table.foreign_keys]
        yield from declared
        explained = {column for link in declared for column in link.columns}
        named = [
            link
            for column in table.columns
            if column.quoted not in explained and (link := self._find_named(table, column))
        ]
        yield from named
        is_linked = any(link.parent == self._users.table.quoted for link in (*declared, *named))
        if not is_linked and table.quoted != self._users.table.quoted:
            by_handle = list(self._find_handles(table))
            yield from by_handle or self._find_contacts(table)

    def _find_named(self, table: Table, column: Column) -> Link | None:
        stem = find_stem(column.name)
        if not stem or not _may_be_link(column):
            return None
        is_bare = stem == tuple(words(column.name))
        type_column = _find_type_column(table, column)
        target, role = self._resolve(table, stem)
        if type_column and not is_bare:
            return self._make_polymorphic(table, column, type_column)
        is_person = stem[-1] == "by" or not PEOPLE.isdisjoint(stem[-1:])
        if target is None and not is_person and not is_bare:
            return self._find_same_key(table, column)
        if target is None and is_person:
            target = self._users.table
        key = self._key_of(target) if target else None
        is_elsewhere = not ELSEWHERE.isdisjoint(role or ())
        if target is None or key is None or (is_bare and not is_person) or not _has_type_of(column, key):
            return None
        is_itself = target.quoted == table.quoted and (column.quoted == key.quoted or target is self._users.table)
        if is_elsewhere or is_itself:
            return None
        named = role is not None
        strength = _measure(table, column, key, is_bare=is_bare, is_named=named)
        if target is not self._users.table and not _is_whole_name(table, target, stem):
            strength = Strength.WEAK
        why = f"{column.quoted} has the name of a link to {target.quoted}, but is not a foreign key"
        return Link(table.quoted, (column.quoted,), target.quoted, (key.quoted,), strength, why=why)

    def _find_same_key(self, table: Table, column: Column) -> Link | None:
        """The link to the only table whose rows a column of the same name identifies: media_id."""
        found = self._by_key.get(column.quoted, [])
        if len(found) != 1 or found[0] is table or not _has_type_of(column, found[0].get_column(column.quoted)):
            return None
        why = f"{column.quoted} has the name of the key of {found[0].quoted}, but is not a foreign key"
        strength = Strength.STRONG if column.quoted in table.indexed else Strength.WEAK
        return Link(table.quoted, (column.quoted,), found[0].quoted, (column.quoted,), strength, why=why)

    def _resolve(self, table: Table, stem: tuple[str, ...]) -> tuple[Table | None, tuple[str, ...] | None]:
        """The table that the end of the stem names, and the words before it."""
        for start in range(len(stem)):
            if found := self._choose(table, squash(stem[start:])):
                return found, stem[:start]
        last = singular(stem[-1])
        called = singular(words(self._users.table.name)[-1])
        if len(stem) == 1 and last != called and last.endswith(called):  # authoruserid
            return self._users.table, (last.removesuffix(called),)
        return None, None

    def _choose(self, table: Table, name: str) -> Table | None:
        """The table of that name, if there is one only: in the same schema, or with the same prefix."""
        found = self._by_name.get(name, [])
        best = [one for rank, one in found if rank == min(rank for rank, _ in found)]
        near = [one for one in best if one.schema == table.schema] or best
        if len(near) > 1:
            near = [one for one in near if words(one.name)[0] == words(table.name)[0]]
        return near[0] if len(near) == 1 else None

    def _key_of(self, table: Table) -> Column | None:
        if table.quoted == self._users.table.quoted:
            return self._users.id_column
        key = next((key for key in table.unique_keys if len(key) == 1), None)
        return table.get_column(key[0]) if key else None

    def _make_polymorphic(self, table: Table, column: Column, type_column: Column) -> Link | None:
        if not self._users.is_id(column) or table.quoted == self._users.table.quoted:
            return None
        is_text = type_column.type_name in {"text", "varchar", "bpchar", "citext"} or type_column.is_enum
        called = "".join(part.capitalize() for part in words(singular(snake(self._users.table.name))))
        literal = "'" + called.replace("'", "''") + "'" if is_text else "NULL"
        return Link(
            table.quoted,
            (column.quoted,),
            self._users.table.quoted,
            (self._users.id_column.quoted,),
            Strength.WEAK,
            Kind.POLYMORPHIC,
            "an id beside a type is a user's only where the type says so: write the value for users",
            ((type_column.quoted, literal),),
        )

    def _find_handles(self, table: Table) -> Iterator[Link]:
        """Columns such as `user_name`, which hold the unique name that the user signs in with."""
        handle = self._find_handle()
        for column in table.columns if handle else ():
            if handle and snake(column.name) in USERS_NAMES and _has_type_of(column, handle):
                is_key = any(column.quoted in key for key in table.keys) or column.quoted in table.indexed
                why = f"{column.quoted} may hold the user's {handle.quoted}, but is not a foreign key"
                strength = Strength.STRONG if is_key else Strength.WEAK
                yield Link(
                    table.quoted, (column.quoted,), self._users.table.quoted, (handle.quoted,), strength, why=why
                )
                return

    def _find_handle(self) -> Column | None:
        users = self._users.table
        singles = [users.get_column(key[0]) for key in users.keys if len(key) == 1]
        return next((one for one in singles if snake(one.name) in NAMES and one.type_name in ID_TYPES), None)

    def _find_contacts(self, table: Table) -> Iterator[Link]:
        """Rows that name the user only by an address, which may be another person's."""
        users = self._users.table
        for theirs, mine in ((find_email(table), find_email(users)), (_find_phone(table), _find_phone(users))):
            if theirs and mine and ID_TYPES.get(theirs.type_name) == ID_TYPES.get(mine.type_name):
                why = f"{theirs.quoted} may be the user's: their {mine.quoted} would link the rows"
                yield Link(
                    table.quoted, (theirs.quoted,), users.quoted, (mine.quoted,), Strength.WEAK, Kind.CONTACT, why
                )
                return

    def reverse(self, link: Link, links: dict[str, list[Link]]) -> Link | None:
        """The link from the row that `link` points to, if it may be of the same user."""
        child, parent = self._catalog.tables[link.child], self._catalog.tables.get(link.parent)
        is_key = link.kind is Kind.KEY and len(link.columns) == 1
        if not is_key or parent is None or link.child == link.parent or parent is self._users.table:
            return None
        is_sure = link.strength is not Strength.WEAK
        if link.columns in child.keys and link.columns != child.keys[0] and is_sure:
            return _turn(link, Strength.STRONG, Kind.REVERSED, f"{child.quoted}.{link.columns[0]} is unique")
        is_users = child.quoted == self._users.table.quoted
        is_organization = not ORGANIZATIONS.isdisjoint(words(singular(snake(parent.name)))[-1:])
        if is_users and is_called_like_users(parent.name) and not is_organization:
            why = (
                f"{child.quoted}.{link.columns[0]} may be shared by several users: "
                f"if it isn't, run init with --own {link.columns[0]}"
            )
            return _turn(link, Strength.WEAK, Kind.REVERSED, why)
        if is_organization or self._is_membership(child, link, links):
            return _turn(link, Strength.WEAK, Kind.SHARED, f"the members of {parent.quoted} share its rows")
        if is_about_people(parent) and is_sure and not is_called_like_users(parent.name):
            why = f"{child.quoted}.{link.columns[0]} leads to it, but other rows may, too"
            return _turn(link, Strength.WEAK, Kind.REVERSED, why)
        return None

    def _is_membership(self, child: Table, link: Link, links: dict[str, list[Link]]) -> bool:
        """Whether the child's rows say which users belong to the parent's row."""
        people = [other for other in links[child.quoted] if other.parent == self._users.table.quoted]
        pairs = [{*other.columns, *link.columns} for other in people if other.kind is Kind.KEY]
        return any(set(key) == pair for key in child.keys for pair in pairs)


def is_about_people(table: Table) -> bool:
    return any(set(words(column.name)) & PERSON_WORDS or snake(column.name) in PERSON_NAMES for column in table.columns)


def _turn(link: Link, strength: Strength, kind: Kind, why: str) -> Link:
    return Link(link.parent, link.parent_columns, link.child, link.columns, strength, kind, why)


def _measure(table: Table, column: Column, key: Column, *, is_bare: bool, is_named: bool) -> Strength:
    """How sure a link by its name is. `is_named` if the name has the table's."""
    is_distinctive = column.type_name == "uuid" or 0 < column.length == key.length <= LONGEST_DISTINCTIVE
    is_indexed = column.quoted in table.indexed
    is_number = ID_TYPES[column.type_name] == "bigint"
    if column.length and key.length and column.length != key.length:
        return Strength.WEAK
    if is_bare:
        return Strength.STRONG if is_distinctive and is_indexed else Strength.WEAK
    if is_named or is_distinctive or (is_number and is_indexed):
        return Strength.STRONG
    return Strength.WEAK


def _may_be_link(column: Column) -> bool:
    is_value = snake(column.name) in PERSON_NAMES  # such as user_agent
    return column.type_name in ID_TYPES and not is_value and is_printable(column.name)


def _has_type_of(column: Column, key: Column) -> bool:
    return ID_TYPES.get(column.type_name, "") == ID_TYPES.get(key.type_name)


def _is_whole_name(table: Table, target: Table, stem: Sequence[str]) -> bool:
    """Whether the stem ends in the target's name, or both tables have the prefix that it lacks: an application's."""
    parts = words(target.name)
    return squash(stem).endswith(squash(parts)) or parts[0] == words(table.name)[0]


def _find_type_column(table: Table, column: Column) -> Column | None:
    """`owner_type` or `ownerKind` beside `owner_id`."""
    stem = "".join(find_stem(column.name))
    names = {f"{stem}{word}" for word in TYPE_WORDS}
    return next((one for one in table.columns if "".join(words(one.name)) in names), None)


def _find_phone(table: Table) -> Column | None:
    return next((column for column in table.columns if snake(column.name) in NAMES_OF_PHONES), None)

"""How likely the rows of a table that nothing links to the user are a person's all the same, and why."""

from collections.abc import Iterator

from onboarding.catalog import Column, Table
from onboarding.links import Kind, Link, find_stem
from onboarding.paths import Graph
from onboarding.words import (
    ADDRESS_WORDS,
    FRAMEWORK_TABLES,
    FREE_TEXT,
    NAMES_OF_FILES_ONLY,
    OWN_THINGS,
    PERSON_NAMES,
    PERSON_WORDS,
    STAFF_TABLES,
    is_called_like_users,
    singular,
    snake,
    words,
)

NO_LINK = "no column names or holds a user"
NO_LINK_BUT = "no link to a user was found, but "
OPAQUE_TYPES = {"json", "jsonb", "bytea", "xml", "hstore", "inet", "cidr"}
PERSON, NAME, ID, TEXT, OPAQUE = (
    "may be a person's", "names a user", "may be a user's id", "may be written by a user", "may hold anything",
)  # fmt: skip
LIKE_USERS = "its name is like a users' table's"
LEADS_HERE = "leads to it"
OF_USERS = "its name says that it is about users"
BY_STAFF = "the staff may write about users in it"
INVISIBLE = "its name has invisible characters"
ALONE = (PERSON, NAME, LEADS_HERE, LIKE_USERS, OF_USERS, BY_STAFF, INVISIBLE)
SHARED = "several users may share its rows"
ALIKE = (ID, TEXT, OPAQUE, SHARED)
"""Reasons of tables that are asked about at once, if all of them have the same."""
WEIGHTS = {"person": 5, "name": 4, "id": 3, "text": 2, "opaque": 2, "shared": 10}


def suspect(graph: Graph, table: Table, shared: Link | None) -> tuple[int, str]:
    """The suspicion, 0 for none, and the reason in words. `shared` leads to something that several users share."""
    if snake(table.name) in FRAMEWORK_TABLES:
        return 0, "a framework keeps its own state in it"
    reasons = list(_reasons(graph, table))
    if not STAFF_TABLES.isdisjoint(words(table.name)):
        reasons.append((WEIGHTS["name"], BY_STAFF))
    if shared and (shared.kind is Kind.KEY or reasons):
        reasons.insert(0, (WEIGHTS["shared"], f"{', '.join(shared.columns)} leads to {shared.parent} and {SHARED}"))
    if not table.is_printable:
        reasons.append((WEIGHTS["name"], INVISIBLE))
    if not reasons:
        return 0, NO_LINK
    hidden = "" if table.is_readable else "; this role can't read it"
    return sum(weight for weight, _ in reasons), NO_LINK_BUT + ", ".join(reason for _, reason in reasons) + hidden


def alike_reasons(why: str) -> tuple[str, ...]:
    """The reasons in words, if the tables that have just these can be asked about at once."""
    is_alone = not why.startswith(NO_LINK_BUT) or any(reason in why for reason in ALONE)
    return () if is_alone else tuple(reason for reason in ALIKE if reason in why)


def _reasons(graph: Graph, table: Table) -> Iterator[tuple[int, str]]:
    if is_called_like_users(table.name):
        yield WEIGHTS["name"], LIKE_USERS
    elif singular(words(table.name)[0]) == singular(words(graph.users.table.name)[-1]):
        yield WEIGHTS["name"], OF_USERS
    for part in _personal_parts(graph, table):
        yield WEIGHTS["person"], f"{part}, a part of it, {PERSON}"
    for column in _columns_to(graph, table):
        yield WEIGHTS["person"], f"{graph.users.table.quoted}.{column} {LEADS_HERE}"
    explained = {name for key in table.foreign_keys for name in key.columns} | set(*table.keys[:1])
    for weight, what, is_so in (
        ("person", PERSON, _is_of_person),
        ("name", NAME, _names_user),
        ("id", ID, lambda column: _may_be_id(graph, column, explained) or _may_name_anyone(table, column)),
        ("text", TEXT, _is_free_text),
        ("opaque", OPAQUE, lambda column: column.type_name in OPAQUE_TYPES),
    ):
        if found := [column.quoted for column in table.columns if is_so(column)]:
            yield WEIGHTS[weight], f"{', '.join(found)} {what}"


def _personal_parts(graph: Graph, table: Table) -> list[str]:
    """Tables that are called like a part of it, point to it, and hold a person's: `visits_ips` of `visits`."""
    return [
        name
        for name, part in graph.catalog.tables.items()
        if part.name.startswith(f"{table.name}_")
        and any(key.target == table.quoted for key in part.foreign_keys)
        and any(map(_is_of_person, part.columns))
    ]


def _columns_to(graph: Graph, table: Table) -> list[str]:
    """Columns of the users' table that point to the table's rows, by names of what is a user's own: `avatar_id`."""
    links = (link for link in graph.links_of(graph.users.table) if link.parent == table.quoted)
    return [
        name
        for link in links
        for name in link.columns
        if not OWN_THINGS.isdisjoint(words(graph.users.table.get_column(name).name))
    ]


def _is_of_person(column: Column) -> bool:
    parts = set(words(column.name))
    return bool(parts & (PERSON_WORDS | ADDRESS_WORDS)) or snake(column.name) in PERSON_NAMES | {"address"}


def _may_be_id(graph: Graph, column: Column, explained: set[str]) -> bool:
    if column.quoted in explained or not find_stem(column.name) or not graph.users.is_id(column):
        return False
    last = words(column.name)[-1]
    return last.endswith("id") or last == "by" or column.type_name == "uuid"


def _names_user(column: Column) -> bool:
    return "user" in find_stem(column.name)


def _may_name_anyone(table: Table, column: Column) -> bool:
    """Whether it is a text in a key of several columns, which may hold an id or an address: `limits (key, day)`."""
    is_part = any(column.quoted in key and len(key) > 1 for key in table.keys)
    return is_part and snake(column.name) in {"key", "identifier"} and column.type_name in {"text", "varchar"}


def _is_free_text(column: Column) -> bool:
    return words(column.name)[-1] in FREE_TEXT or snake(column.name) in NAMES_OF_FILES_ONLY

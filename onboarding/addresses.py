"""The e-mail address that mails go to: the user's column, or a table of addresses, the primary one first."""

from collections.abc import Iterator, Sequence

import msgspec

from onboarding.catalog import Column, Table
from onboarding.links import Strength
from onboarding.paths import Graph, Path, Relation
from onboarding.users_table import find_email
from onboarding.words import OF_ADDRESSES, snake, words

NONE = "NULL::text"
PRIMARY = {"primary", "is_primary", "main", "is_main", "default", "is_default", "preferred", "is_preferred"}
VERIFIED = {
    "verified", "is_verified", "confirmed", "is_confirmed", "verified_at", "confirmed_at", "validated", "is_validated",
}  # fmt: skip


class Address(msgspec.Struct, frozen=True):
    """`sql` is the profile's expression; `why` says where it is from, or why there is none and what follows from it.

    `match` is a condition that an index can serve: the address is among the user's, where these are in another table.
    """

    sql: str
    why: str
    match: str = ""

    @property
    def is_known(self) -> bool:
        return self.sql != NONE


def find_address(graph: Graph, paths: Sequence[Path], *, trust_names: bool) -> Address:
    table = graph.users.table
    if own := find_email(table):
        return Address(own.quoted, f"{table.quoted}.{own.quoted}")
    found = [path for path in paths if _holds_address(graph, path)]
    sure = [path for path in found if _is_sure(graph, path, trust_names=trust_names)]
    if not sure:
        hint = (
            f" ({', '.join(path.table for path in found)} has one, but perhaps not theirs, or not now)" if found else ""
        )
        return Address(
            NONE,
            f"{table.quoted} has no e-mail address{hint}: profile.sql gives null as email, so that users get no mails, "
            "and find their exports on the page. To change that, write where it is instead of the null",
        )
    best = max(sure, key=lambda path: len(list(_flags(graph.catalog.tables[path.table]))))
    return _choose(graph.catalog.tables[best.table], best)


def _holds_address(graph: Graph, path: Path) -> bool:
    table = graph.catalog.tables[path.table]
    is_direct = path.relation is Relation.SUBJECT and len(path.links) == 1
    return is_direct and bool(table.unique_keys) and find_email(table) is not None


def _is_sure(graph: Graph, path: Path, *, trust_names: bool) -> bool:
    """Whether the table is one of addresses, or has one row a user: others keep old copies."""
    table, (link,) = graph.catalog.tables[path.table], path.links
    is_followed = link.strength is not Strength.WEAK or trust_names
    is_of_addresses = not OF_ADDRESSES.isdisjoint(words(table.name)) or any(_flags(table))
    return is_followed and (is_of_addresses or link.columns in table.keys)


def _choose(table: Table, path: Path) -> Address:
    link, email = path.links[0], find_email(table)
    assert email is not None
    condition = " AND ".join(
        f"address.{column} = {link.parent}.{target}"
        for column, target in zip(link.columns, link.parent_columns, strict=True)
    )
    match = f"EXISTS (SELECT FROM {table.quoted} AS address WHERE {condition} AND address.{email.quoted} = $1::text)"
    flags = list(_flags(table))
    first = [f"address.{column.quoted} DESC NULLS LAST" if column.type_name == "bool" else
             f"address.{column.quoted} IS NULL" for column in flags]  # fmt: skip
    order = ", ".join([*first, *(f"address.{column}" for column in table.unique_keys[0])])
    sql = f"(SELECT address.{email.quoted} FROM {table.quoted} AS address WHERE {condition} ORDER BY {order} LIMIT 1)"  # noqa: S608 (names quoted by PostgreSQL)
    named = f", by {', then '.join(column.quoted for column in flags)}" if flags else ", the first by its key"
    return Address(sql, f"{table.quoted}.{email.quoted}{named}", match)


def _flags(table: Table) -> Iterator[Column]:
    """The columns that tell which address is in use: primary, then verified."""
    for names in (PRIMARY, VERIFIED):
        yield from (
            column
            for column in table.columns
            if snake(column.name) in names and column.type_name in {"bool", "timestamp", "timestamptz"}
        )

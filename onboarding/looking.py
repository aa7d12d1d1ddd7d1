"""Reads values, with `--look`: whether ids match, whether a column is constant, whether it looks like a token.

Each query reads a few rows, read-only and bounded in time; values are compared here and never printed.
"""

import re
import time
from collections.abc import Sequence

import asyncpg
import msgspec

from onboarding.catalog import Catalog, Table
from onboarding.links import Kind, Link, Links, Strength, squash
from onboarding.users_table import ID_TYPES, Users
from onboarding.words import words
from service.backends.database import Connection

SECONDS_IN_ALL = 60.0
MILLISECONDS_EACH = 2_000
SAMPLED_ROWS = 200
LONGEST_VALUE = 300
SAMPLED_IDS = 1_000
LEAST_IDS = 5
LEAST_NUMBERS = 20
"""Small numbers are ids of many things: only many of them tell."""
LEAST_VALUES = 20
MOST_TOKENS = 0.8
TOKEN = re.compile(r"(?=[^\s]*\d)(?=[^\s]*[A-Za-z])[A-Za-z0-9_\-+/=.]{24,}")
LINK_WITH_TOKEN = re.compile(r"https?://\S*?[/=?&#](?=[^\s/]*\d)(?=[^\s/]*[A-Za-z])[A-Za-z0-9_\-]{20,}(?:[/?&#.]\S*)?")
LOOKED_AT_TYPES = {"text", "varchar", "bpchar", "citext"}


class Look(msgspec.Struct, frozen=True):
    """About a column's sampled values."""

    is_constant: bool = False
    is_token: bool = False


class Evidence(msgspec.Struct, frozen=True):
    """`unread` are tables that couldn't be looked at: no right, or no time."""

    links: Links
    looks: dict[tuple[str, str], Look] = {}
    unread: tuple[str, ...] = ()


async def look(connection: Connection, catalog: Catalog, users: Users, links: Links) -> Evidence:
    """`links` with what values say about the weak ones, and the looks of text columns."""
    sampler = _Sampler(connection, catalog, users)
    async with connection.transaction(readonly=True):
        await connection.execute("SELECT pg_catalog.set_config('statement_timeout', $1, true)", str(MILLISECONDS_EACH))
        decided = {
            name: tuple([one for link in found if (one := await sampler.weigh(link)) is not None])
            for name, found in links.items()
        }
        looks: dict[tuple[str, str], Look] = {}
        for table in catalog.tables.values():
            looks |= await sampler.look_at(table)
    return Evidence(decided, looks, tuple(sorted(sampler.unread)))


class _Sampler:
    def __init__(self, connection: Connection, catalog: Catalog, users: Users) -> None:
        self._connection = connection
        self._catalog = catalog
        self._users = users
        self._deadline = time.monotonic() + SECONDS_IN_ALL
        self.unread: set[str] = set()

    async def weigh(self, link: Link) -> Link | None:
        """The link as the values make it, None if they refute it."""
        if link.strength is not Strength.WEAK:
            return link
        if link.kind is Kind.KEY:
            return await self._weigh_key(link)
        if link.kind is Kind.POLYMORPHIC:
            return await self._weigh_polymorphic(link)
        if link.kind is Kind.REVERSED and link.parent == self._users.table.quoted:
            return await self._weigh_shared(link)
        return link

    async def _weigh_key(self, link: Link) -> Link | None:
        rows = await self._fetch(
            link.child,
            f"SELECT count(*) AS seen, count(*) FILTER (WHERE {_meets(link)}) AS met FROM ("  # noqa: S608 (names quoted by PostgreSQL)
            f"SELECT DISTINCT value FROM (SELECT {link.columns[0]} AS value FROM {link.child}"
            f" WHERE {link.columns[0]} IS NOT NULL LIMIT {SAMPLED_IDS}) AS sampled) AS ids",
        )
        if not rows or rows[0]["seen"] < LEAST_IDS:
            return link
        seen, met = rows[0]["seen"], rows[0]["met"]
        if met == 0:
            return None
        is_clear = met == seen and seen >= self._enough(link)
        why = f"{met} of {seen} values of {link.columns[0]} are ids of {link.parent}"
        return msgspec.structs.replace(
            link,
            strength=Strength.STRONG if is_clear else link.strength,
            why=why if is_clear else f"{link.why} ({why})",
        )

    async def _weigh_polymorphic(self, link: Link) -> Link:
        kind = link.where[0][0]
        rows = await self._fetch(
            link.child,
            f"SELECT kind, count(*) AS seen, count(*) FILTER (WHERE {_meets(link)}) AS met FROM ("  # noqa: S608 (names quoted by PostgreSQL)
            f"SELECT DISTINCT kind, value FROM (SELECT {kind}::pg_catalog.text AS kind, {link.columns[0]} AS value"
            f" FROM {link.child} WHERE {link.columns[0]} IS NOT NULL AND {kind} IS NOT NULL LIMIT {SAMPLED_IDS})"
            f" AS sampled) AS ids GROUP BY kind",
        )
        called = {squash(words(self._users.table.name)[start:]) for start in range(len(words(self._users.table.name)))}
        named = [row for row in rows if squash(words(row["kind"])[-1:]) in called | {"user"}]
        full = [row for row in rows if row["met"] == row["seen"] >= LEAST_IDS]
        found = named or (full if len(full) == 1 else [])
        if len(found) != 1:
            return link
        literal = "'" + found[0]["kind"].replace("'", "''") + "'"
        is_clear = bool(named) and found[0]["met"] == found[0]["seen"] >= LEAST_IDS
        return msgspec.structs.replace(
            link,
            where=((kind, literal),),
            strength=Strength.STRONG if is_clear else link.strength,
            why=f"{kind} is {literal} for {found[0]['met']} of {found[0]['seen']} ids of users",
        )

    async def _weigh_shared(self, link: Link) -> Link:
        column = link.parent_columns[0]
        rows = await self._fetch(
            link.parent,
            f"SELECT count(*) AS seen, count(DISTINCT {column}) AS unlike FROM (SELECT {column} FROM {link.parent}"  # noqa: S608 (names quoted by PostgreSQL)
            f" WHERE {column} IS NOT NULL LIMIT {SAMPLED_IDS}) AS sampled",
        )
        if not rows or rows[0]["seen"] < LEAST_NUMBERS:
            return link
        if rows[0]["seen"] != rows[0]["unlike"]:
            why = f"several users have the same {column}"
            return msgspec.structs.replace(link, kind=Kind.SHARED, why=why)
        why = f"{rows[0]['seen']} users have a {column} of their own"
        return msgspec.structs.replace(link, strength=Strength.STRONG, why=why)

    def _enough(self, link: Link) -> int:
        column = self._catalog.tables[link.child].get_column(link.columns[0])
        return LEAST_NUMBERS if ID_TYPES[column.type_name] == "bigint" else LEAST_IDS

    async def look_at(self, table: Table) -> dict[tuple[str, str], Look]:
        columns = [column for column in table.columns if column.type_name in LOOKED_AT_TYPES]
        if not columns:
            return {}
        listed = ", ".join(f"pg_catalog.left({one.quoted}::pg_catalog.text, {LONGEST_VALUE})" for one in columns)
        rows = await self._fetch(table.quoted, f"SELECT {listed} FROM {table.quoted} LIMIT {SAMPLED_ROWS}")  # noqa: S608 (names quoted by PostgreSQL)
        return {
            (table.quoted, column.quoted): judged
            for place, column in enumerate(columns)
            if (judged := _judge([row[place] for row in rows if row[place] is not None]))
        }

    async def _fetch(self, table: str, sql: str) -> list[asyncpg.Record]:
        """No rows if they can't be read."""
        if time.monotonic() > self._deadline:
            self.unread.add(table)
            return []
        try:
            async with self._connection.transaction():
                rows: list[asyncpg.Record] = await self._connection.fetch(sql)
                return rows
        except asyncpg.PostgresError:
            self.unread.add(table)
            return []


def _meets(link: Link) -> str:
    return f"EXISTS (SELECT FROM {link.parent} AS target WHERE target.{link.parent_columns[0]} = value)"


def _judge(values: Sequence[str]) -> Look | None:
    if len(values) < LEAST_VALUES:
        return None
    is_constant = len(set(values)) == 1
    is_token = not is_constant and sum(map(_is_token, set(values))) >= MOST_TOKENS * len(set(values))
    return Look(is_constant, is_token) if is_constant or is_token else None


def _is_token(value: str) -> bool:
    return any(pattern.fullmatch(value) for pattern in (TOKEN, LINK_WITH_TOKEN))

"""The one user whom an export is about. Equality is decided here, by the id's own value: a collation, a type or a
function of the application's database may take other ids for the same.
"""

import datetime as dt
import math
import re
import uuid

import asyncpg

from service.backends.database import Connection
from service.documents.datasets import Dataset
from service.user_ids import UserId

MOST_ROWS = 2  # one is a user, more are a fault
QUERY_TIMEOUT_SECONDS = 300.0
CLOCKS_DIFFER_SECONDS = 60.0  # those of the application's database and of ours


async def find_owner(
    connection: Connection, profile: Dataset, user_id: UserId, *, since: dt.datetime, expressions: str = ""
) -> asyncpg.Record | None:
    """The profile of the user who made an export `since` then; None if the user is gone, also if the id was given to
    another user later, as far as a `created_at` of the profile tells.
    """
    dated = any(column.name == "created_at" and column.type_name == "timestamptz" for column in profile.columns)
    born = "pg_catalog.date_part('epoch', \"row\".created_at)" if dated else "NULL::pg_catalog.float8"
    rows = await find_profiles(connection, profile, user_id, f"{expressions}, {born} AS born")
    latest = since.timestamp() + CLOCKS_DIFFER_SECONDS
    mine = [row for row in rows if has_id(row["id"], user_id)]  # the database may take another row's id for the same
    return next((row for row in mine if not _is_later(row["born"], latest)), None)


def _is_later(born: float | None, latest: float) -> bool:
    """An infinite time tells nothing of when the user was made."""
    return born is not None and math.isfinite(born) and born > latest


def locale_expression(profile: Dataset) -> str:
    """The column of `"row"` that names the user's language, `locale`, if there is one."""
    has_locale = any(column.name == "locale" for column in profile.columns)
    return '"row".locale::pg_catalog.text' if has_locale else "NULL::pg_catalog.text"


async def find_locale(connection: Connection, profile: Dataset, user_id: UserId) -> str | None:
    rows = await find_profiles(connection, profile, user_id, f", {locale_expression(profile)} AS locale")
    return next((row["locale"] for row in rows if has_id(row["id"], user_id)), None)


async def find_profiles(
    connection: Connection, profile: Dataset, user_id: UserId, expressions: str = ""
) -> list[asyncpg.Record]:
    """The user's rows of the profile, two at most; none unless one has exactly this id.

    `expressions` are what is read of `"row"`, each after a comma.
    """
    query = f'SELECT "row".id::pg_catalog.text AS id{expressions} FROM ({profile.sql}) AS "row" LIMIT {MOST_ROWS}'  # noqa: S608 (checked at start-up)
    rows = await connection.fetch(query, user_id, timeout=QUERY_TIMEOUT_SECONDS)
    return rows if any(has_id(row["id"], user_id) for row in rows) else []


def has_id(text: str | None, user_id: UserId) -> bool:
    """Whether `text`, PostgreSQL's of an id, is the user's."""
    if text is None or isinstance(user_id, str):
        return text == user_id
    if isinstance(user_id, uuid.UUID):
        return text.lower() == str(user_id)
    return re.fullmatch(rf"{user_id}(\.0+)?", text) is not None  # a numeric may have places

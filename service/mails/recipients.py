"""The address that a mail goes to, and the user's language: both as the application has them at this moment."""

import datetime as dt
from typing import NamedTuple

from service.backends.database import Pool
from service.documents.datasets import Dataset
from service.documents.snapshots import open_snapshot, require_whole_tables
from service.documents.subjects import find_owner, locale_expression
from service.user_ids import UserId


class Recipient(NamedTuple):
    """`locale` is what the profile's column of this name holds."""

    address: str
    locale: str | None


async def find_recipient(
    source: Pool, profile: Dataset, user_id: UserId, *, since: dt.datetime, acquire_timeout_seconds: float
) -> Recipient | None:
    """The user who made an export `since` then; None if the user is gone, or has no address.

    The address is as the application stores it.
    """
    if all(column.name != "email" for column in profile.columns):
        return None
    expressions = f', "row".email::pg_catalog.text AS email, {locale_expression(profile)} AS locale'
    async with open_snapshot(source, acquire_timeout_seconds) as connection:
        owner = await find_owner(connection, profile, user_id, since=since, expressions=expressions)
        await require_whole_tables(connection)
    return Recipient(owner["email"], owner["locale"]) if owner and owner["email"] is not None else None

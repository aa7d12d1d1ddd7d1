"""The address that a mail goes to: the user's in the application, at this moment."""

import datetime as dt

from service.backends.database import Pool
from service.documents.datasets import Dataset
from service.documents.snapshots import open_snapshot, require_whole_tables
from service.documents.subjects import find_owner
from service.user_ids import UserId


async def find_address(
    source: Pool, profile: Dataset, user_id: UserId, *, since: dt.datetime, acquire_timeout_seconds: float
) -> str | None:
    """The address as the application stores it, of the user who made an export `since` then; None if the user or the
    column doesn't exist.
    """
    if all(column.name != "email" for column in profile.columns):
        return None
    async with open_snapshot(source, acquire_timeout_seconds) as connection:
        owner = await find_owner(
            connection, profile, user_id, since=since, expressions=', "row".email::pg_catalog.text AS email'
        )
        await require_whole_tables(connection)
    return owner["email"] if owner else None

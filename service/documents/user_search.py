"""The search for the users whom an operator names by an e-mail address."""

from service.backends.database import Pool
from service.documents.datasets import Dataset
from service.documents.snapshots import (
    naming_failures,
    open_snapshot,
    refusing_foreign_characters,
    require_whole_tables,
)
from service.documents.subjects import MOST_ROWS, QUERY_TIMEOUT_SECONDS
from service.errors import SubjectNotFoundError

NO_SUCH_ADDRESS = "No user has this e-mail address"


async def find_ids(pool: Pool, search: Dataset, email: str, *, acquire_timeout_seconds: float) -> list[str]:
    """The ids, as text, of the users with this address; two at most, as more than one is a fault.

    Raises SubjectNotFoundError if there is none.
    """
    refusal = SubjectNotFoundError(NO_SUCH_ADDRESS)
    query = f'SELECT DISTINCT "row".id::pg_catalog.text AS id FROM ({search.sql}) AS "row" LIMIT {MOST_ROWS}'  # noqa: S608 (checked at start-up)
    async with open_snapshot(pool, acquire_timeout_seconds) as connection:
        with naming_failures(), refusing_foreign_characters(refusal):
            rows = await connection.fetch(query, email, timeout=QUERY_TIMEOUT_SECONDS)
        await require_whole_tables(connection)
    if not rows:
        raise refusal
    return [row["id"] for row in rows]

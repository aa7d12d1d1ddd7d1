"""The outbox: what is to be sent, which worker sends it now, and how each entry ended.

An outbox is a table with the columns that `sql/queries/outbox.sql` names. A worker claims an entry before it sends it,
so that no other worker sends it, too. A subclass adds the content of its entries: the mails are the first.
"""

import datetime as dt
from enum import StrEnum
from typing import Generic, TypeVar

import asyncpg
import msgspec

from service.backends.database import QUERIES, Connection
from service.errors import EntrySupersededError

LEASE_SECONDS = 60.0  # longer than any attempt: see backends.smtp.CONVERSATION_SECONDS
RETRY_AFTER_SECONDS = (30.0, 120.0, 600.0, 3_600.0, 14_400.0)
GIVE_UP_AFTER_SECONDS = 86_400.0


class EntryState(StrEnum):
    """`AMBIGUOUS`: the server may or may not have accepted the entry; only an operator sends it again."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    AMBIGUOUS = "ambiguous"
    SKIPPED = "skipped"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `attempts` is the fencing number; `earlier_attempts` are those before the entry was resent."""

    id: int
    state: EntryState
    attempts: int
    earlier_attempts: int
    created_at: dt.datetime
    next_attempt_at: dt.datetime
    lease_expires_at: dt.datetime | None
    data_started_at: dt.datetime | None
    ended_at: dt.datetime | None
    last_error: str | None


E = TypeVar("E", bound=Entry)


class Outbox(Generic[E]):
    """Changes of a claimed entry raise EntrySupersededError if the claim is lost or the entry has ended."""

    def __init__(self, table: str, entry: type[E]) -> None:
        """`table` is the qualified name of a table of ours, `entry` its row."""
        self._table = table
        self._entry = entry

    async def claim_due(self, connection: Connection, *, limit: int) -> list[E]:
        """Take at most `limit` entries that are due, for LEASE_SECONDS. Commit before you connect to their server."""
        query = self._query("claim_due_entries")
        return self._entries(await connection.fetch(query, limit, LEASE_SECONDS, GIVE_UP_AFTER_SECONDS))

    async def begin_data(self, connection: Connection, entry: E) -> None:
        """Note that the entry itself is sent now: after the commit, a lost worker leaves it ambiguous."""
        query = self._query("begin_entry_data")
        self._still_ours(await connection.fetchrow(query, entry.id, entry.attempts, LEASE_SECONDS))

    async def retry(self, connection: Connection, entry: E, *, cause: str, refused: bool = False) -> E:
        """Pending again, for later; failed if that would be more than a day after the entry was wanted, or resent.

        `refused`: the server refuses Carryout, until an operator changes something.
        """
        attempt = min(entry.attempts - entry.earlier_attempts, len(RETRY_AFTER_SECONDS))
        row = await connection.fetchrow(
            self._query("retry_entry"),
            entry.id,
            entry.attempts,
            RETRY_AFTER_SECONDS[attempt - 1],
            cause,
            GIVE_UP_AFTER_SECONDS,
            refused,
        )
        return self._still_ours(row)

    async def end(self, connection: Connection, entry: E, state: EntryState, *, cause: str | None = None) -> E:
        """Sent, failed, ambiguous or skipped: for good, unless it is resent."""
        row = await connection.fetchrow(self._query("end_entry"), entry.id, entry.attempts, state, cause)
        return self._still_ours(row)

    async def end_lost(self, connection: Connection) -> list[E]:
        """End the entries whose worker was lost, where sending again could be a second time or is a day too late."""
        return self._entries(await connection.fetch(self._query("end_lost_entries"), GIVE_UP_AFTER_SECONDS))

    def _query(self, name: str) -> str:
        return QUERIES[name].format(outbox=self._table)

    def _still_ours(self, row: asyncpg.Record | None) -> E:
        if row is None:
            raise EntrySupersededError
        return self._read(row)

    def _entries(self, rows: list[asyncpg.Record]) -> list[E]:
        return [self._read(row) for row in rows]

    def _read(self, row: asyncpg.Record) -> E:
        return msgspec.convert(dict(row), self._entry)  # a newer schema may have columns that we don't know

"""The outbox: what is to be sent, which worker sends it now, and how each entry ended.

An outbox is a table with the columns that `sql/queries/outbox.sql` names. A worker claims an entry before it sends it,
so that no other worker sends it, too. A subclass adds the content of its entries: the mails, and the events.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Generic, TypeVar

import asyncpg
import msgspec
import structlog

from service.backends.database import QUERIES, Connection, Executor
from service.errors import EntrySupersededError

LEASE_SECONDS = 60.0  # longer than any attempt: see backends.smtp.CONVERSATION_SECONDS
RETRY_AFTER_SECONDS = (30.0, 120.0, 600.0, 3_600.0, 14_400.0)
GIVE_UP_AFTER_SECONDS = 86_400.0
STOP_SECONDS = 5.0
ANY = "true"

logger = structlog.get_logger()


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

    def __init__(
        self,
        table: str,
        entry: type[E],
        *,
        may_go: str = ANY,
        retry_after_seconds: Sequence[float] = RETRY_AFTER_SECONDS,
        give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS,
    ) -> None:
        """`table` is the qualified name of a table of ours, `entry` its row; only what meets `may_go` is claimed."""
        self._table = table
        self._entry = entry
        self._may_go = may_go
        self._retry_after_seconds = retry_after_seconds
        self._give_up_after_seconds = give_up_after_seconds

    async def claim_due(self, connection: Connection, *, limit: int) -> list[E]:
        """Take at most `limit` entries that are due, for LEASE_SECONDS. Commit before you connect to their server."""
        query = self._query("claim_due_entries")
        return self._entries(await connection.fetch(query, limit, LEASE_SECONDS, self._give_up_after_seconds))

    async def begin_data(self, connection: Executor, entry: E) -> None:
        """Note that the entry itself is sent now: after the commit, a lost worker leaves it ambiguous."""
        query = self._query("begin_entry_data")
        self._still_ours(await connection.fetchrow(query, entry.id, entry.attempts, LEASE_SECONDS))

    async def retry(self, connection: Connection, entry: E, *, cause: str, refused: bool = False) -> E:
        """Pending again, for later; failed if the outbox would give it up by then, counted from when it was wanted, or
        resent.

        `refused`: the server refuses Carryout, until an operator changes something.
        """
        attempt = min(entry.attempts - entry.earlier_attempts, len(self._retry_after_seconds))
        row = await connection.fetchrow(
            self._query("retry_entry"),
            entry.id,
            entry.attempts,
            self._retry_after_seconds[attempt - 1],
            cause,
            self._give_up_after_seconds,
            refused,
        )
        return self._still_ours(row)

    async def end(self, connection: Connection, entry: E, state: EntryState, *, cause: str | None = None) -> E:
        """Sent, failed, ambiguous or skipped: for good, unless it is resent."""
        row = await connection.fetchrow(self._query("end_entry"), entry.id, entry.attempts, state, cause)
        return self._still_ours(row)

    async def end_lost(self, connection: Connection) -> list[E]:
        """End the entries whose worker was lost, where sending again could be a second time or is too late."""
        return self._entries(await connection.fetch(self._query("end_lost_entries"), self._give_up_after_seconds))

    def _query(self, name: str) -> str:
        return QUERIES[name].format(outbox=self._table, may_go=self._may_go)

    def _still_ours(self, row: asyncpg.Record | None) -> E:
        if row is None:
            raise EntrySupersededError
        return self._read(row)

    def _entries(self, rows: list[asyncpg.Record]) -> list[E]:
        return [self._read(row) for row in rows]

    def _read(self, row: asyncpg.Record) -> E:
        return msgspec.convert(dict(row), self._entry)  # a newer schema may have columns that we don't know


async def deliver(
    entries: Sequence[E], attempt: Callable[[E], Awaitable[None]], *, superseded: str, failed: str
) -> None:
    """Attempt claimed entries concurrently, each in a task of its own, and none of them for longer than its lease.

    An attempt that fails keeps the claim until the lease expires. After a cancellation, attempts may end within
    STOP_SECONDS. `superseded` and `failed` name the log's events.
    """
    tasks = [asyncio.create_task(_attempt(attempt(entry), superseded=superseded, failed=failed)) for entry in entries]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        _, unfinished = await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in unfinished:
            task.cancel()
        raise
    finally:
        await asyncio.gather(*tasks, return_exceptions=True)


async def _attempt(attempt: Awaitable[None], *, superseded: str, failed: str) -> None:
    lease = asyncio.timeout(LEASE_SECONDS)  # afterwards another worker may claim it
    try:
        async with lease:
            await attempt
    except EntrySupersededError:
        await logger.awarning(superseded)
    except Exception as error:  # noqa: BLE001 (one entry's failure must not affect the others)
        if lease.expired() and isinstance(error, TimeoutError):
            await logger.awarning(failed, cause="its lease ran out")
        else:
            await logger.aerror(failed, exc_info=error)

"""The outbox of events, and whether there is a receiver for them."""

import datetime as dt
import hashlib
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from service.backends.database import QUERIES, Connection, iterate
from service.bookkeeping.outbox import Entry, EntryState, Outbox

# By the Standard Webhooks' example, for three days; the last pause repeats.
RETRY_AFTER_SECONDS = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0)
GIVE_UP_AFTER_SECONDS = 259_200.0
IN_ORDER = """NOT EXISTS (
      SELECT FROM carryout.export_events AS earlier
      WHERE earlier.job_id = entry.job_id AND earlier.id < entry.id AND earlier.state IN ('pending', 'sending')
    )"""


class Event(Entry, frozen=True, kw_only=True):
    """One row of `carryout.export_events`. `kind` is the type without `export.`, `data` the JSON of the payload's."""

    job_id: uuid.UUID
    kind: str
    webhook_id: str
    data: str


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Criteria for events. None matches every event."""

    job_id: uuid.UUID | None = None
    state: EntryState | None = None
    since_seconds: float | None = None
    limit: int


class EventSummary(msgspec.Struct, frozen=True, kw_only=True):
    """An event for an operator."""

    webhook_id: str
    job_id: uuid.UUID
    user_id: str
    kind: str
    state: EntryState
    attempts: int
    created_at: dt.datetime
    next_attempt_at: dt.datetime | None
    ended_at: dt.datetime | None
    last_answer: str | None


class EventRepository(Outbox[Event]):
    """The events' outbox, which a trigger of the audit trail fills. An event waits for its export's earlier ones."""

    def __init__(self) -> None:
        super().__init__(
            "carryout.export_events",
            Event,
            may_go=IN_ORDER,
            retry_after_seconds=RETRY_AFTER_SECONDS,
            give_up_after_seconds=GIVE_UP_AFTER_SECONDS,
        )

    async def note_receiver(self, connection: Connection, url: str) -> None:
        """Events are written from now on, or no more if `url` is empty."""
        await connection.execute(QUERIES["note_receiver"], _digest(url) if url else None)

    async def is_receiver_gone(self, connection: Connection) -> bool:
        return bool(await connection.fetchval(QUERIES["is_receiver_gone"]))

    async def note_gone(self, connection: Connection, url: str) -> None:
        """The receiver wants no events any more: they wait until an operator resends, or names another receiver."""
        await connection.execute(QUERIES["note_gone"], _digest(url))

    async def resend(self, connection: Connection, job_id: uuid.UUID) -> list[Event]:
        """Make all events of the export due now, also those that were sent, and try a receiver again that was gone."""
        return await self._resend(connection, job_id, None)

    async def resend_failed(self, connection: Connection, *, since_seconds: float) -> list[Event]:
        """The same for all events that failed in the last `since_seconds`, and for those that wait."""
        return await self._resend(connection, None, since_seconds)

    async def iterate_latest(self, connection: Connection, wanted: EventFilter) -> AsyncGenerator[EventSummary]:
        """Newest first; however many, in little memory."""
        arguments = (wanted.job_id, wanted.state, wanted.since_seconds, wanted.limit)
        async with aclosing(iterate(connection, QUERIES["list_latest_events"], *arguments)) as rows:
            async for row in rows:
                yield msgspec.convert(dict(row), EventSummary)

    async def _resend(
        self, connection: Connection, job_id: uuid.UUID | None, since_seconds: float | None
    ) -> list[Event]:
        await connection.execute(QUERIES["forget_gone"])
        return self._entries(await connection.fetch(QUERIES["resend_events"], job_id, since_seconds))


def _digest(url: str) -> bytes:
    return hashlib.sha256(url.encode()).digest()

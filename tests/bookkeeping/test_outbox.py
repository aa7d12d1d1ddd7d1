"""The outbox, by a table of its own beside the mails'."""

import pytest

from service.bookkeeping.outbox import LEASE_SECONDS, RETRY_AFTER_SECONDS, Entry, EntryState, Outbox
from service.errors import EntrySupersededError
from tests.support.factories import Connection

TABLE = "carryout.events"


class Event(Entry, frozen=True, kw_only=True):
    name: str


@pytest.fixture
async def outbox(database: Connection) -> Outbox[Event]:
    await database.execute(
        f"CREATE TABLE {TABLE} (LIKE carryout.export_notifications INCLUDING ALL);"
        f"ALTER TABLE {TABLE} DROP COLUMN job_id, DROP COLUMN kind, DROP COLUMN message_id, ADD COLUMN name text"
    )
    await database.execute(f"INSERT INTO {TABLE} (name) VALUES ('first'), ('second')")
    return Outbox(TABLE, Event)


async def change(database: Connection, entry: Event, what: str) -> None:
    await database.execute(f"UPDATE {TABLE} SET {what} WHERE id = $1", entry.id)


async def claim(database: Connection, outbox: Outbox[Event]) -> Event:
    [claimed] = await outbox.claim_due(database, limit=1)
    return claimed


async def test_an_entry_is_claimed_once(database: Connection, outbox: Outbox[Event]) -> None:
    first, second = await claim(database, outbox), await claim(database, outbox)
    assert {first.name, second.name} == {"first", "second"}
    assert (first.state, first.attempts) == (EntryState.SENDING, 1)
    assert await outbox.claim_due(database, limit=1) == []


async def test_a_lost_claim_is_taken_over_before_the_data(database: Connection, outbox: Outbox[Event]) -> None:
    lost, begun = await claim(database, outbox), await claim(database, outbox)
    await outbox.begin_data(database, begun)
    for entry in (lost, begun):
        await change(database, entry, "lease_expires_at = now()")
    [ambiguous] = await outbox.end_lost(database)
    assert (ambiguous.id, ambiguous.state) == (begun.id, EntryState.AMBIGUOUS)
    taken = await claim(database, outbox)
    assert (taken.id, taken.attempts) == (lost.id, 2)
    with pytest.raises(EntrySupersededError):
        await outbox.begin_data(database, lost)
    with pytest.raises(EntrySupersededError):
        await outbox.end(database, lost, EntryState.SENT)
    assert (await outbox.end(database, taken, EntryState.FAILED, cause="550")).last_error == "550"


async def test_retries_back_off_for_a_day(database: Connection, outbox: Outbox[Event]) -> None:
    entry = await claim(database, outbox)
    await claim(database, outbox)
    for seconds in (*RETRY_AFTER_SECONDS, RETRY_AFTER_SECONDS[-1]):
        async with database.transaction():
            pending = await outbox.retry(database, entry, cause="451")
            now = await database.fetchval("SELECT now()")
        assert pending.state is EntryState.PENDING
        assert (pending.next_attempt_at - now).total_seconds() == seconds
        assert await outbox.claim_due(database, limit=1) == []
        await change(database, entry, "next_attempt_at = now()")
        entry = await claim(database, outbox)
    await change(database, entry, "created_at = now() - interval '21 hours'")
    assert (await outbox.retry(database, entry, cause="451")).state is EntryState.FAILED


async def test_a_claim_lasts(database: Connection, outbox: Outbox[Event]) -> None:
    async with database.transaction():
        entry = await claim(database, outbox)
        now = await database.fetchval("SELECT now()")
    assert entry.lease_expires_at
    assert (entry.lease_expires_at - now).total_seconds() == LEASE_SECONDS

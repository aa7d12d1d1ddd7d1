"""Deletion of old exports, with their mails, and of old events, in batches that hold locks on their own rows alone."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec

from service.backends.database import QUERIES, Connection
from service.bookkeeping.audit import Actor

BATCH: Final = 1_000
# Between batches, so that a purge takes no more than a part of the server.
PAUSE_SECONDS: Final = 0.05

Transaction = Callable[[], AbstractAsyncContextManager[Connection]]


class Purged(msgspec.Struct, frozen=True):
    exports: int
    events: int


async def count_purgeable(connection: Connection, older_than_seconds: float) -> Purged:
    row = await connection.fetchrow(QUERIES["count_purgeable"], older_than_seconds)
    return msgspec.convert(dict(row or {}), Purged)


async def purge(transaction: Transaction, older_than_seconds: float, actor: Actor) -> Purged:
    """Delete what ended, or happened, before; each batch is a transaction, and leaves an event in the trail.

    An interrupted purge is continued by the next one. Exports whose files aren't deleted yet stay.
    """
    exports = await _purge_all(transaction, "purge_exports", older_than_seconds, actor)
    return Purged(exports, await _purge_all(transaction, "purge_events", older_than_seconds, actor))


async def _purge_all(transaction: Transaction, query: str, older_than_seconds: float, actor: Actor) -> int:
    purged = 0
    while True:
        async with transaction() as connection:
            batch: int = await connection.fetchval(QUERIES[query], older_than_seconds, BATCH, actor.user_agent)
        purged += batch
        if batch < BATCH:
            return purged
        await asyncio.sleep(PAUSE_SECONDS)

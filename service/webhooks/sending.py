"""Sends the events about exports to the application, at least once, and those of one export in their order."""

from functools import partial

import msgspec
import structlog

from service.backends.webhook import Answer, Receiver, Verdict
from service.bookkeeping.events import Event
from service.bookkeeping.outbox import EntryState, deliver
from service.resources import Resources

logger = structlog.get_logger()


async def send_due_events(resources: Resources, receiver: Receiver, *, limit: int) -> int:
    """Attempt at most `limit` events concurrently; returns how many it attempted, none while the receiver is gone."""
    async with resources.transaction() as connection:
        if await resources.events.is_receiver_gone(connection):
            return 0
        for lost in await resources.events.end_lost(connection):
            resources.metrics.events.labels(lost.state).inc()
        claimed = await resources.events.claim_due(connection, limit=limit)
    await deliver(
        claimed,
        partial(_deliver, resources, receiver),
        superseded="event_superseded",
        failed="event_attempt_failed",
    )
    return len(claimed)


def payload(event: Event) -> bytes:
    """The JSON of an event; the same at each attempt."""
    body = {"type": f"export.{event.kind}", "timestamp": event.created_at, "data": msgspec.Raw(event.data.encode())}
    return msgspec.json.encode(body)


async def _deliver(resources: Resources, receiver: Receiver, event: Event) -> None:
    structlog.contextvars.bind_contextvars(  # context variables are local to this task
        job_id=str(event.job_id), webhook_id=event.webhook_id, attempt=event.attempts
    )
    answer = await receiver.post(event.webhook_id, payload(event))
    ended = await _conclude(resources, event, answer)
    resources.metrics.events.labels(ended.state).inc()
    log = logger.ainfo if answer.verdict is Verdict.ACCEPTED else logger.awarning
    await log("event_attempted", kind=event.kind, state=ended.state, cause=answer.cause)


async def _conclude(resources: Resources, event: Event, answer: Answer) -> Event:
    async with resources.transaction() as connection:
        if answer.verdict is Verdict.ACCEPTED:
            return await resources.events.end(connection, event, EntryState.SENT)
        if answer.verdict is Verdict.GONE:
            await resources.events.note_gone(connection, resources.settings.webhook_url)
        return await resources.events.retry(connection, event, cause=f"The receiver {answer.cause}")

"""Commands for operators: list the events that are posted to the application, and post events again."""

import asyncio
import uuid
from operator import attrgetter
from pathlib import Path

import click

from guard.terminal import echo
from service.bookkeeping.events import Event, EventFilter, EventRepository
from service.bookkeeping.outbox import EntryState
from service.cli.options import Age, env_file_option, limit_option, load_settings, open_database, since_option
from service.cli.output import echo_found, json_option

COLUMNS = {
    "webhook_id": "event",
    "job_id": "export",
    "kind": "kind",
    "state": "state",
    "attempts": "attempts",
    "created_at": "happened",
    "next_attempt_at": "next attempt",
    "ended_at": "ended",
    "last_answer": "last answer",
}
STATES = (EntryState.PENDING, EntryState.SENDING, EntryState.SENT, EntryState.FAILED)


@click.group()
def events() -> None:
    """List the events that are posted to CARRYOUT_WEBHOOK_URL, and post them again."""


@events.command("list")
@click.option("--job", "job_id", type=click.UUID, help="Only events of this export.")
@click.option("--state", type=click.Choice([state.value for state in STATES]), help="Only events in this state.")
@since_option
@limit_option("Maximum number of events; the newest are shown.")
@json_option
@env_file_option
def list_events(  # noqa: PLR0913 (a command's options)
    *,
    job_id: uuid.UUID | None,
    state: str | None,
    since: float | None,
    limit: int,
    as_json: bool,
    env_file: Path | None,
) -> None:
    """List events with their states, attempts and the receiver's last answer, newest first."""
    settings = load_settings(env_file)
    wanted = EventFilter(job_id=job_id, state=EntryState(state) if state else None, since_seconds=since, limit=limit)

    async def show() -> None:
        async with open_database(settings) as connection:
            if await EventRepository().is_receiver_gone(connection):
                echo("The receiver answered 410: nothing is posted until `carryout events resend`.", err=True)
            found = EventRepository().iterate_latest(connection, wanted)
            await echo_found(found, COLUMNS.values(), attrgetter(*COLUMNS), as_json=as_json)

    asyncio.run(show())


@events.command("resend")
@click.argument("job_id", type=click.UUID, required=False)
@click.option("--failed-since", type=Age(), help="Post all that failed in this time, for example 3d, or that wait.")
@env_file_option
def resend_events(job_id: uuid.UUID | None, failed_since: float | None, env_file: Path | None) -> None:
    """Post all events of the export JOB_ID again, or all that failed lately, and try a receiver that answered 410.

    An event keeps its id, by which a receiver knows that it has it.
    """
    if (job_id is None) == (failed_since is None):
        raise click.UsageError("Give either JOB_ID or --failed-since.")
    settings = load_settings(env_file)

    async def resend() -> list[Event]:
        async with open_database(settings) as connection, connection.transaction():
            if job_id is not None:
                return await EventRepository().resend(connection, job_id)
            assert failed_since is not None  # checked above
            return await EventRepository().resend_failed(connection, since_seconds=failed_since)

    resent = asyncio.run(resend())
    if resent:
        echo(f"events to post again: {len(resent)} (a worker does it within seconds)")
    else:
        echo("nothing to post again: no such event failed, or waits")

"""An export's progress as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.api.callers import get_owned, require_access, resources_of
from service.api.examples import NOT_FOUND, SERVERS_FAIL, TOKEN_REFUSED, UNKNOWN_PARAMETER
from service.api.exports import FAILED_EXPORT, ExportView, progress_of, view_export
from service.api.http.requests import job_id_of, query_params
from service.api.http.responses import ChunkedStream
from service.api.operations import Answer, Operation
from service.api.routing import ExactRoute
from service.bookkeeping.exports import ExportStatus
from service.errors import ExportNotFoundError, RateLimitedError, UnavailableError
from service.resources import Resources
from service.user_ids import UserId

MEDIA_TYPE = "text/event-stream"
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
# Clients reconnect after this, perhaps to another process.
MAX_SECONDS = 600.0
MAX_WATCHERS = 100
MAX_WATCHERS_PER_USER = 5
RETRY_AFTER_SECONDS = 10

ENDED = {ExportStatus.COMPLETED, ExportStatus.FAILED}
RECONNECT = b"retry: 2000\n\n"
HEARTBEAT = b":\n\n"
# Browsers drop an event without data.
END = b"event: end\ndata: {}\n\n"


@dataclass(eq=False)
class Place:
    """An open event stream's; it ends when it has lost its place."""

    is_lost: bool = False


class Watchers:
    """The open event streams of this process, capped in total and per user.

    When all places are taken, a user with fewer takes the oldest of the user with the most, whose client reconnects
    when it can. So a few users can't hold all places.
    """

    def __init__(self) -> None:
        self._open: defaultdict[UserId, list[Place]] = defaultdict(list)

    @contextmanager
    def admit(self, user_id: UserId) -> Iterator[Place]:
        """Raises RateLimitedError or UnavailableError."""
        if len(self._open.get(user_id, ())) >= MAX_WATCHERS_PER_USER:
            raise RateLimitedError("You watch too many exports at once", retry_after_seconds=RETRY_AFTER_SECONDS)
        if sum(map(len, self._open.values())) >= MAX_WATCHERS:
            self._make_room(user_id)
        place = Place()
        self._open[user_id].append(place)
        try:
            yield place
        finally:
            self._remove(user_id, place)

    def _make_room(self, user_id: UserId) -> None:
        most = max(self._open, key=lambda user: len(self._open[user]))
        if len(self._open[most]) <= len(self._open.get(user_id, ())) + 1:
            raise UnavailableError("Too many exports are being watched", retry_after_seconds=RETRY_AFTER_SECONDS)
        oldest = self._open[most][0]
        oldest.is_lost = True
        self._remove(most, oldest)

    def _remove(self, user_id: UserId, place: Place) -> None:
        with suppress(KeyError, ValueError):  # it had lost its place
            self._open[user_id].remove(place)
        if not self._open[user_id]:
            del self._open[user_id]


async def watch_export(request: Request) -> Response:
    """Ignores `Last-Event-ID`: each event holds the whole state. The stream ends with the token."""
    access = await require_access(request)
    user_id = access.user_id
    ends_at = time.monotonic() + min(MAX_SECONDS, access.seconds_left)
    query_params(request, set())
    export = await get_owned(request, user_id, job_id_of(request))
    return ChunkedStream(
        _events(request, export.id, user_id, ends_at),
        media_type=MEDIA_TYPE,
        headers={"X-Accel-Buffering": "no"},  # nginx would buffer the events
    )


async def _events(request: Request, job_id: uuid.UUID, user_id: UserId, ends_at: float) -> AsyncGenerator[bytes, None]:
    resources, state = resources_of(request), request.app.state
    shown: ExportView | None = None
    # Operators may delete rows; a client that reconnects gets an event about it.
    with state.watchers.admit(user_id) as place, suppress(ExportNotFoundError):
        yield RECONNECT
        sent_at = time.monotonic()
        while not state.draining and not place.is_lost and time.monotonic() < ends_at:
            view = await _find_change(resources, job_id, user_id, shown)
            if time.monotonic() >= ends_at:  # reading may take seconds
                return
            if view:
                shown, sent_at = view, time.monotonic()
                yield _progress(view)
                if view.status in ENDED:
                    yield END
                    return
            elif time.monotonic() - sent_at >= HEARTBEAT_SECONDS:
                sent_at = time.monotonic()
                yield HEARTBEAT
            await asyncio.sleep(POLL_SECONDS)


async def _find_change(
    resources: Resources, job_id: uuid.UUID, user_id: UserId, shown: ExportView | None
) -> ExportView | None:
    """The export if it differs from `shown`, else None. During an outage of PostgreSQL, None.

    Raises ExportNotFoundError if the export doesn't exist any more.
    """
    with suppress(UnavailableError):
        export = await resources.exports.get_owned(resources.autocommit, job_id, user_id)
        if shown is None or (export.status, progress_of(export)) != (shown.status, shown.progress):
            return await view_export(resources, export)
    return None


def _progress(view: ExportView) -> bytes:
    done = view.progress.bytes_done or ""
    id_ = f"{view.status}-{view.progress.records_done}" + (f"-{done}" if done else "")
    return b"id: %b\nevent: progress\ndata: %b\n\n" % (id_.encode(), msgspec.json.encode(view))


EVENTS = f"event: progress\ndata: {msgspec.json.encode(FAILED_EXPORT).decode()}\n\nevent: end\ndata: {{}}\n\n"
WATCH_EXPORT = Operation(
    tag="Exports",
    summary="Watch an export",
    description="Server-sent events: `progress`, at every change, with the export as `GET /api/export/{job_id}` "
    "shows it; and "
    "`end` when the export has ended. The stream ends with the token. After a disconnect, a client reconnects: each "
    "event holds the whole state.",
    security=["userToken"],
    answers={200: Answer(description="The events.", content={"text/event-stream": {"example": EVENTS}})},
    refusals=(
        UNKNOWN_PARAMETER,
        *TOKEN_REFUSED,
        NOT_FOUND,
        errors.RateLimitedError("You watch too many exports at once", retry_after_seconds=10),
        errors.UnavailableError("Too many exports are being watched", retry_after_seconds=10),
        *SERVERS_FAIL,
    ),
)

ROUTES = (ExactRoute("/api/export/{job_id}/events", watch_export, WATCH_EXPORT),)

"""An export's progress as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service import exporting
from service.api.auth import require_user, resources_of, user_actor
from service.api.exports import ExportView, view_export
from service.api.requests import job_id_of, query_params
from service.api.responses import ChunkedStream
from service.bootstrap import Resources
from service.database import UserId
from service.errors import ExportNotFoundError, RateLimitedError, UnavailableError
from service.exports import ExportStatus

MEDIA_TYPE = "text/event-stream"
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
# Clients come back, then perhaps to another process, and show a token that is still valid.
MAX_SECONDS = 600.0
MAX_WATCHERS = 100
MAX_WATCHERS_PER_USER = 5
RETRY_AFTER_SECONDS = 10

ENDED = {ExportStatus.COMPLETED, ExportStatus.FAILED}
RECONNECT = b"retry: 2000\n\n"
HEARTBEAT = b":\n\n"
# Without data a browser would drop it.
END = b"event: end\ndata: {}\n\n"


class Watchers:
    """The open event streams of this process: so many in all, and so many of one user."""

    def __init__(self) -> None:
        self._open: Counter[UserId] = Counter()

    @contextmanager
    def admit(self, user_id: UserId) -> Iterator[None]:
        """Raises RateLimitedError or UnavailableError."""
        if self._open[user_id] >= MAX_WATCHERS_PER_USER:
            raise RateLimitedError("You watch too many exports at once", retry_after_seconds=RETRY_AFTER_SECONDS)
        if self._open.total() >= MAX_WATCHERS:
            raise UnavailableError("Too many exports are being watched", retry_after_seconds=RETRY_AFTER_SECONDS)
        self._open[user_id] += 1
        try:
            yield
        finally:
            self._open -= Counter([user_id])


async def watch_export(request: Request) -> Response:
    """Needs no `Last-Event-ID`: each event holds all there is to know."""
    user_id = await require_user(request)
    query_params(request, set())
    export = await exporting.get_owned(resources_of(request), job_id_of(request), user_id, user_actor(request, user_id))
    return ChunkedStream(
        _events(request, export.id, user_id),
        media_type=MEDIA_TYPE,
        headers={"X-Accel-Buffering": "no"},  # nginx would collect them
    )


async def _events(request: Request, job_id: uuid.UUID, user_id: UserId) -> AsyncGenerator[bytes, None]:
    resources, state = resources_of(request), request.app.state
    ends_at = time.monotonic() + MAX_SECONDS
    shown: ExportView | None = None
    # Operators may delete rows; whoever comes back is told so.
    with state.watchers.admit(user_id), suppress(ExportNotFoundError):
        yield RECONNECT
        sent_at = time.monotonic()
        while not state.draining and time.monotonic() < ends_at:
            if view := await _find_change(resources, job_id, user_id, shown):
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
    """The export if it isn't as it was `shown`. While PostgreSQL can't be asked nothing changes.

    Raises ExportNotFoundError once there is no such export.
    """
    with suppress(UnavailableError):
        async with exporting.open_connection(resources) as connection:
            export = await resources.exports.get_owned(connection, job_id, user_id)
            if shown is None or (export.status, export.records_done) != (shown.status, shown.progress.records_done):
                return await view_export(resources, connection, export)
    return None


def _progress(view: ExportView) -> bytes:
    id_ = f"{view.status}-{view.progress.records_done}"
    return b"id: %b\nevent: progress\ndata: %b\n\n" % (id_.encode(), msgspec.json.encode(view))

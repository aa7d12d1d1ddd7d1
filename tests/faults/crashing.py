"""`python -m tests.faults.crashing POINT COMMAND…`: the carryout command that kills itself with SIGKILL at POINT.

The points lie where the production code awaits one step and begins the next; nothing in it knows of them.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import service.backends.queue
import service.backends.smtp
import service.backends.storage
import service.bookkeeping.exports
import service.bookkeeping.outbox
import service.documents.streaming
from service.cli.main import main


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def before(owner: Any, name: str) -> None:
    assert callable(getattr(owner, name))

    async def dying(*_args: Any, **_kwargs: Any) -> Any:
        die()

    setattr(owner, name, dying)


def after(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    async def dying(*args: Any, **kwargs: Any) -> Any:
        if await original(*args, **kwargs) is not None:
            die()

    setattr(owner, name, dying)


def _mid_cursor() -> None:
    original = service.documents.streaming.Document.chunks

    async def dying(self: Any, encoder: Any) -> Any:
        count = 0
        async for chunk in original(self, encoder):
            yield chunk
            count += 1
            if count == 3:
                die()

    service.documents.streaming.Document.chunks = dying  # type: ignore[method-assign]


STORAGE = service.backends.storage.ObjectStorage
EXPORTS = service.bookkeeping.exports.ExportRepository
POINTS: dict[str, Callable[[], None]] = {
    "before the row's commit": lambda: before(EXPORTS, "admit"),
    "after the row's commit": lambda: before(service.backends.queue.JobQueue, "enqueue_export"),
    "enqueued": lambda: after(service.backends.queue.JobQueue, "enqueue_export"),
    "picked, not claimed": lambda: before(EXPORTS, "claim"),
    "claimed": lambda: after(EXPORTS, "claim"),
    "mid-cursor": _mid_cursor,
    "multipart created": lambda: after(STORAGE, "_begin"),
    "a part sent": lambda: after(STORAGE, "_send_part"),
    "before Complete": lambda: before(STORAGE, "_complete"),
    "after Complete": lambda: after(STORAGE, "upload"),
    "before the mail": lambda: before(service.backends.smtp.Mailer, "send"),
    "after the mail's 250": lambda: before(service.bookkeeping.outbox.Outbox, "end"),
    "mid-expiry": lambda: before(EXPORTS, "mark_file_deleted"),
}

if __name__ == "__main__":
    point = sys.argv.pop(1)
    POINTS[point]()
    main()

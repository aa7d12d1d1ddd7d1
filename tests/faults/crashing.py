"""`python -m tests.faults.crashing POINT COMMAND…`: the carryout command that kills itself with SIGKILL at POINT.

The points lie where the production code awaits one step and begins the next; nothing in it knows of them.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import service.jobs
import service.mailer
import service.notifications
import service.requesting
import service.storage
import service.streaming
import worker.running
from service.audit import AuditAction
from service.cli import main


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def before(owner: Any, name: str, *, when: Callable[..., bool] = lambda *_args, **_kwargs: True) -> None:
    original = getattr(owner, name)

    async def dying(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            die()
        return await original(*args, **kwargs)

    setattr(owner, name, dying)


def after(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    async def dying(*args: Any, **kwargs: Any) -> Any:
        if await original(*args, **kwargs) is not None:
            die()

    setattr(owner, name, dying)


def _requested(*args: Any, **_kwargs: Any) -> bool:
    return AuditAction.REQUESTED in args


def _mid_cursor() -> None:
    original = service.streaming.Document.chunks

    async def dying(self: Any, encoder: Any) -> Any:
        count = 0
        async for chunk in original(self, encoder):
            yield chunk
            count += 1
            if count == 3:
                die()

    service.streaming.Document.chunks = dying  # type: ignore[method-assign]


STORAGE = service.storage.ObjectStorage
POINTS: dict[str, Callable[[], None]] = {
    "before the row's commit": lambda: before(service.requesting, "record", when=_requested),
    "after the row's commit": lambda: before(service.jobs.JobQueue, "enqueue_export"),
    "enqueued": lambda: after(service.jobs.JobQueue, "enqueue_export"),
    "picked, not claimed": lambda: before(worker.running, "_claim"),
    "claimed": lambda: after(worker.running, "_claim"),
    "mid-cursor": _mid_cursor,
    "multipart created": lambda: after(STORAGE, "_begin"),
    "a part sent": lambda: after(STORAGE, "_send_part"),
    "before Complete": lambda: before(STORAGE, "_complete"),
    "after Complete": lambda: after(STORAGE, "upload"),
    "before the mail": lambda: before(service.mailer.Mailer, "send"),
    "after the mail's 250": lambda: before(service.notifications.NotificationRepository, "end"),
    "mid-expiry": lambda: before(service.exports.ExportRepository, "mark_file_deleted"),
}

if __name__ == "__main__":
    point = sys.argv.pop(1)
    POINTS[point]()
    main()

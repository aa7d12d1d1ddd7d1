"""Entries that a client with write access to Redis can put into the queue."""

import os
import pickle
import uuid
from pathlib import Path

import redis.asyncio

from service.backends.queue import QUEUE_NAME, serialize

HUGE_BYTES = 120 * 2**20


def job(job_id: str) -> dict[str, object]:
    return {"t": None, "f": "run_export", "a": (job_id,), "k": {}, "et": 0}


async def enqueue(queue: "redis.asyncio.Redis", name: str, content: bytes) -> None:
    await queue.set(f"arq:job:{name}", content)
    await queue.zadd(QUEUE_NAME, {name: 1})


def entry(job_id: uuid.UUID, attempt: int) -> str:
    """The entry that Carryout itself would put into the queue."""
    return f"export:{job_id}:{attempt}"


async def enqueue_huge(queue: "redis.asyncio.Redis", kind: str, job_id: uuid.UUID) -> None:
    """More than a worker may have: as a value, under a name of its own or of an entry of ours, or as an entry."""
    huge = b"x" * HUGE_BYTES
    match kind:
        case "foreign value":
            await enqueue(queue, "foreign", huge)
        case "our value":
            await enqueue(queue, entry(job_id, 0), huge)
        case "result":
            await queue.set(f"arq:result:{entry(job_id, 0)}", huge)
        case "entry":
            await queue.zadd(QUEUE_NAME, {huge: 1})
        case "entries":
            for number in range(100):
                await queue.zadd(QUEUE_NAME, {b"%d" % number + b"x" * 2**20: 1})
        case "health":
            await queue.set(f"{QUEUE_NAME}:health-check", huge)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def rubbish(exploded: Path) -> dict[str, bytes]:
    """Jobs that are none, by name; the file `exploded` appears if a process unpickles one."""
    return {
        "garbage": os.urandom(100),
        "bomb": pickle.dumps({"t": None, "f": "run_export", "a": (Bomb(exploded),), "k": {}, "et": 0}),
        "unknown-function": serialize(job("x") | {"f": "os.system"}),
        "no-uuid": serialize(job("../../etc/passwd")),
        "unknown-export": serialize(job(str(uuid.uuid4()))),
        "too-many-arguments": serialize(job("x") | {"a": ("x", "y", "z")}),
        "no-dictionary": serialize([1, 2]),  # type: ignore[arg-type]
    }

"""What somebody who may write to Redis can put into the queue."""

import os
import pickle
import uuid
from pathlib import Path

import redis.asyncio

from service.jobs import QUEUE_NAME, serialize


def job(job_id: str) -> dict[str, object]:
    return {"t": None, "f": "run_export", "a": (job_id,), "k": {}, "et": 0}


async def enqueue(queue: "redis.asyncio.Redis", name: str, content: bytes) -> None:
    await queue.set(f"arq:job:{name}", content)
    await queue.zadd(QUEUE_NAME, {name: 1})


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def rubbish(exploded: Path) -> dict[str, bytes]:
    """Jobs that are none, by name; the file `exploded` appears if somebody unpickles one."""
    return {
        "garbage": os.urandom(100),
        "bomb": pickle.dumps({"t": None, "f": "run_export", "a": (Bomb(exploded),), "k": {}, "et": 0}),
        "unknown-function": serialize(job("x") | {"f": "os.system"}),
        "no-uuid": serialize(job("../../etc/passwd")),
        "unknown-export": serialize(job(str(uuid.uuid4()))),
        "too-many-arguments": serialize(job("x") | {"a": ("x", "y", "z")}),
        "no-dictionary": serialize([1, 2]),  # type: ignore[arg-type]
    }

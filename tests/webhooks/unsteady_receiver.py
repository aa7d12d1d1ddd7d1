"""`python -m tests.webhooks.unsteady_receiver PORT FILE SEED`: a receiver of events that often fails.

It may be killed at any time: an event that it accepts is in FILE before the answer, one line each. `verified` is what
the library of Standard Webhooks says at the time of the request.
"""

import asyncio
import os
import random
import sys

import msgspec
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from tests.support.receiver import SECRET

ACCEPTED = 204
DROPPED = 0  # the connection ends without an answer
# One in a thousand isn't answered while the worker waits, a few take up to a second.
ANSWERS = {ACCEPTED: 750, 500: 80, 429: 30, 302: 30, DROPPED: 109}
SLOW_SHARE = 0.02
SLOW_SECONDS = (0.1, 1.0)
SILENT_SHARE = 0.001
SILENT_SECONDS = 60.0


class Accepted(msgspec.Struct, frozen=True):
    webhook_id: str
    verified: bool
    body: str


class UnsteadyReceiver:
    def __init__(self, file: int, chance: random.Random) -> None:
        self._file = file
        self._chance = chance

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        (status,) = self._chance.choices(list(ANSWERS), list(ANSWERS.values()))
        if status == ACCEPTED:
            accepted = Accepted(request.headers["webhook-id"], _is_verified(request, body), body.decode())
            os.write(self._file, msgspec.json.encode(accepted) + b"\n")
        await asyncio.sleep(self._delay_seconds())
        if status == DROPPED:
            assert request.transport
            request.transport.abort()
        return web.Response(status=status or 503)

    def _delay_seconds(self) -> float:
        drawn = self._chance.random()
        if drawn < SILENT_SHARE:
            return SILENT_SECONDS
        return self._chance.uniform(*SLOW_SECONDS) if drawn < SLOW_SHARE else 0.0


def _is_verified(request: web.Request, body: bytes) -> bool:
    try:
        Webhook(SECRET).verify(body, dict(request.headers))
    except WebhookVerificationError:
        return False
    return True


def main() -> None:
    port, path, seed = sys.argv[1:]
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    receiver = UnsteadyReceiver(file, random.Random(int(seed)))  # noqa: S311 (reproducible on purpose)
    application = web.Application()
    application.router.add_post("/hook", receiver.handle)
    web.run_app(application, host="127.0.0.1", port=int(port), print=None, access_log=None)


if __name__ == "__main__":
    main()

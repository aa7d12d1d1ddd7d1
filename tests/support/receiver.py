"""A receiver of webhooks on a socket of its own, whose answers a test chooses."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwQ2FubmFyeSE="
Answer = Callable[[web.Request], int | None]
"""The status for a request; None drops its connection, and 0 never answers."""


class Received:
    """A request that was answered with `status`."""

    def __init__(self, headers: dict[str, str], body: bytes, status: int | None) -> None:
        self.headers = headers
        self.body = body
        self.status = status


class Receiver:
    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Received] = []
        self.answer: Answer = lambda _: 204
        self.hanging = asyncio.Event()
        self.closing = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        status = self.answer(request)
        self.requests.append(Received(dict(request.headers), body, status))
        if status is None:
            assert request.transport
            request.transport.abort()
            return web.Response()
        if status == 0:
            self.hanging.set()
            await self.closing.wait()
        return web.Response(status=status or 503, headers={"Location": self.url + "elsewhere"})


@asynccontextmanager
async def open_receiver(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/{path:.*}", receiver.handle)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    (host, port), *_ = runner.addresses
    receiver.url = f"https://localhost:{port}/hook" if tls else f"http://{host}:{port}/hook"
    try:
        yield receiver
    finally:
        receiver.closing.set()
        await runner.cleanup()

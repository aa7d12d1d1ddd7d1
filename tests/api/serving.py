"""A real uvicorn on a real socket: in-process test clients show a broken stream as a complete one."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from service.api.http.body_limit import MAX_BODY_BYTES, BodyLimitMiddleware
from service.api.http.middleware import RequestMiddleware
from service.api.http.problems import exception_handlers
from service.api.http.protocol import StreamingProtocol
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracer


def create_edge(routes: Sequence[BaseRoute]) -> Starlette:
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(RequestMiddleware, metrics=Metrics(), tracer=Tracer()),
            Middleware(BodyLimitMiddleware, max_bytes=MAX_BODY_BYTES),
        ],
        exception_handlers=exception_handlers,
    )


class PromptServer(uvicorn.Server):
    """uvicorn looks ten times a second whether it should stop; this one is told."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def main_loop(self) -> None:
        ticking = asyncio.create_task(super().main_loop())
        try:
            await self._stopping.wait()
        finally:
            ticking.cancel()


class Served:
    def __init__(self, server: PromptServer, listener: socket.socket) -> None:
        self.server = server
        self.host, self.port = listener.getsockname()
        self.url = f"http://{self.host}:{self.port}"

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, trust_env=False)

    async def exchange(self, *lines: str | bytes, body: bytes = b"") -> bytes:
        """The raw answer to a request written byte by byte, until the server closes. A missing Host is added."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        raw = [line.encode() if isinstance(line, str) else line for line in (*lines, "Connection: close")]
        if not any(line.lower().startswith(b"host:") for line in raw):
            raw.append(b"Host: x")
        writer.write(b"\r\n".join(raw) + b"\r\n\r\n" + body)
        try:
            return await reader.read()
        finally:
            writer.close()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[Served]:
    """On leaving, waits a second for running requests and then cancels them, as a stopping server does."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=StreamingProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = PromptServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield Served(server, listener)
    finally:
        server.stop()
        await serving
        await until(lambda: not server.server_state.tasks)

"""The API's server process and its graceful shutdown."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import structlog
import uvicorn
from starlette.applications import Starlette

from service.api.app import create_app
from service.api.http.protocol import StreamingProtocol
from service.errors import ConfigurationError
from service.mails.own_templates import find_own_templates
from service.readiness import watch_servers
from service.resources import open_resources
from service.settings import Settings
from service.telemetry.metrics import VERSION

BACKLOG = 2_048
# Longer than the 60 s for which nginx and cloud load balancers keep an idle connection. If it were shorter, they would
# sometimes send a request on a connection that the server is closing.
KEEP_ALIVE_SECONDS = 75

logger = structlog.get_logger()


async def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigurationError if the start fails."""
    async with open_resources(settings) as resources:
        find_own_templates(settings.templates_dir, resources.brand)  # a worker would refuse broken ones, too
        app = create_app(resources)
        with listen(host, port) as listener:
            await logger.ainfo(
                "api_started",
                version=VERSION,
                port=port,
                datasets=[dataset.name for dataset in resources.datasets],
                user_lists=sorted(resources.user_lists),
                lists=sorted(resources.operator_lists),
            )
            async with watch_servers(app.state.servers):
                await _Server(app, settings).serve([listener])


def listen(host: str, port: int) -> socket.socket:
    """`::` stands for all addresses of both families. Raises ConfigurationError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"Can't listen on {host} port {port}: {error}") from None


class _Server(uvicorn.Server):
    """Fails readiness first, so that load balancers send no new requests, then stops listening and drains responses.

    uvicorn would close the listener at once, and the signal would end the process before resources are closed.
    """

    def __init__(self, app: Starlette, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=StreamingProtocol,  # not h11: behind HTTP/1.0 proxies its broken streams look whole
                ws="none",  # WebSocket implementations log query strings
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=settings.shutdown_grace_seconds,
            )
        )
        self._app = app
        self._drain_seconds = settings.drain_seconds
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self._draining:
            self.should_exit = self.force_exit = True
        else:
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await logger.ainfo("draining", drain_seconds=self._drain_seconds)
        self._app.state.draining = True
        await asyncio.sleep(self._drain_seconds)
        self.should_exit = True

"""The worker's HTTP endpoints for Kubernetes and Prometheus."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from service.errors import ConfigurationError
from service.resources import Resources


@asynccontextmanager
async def serve_probes(resources: Resources, is_alive: Callable[[], bool]) -> AsyncIterator[None]:
    """Listen on all addresses at the configured port; 0 disables it. Raises ConfigurationError if it is in use."""
    port = resources.settings.worker_metrics_port
    if not port:
        yield
        return

    async def livez(_request: web.Request) -> web.Response:
        alive = is_alive()
        return web.json_response({"status": "alive" if alive else "stuck"}, status=200 if alive else 503)

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = await resources.metrics.render(resources.database, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await _listen(runner, port)
        yield
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, port: int) -> None:
    try:
        await web.TCPSite(runner, port=port).start()
    except OSError as error:
        raise ConfigurationError(f"Can't listen on port {port} (CARRYOUT_WORKER_METRICS_PORT): {error}") from None

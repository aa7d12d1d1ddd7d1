"""The API as one value: routes, middleware and error handlers."""

import asyncio

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from service.api import downloads, exports, health, metrics, streams, users
from service.api.errors import exception_handlers
from service.api.middleware import BodyLimitMiddleware, RequestMiddleware
from service.bootstrap import Resources

MAX_BODY_BYTES = 16 * 1024

ROUTES = (
    Route("/livez", health.livez),
    Route("/readyz", health.readyz),
    Route("/metrics", metrics.show_metrics),
    Route("/api/export", exports.create_export, methods=["POST"]),
    Route("/api/export", exports.list_exports),
    Route("/api/v1/users/export", users.export_users),
    Route("/api/v1/users/export-full", users.export_users_full),
    Route("/api/v1/users/export-alive", users.show_alive),
    Route("/api/v1/users/export-simple", users.show_simple),
    Route("/api/export/stream", streams.stream_export),
    Route("/api/export/{job_id}", exports.show_export),
    Route("/api/export/{job_id}", exports.delete_export, methods=["DELETE"]),
    Route("/api/export/{job_id}/download", downloads.download_export),
)


def create_app(resources: Resources) -> Starlette:
    """`resources` stay the caller's, who opens them before and closes them after the server."""
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(RequestMiddleware, metrics=resources.metrics),
            Middleware(BodyLimitMiddleware, max_bytes=MAX_BODY_BYTES),
        ],
        exception_handlers=exception_handlers,
    )
    app.router.redirect_slashes = False  # its redirects would follow the request's Host
    app.state.resources = resources
    app.state.draining = False
    app.state.wrong_keys = asyncio.Semaphore(users.MAX_DELAYED_KEYS)
    return app

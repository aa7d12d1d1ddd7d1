"""The API as one value: routes, middleware and error handlers."""

import asyncio

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from service.api import docs, downloads, events, exports, health, metrics, page, streams, users
from service.api.errors import exception_handlers
from service.api.middleware import BodyLimitMiddleware, RequestMiddleware
from service.api.openapi import create_document
from service.api.proxies import ProxyMiddleware
from service.api.reference import REFERENCE
from service.api.requests import MAX_BODY_BYTES
from service.bootstrap import Resources
from service.servers import Servers

ROUTES = (
    Route("/", page.show_page, include_in_schema=False),
    Route("/assets/{name}", page.show_asset, include_in_schema=False),
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
    Route("/api/export/{job_id}/events", events.watch_export),
    Route("/api/export/{job_id}/download", downloads.download_export),
    Route("/api/export/{job_id}/downloads", downloads.list_downloads),
    Route("/openapi.json", docs.show_document),
    Route("/docs", docs.show_page),
    Route("/docs/{name}", docs.show_asset, include_in_schema=False),
)


def create_app(resources: Resources) -> Starlette:
    """`resources` stay the caller's, who opens them before and closes them after the server."""
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(ProxyMiddleware, trusted=resources.settings.trusted_proxies),
            Middleware(RequestMiddleware, metrics=resources.metrics, tracer=resources.tracer),
            Middleware(BodyLimitMiddleware, max_bytes=MAX_BODY_BYTES),
        ],
        exception_handlers=exception_handlers,
    )
    app.router.redirect_slashes = False  # its redirects would follow the request's Host
    app.state.resources = resources
    app.state.servers = Servers(resources)
    app.state.docs = docs.load_docs()
    app.state.page = page.load_page(resources.settings.public_url)
    app.state.page_assets = page.load_page_assets()
    app.state.watchers = events.Watchers()
    app.state.document = docs.fix_document(create_document(ROUTES, REFERENCE, public_url=resources.settings.public_url))
    app.state.draining = False
    app.state.wrong_keys = asyncio.Semaphore(users.MAX_DELAYED_KEYS)
    return app

"""The API as one value: routes, middleware and error handlers."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

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


class ExactRoute(Route):
    """Matches whole paths. Starlette's patterns end with `$`, which matches before a last newline, too: `/metrics%0a`
    would pass a proxy that keeps `/metrics` off.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")


ROUTES = (
    ExactRoute("/", page.show_page, include_in_schema=False),
    ExactRoute("/assets/{name}", page.show_asset, include_in_schema=False),
    ExactRoute("/livez", health.livez),
    ExactRoute("/readyz", health.readyz),
    ExactRoute("/metrics", metrics.show_metrics),
    ExactRoute("/api/export", exports.create_export, methods=["POST"]),
    ExactRoute("/api/export", exports.list_exports),
    ExactRoute("/api/v1/users/export", users.export_users),
    ExactRoute("/api/v1/users/export-full", users.export_users_full),
    ExactRoute("/api/v1/users/export-alive", users.show_alive),
    ExactRoute("/api/v1/users/export-simple", users.show_simple),
    ExactRoute("/api/export/stream", streams.stream_export),
    ExactRoute("/api/export/{job_id}", exports.show_export),
    ExactRoute("/api/export/{job_id}", exports.delete_export, methods=["DELETE"]),
    ExactRoute("/api/export/{job_id}/events", events.watch_export),
    ExactRoute("/api/export/{job_id}/download", downloads.download_export),
    ExactRoute("/api/export/{job_id}/downloads", downloads.list_downloads),
    ExactRoute("/openapi.json", docs.show_document),
    ExactRoute("/docs", docs.show_page),
    ExactRoute("/docs/{name}", docs.show_asset, include_in_schema=False),
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

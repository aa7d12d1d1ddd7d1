"""The API as one value: routes, middleware and error handlers."""

import asyncio

from starlette.applications import Starlette
from starlette.middleware import Middleware

from service.api import (
    desk,
    docs,
    downloads,
    events,
    exports,
    health,
    listings,
    lists,
    metrics,
    operators,
    page,
    sections,
    streams,
    user_lists,
)
from service.api.http.body_limit import MAX_BODY_BYTES, BodyLimitMiddleware
from service.api.http.cors import share_with
from service.api.http.middleware import RequestMiddleware
from service.api.http.problems import exception_handlers
from service.api.http.proxies import ProxyMiddleware
from service.api.openapi import create_document
from service.api.reference import REFERENCE
from service.readiness import Servers
from service.resources import Resources

# The first matching route wins, so `/api/export/stream` and its like must precede `/api/export/{job_id}`.
ROUTES = (
    *page.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    *streams.ROUTES,
    *sections.ROUTES,
    *exports.ROUTES,
    *events.ROUTES,
    *downloads.ROUTES,
    *user_lists.ROUTES,
    *desk.ROUTES,
    *docs.ROUTES,
)


def create_app(resources: Resources) -> Starlette:
    """The caller owns `resources`: it opens them before the server starts and closes them after it has stopped."""
    settings = resources.settings
    routes = (*ROUTES, *lists.list_routes(resources.operator_lists, public_url=settings.public_url))
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(ProxyMiddleware, trusted=settings.trusted_proxies),
            *share_with(settings.cors_origins),
            Middleware(
                RequestMiddleware,
                metrics=resources.metrics,
                tracer=resources.tracer,
                log_probes=settings.log_probes,
            ),
            Middleware(BodyLimitMiddleware, max_bytes=MAX_BODY_BYTES),
        ],
        exception_handlers=exception_handlers,
    )
    app.router.redirect_slashes = False  # its redirects would follow the request's Host
    app.state.resources = resources
    app.state.servers = Servers(resources)
    app.state.language = settings.language
    app.state.pages = page.Pages(settings, resources.brand)
    app.state.brand = resources.brand
    app.state.page_assets = page.load_page_assets(resources.brand)
    app.state.watchers = events.Watchers()
    app.state.list_shares = listings.create_shares(settings)
    app.state.document = docs.defer_document(lambda: create_document(routes, REFERENCE, public_url=settings.public_url))
    app.state.draining = False
    app.state.wrong_keys = asyncio.Semaphore(operators.MAX_DELAYED_KEYS)
    return app

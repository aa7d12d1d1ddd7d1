"""Operators' lists on their way to the client: limited in number, audited, and cut when their permission ends."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from service.access.api_keys import ApiKey, Scope
from service.api.audited_streams import AuditedStream, Opened
from service.api.callers import resources_of
from service.api.examples import SERVERS_FAIL
from service.api.http.permitted import while_permitted
from service.api.operators import (
    DISABLED,
    NO_KEY,
    TOO_MANY_WRONG_KEYS,
    require_permission,
    require_scope,
)
from service.bookkeeping.audit import Actor, AuditAction
from service.documents.encoders import create_encoder
from service.documents.encoding import EncoderOptions
from service.documents.lists import open_list
from service.documents.selection import Query
from service.errors import PermissionDeniedError, RateLimitedError, ServiceError
from service.formats import Format
from service.mutex import Shares
from service.settings import Settings

TOO_MANY_LISTS = "This API key downloads too many lists at once"
BUSY_SECONDS = 10


def list_refusals(permission: str) -> tuple[ServiceError, ...]:
    """Those of all lists; `permission` is the list's scope."""
    return (
        NO_KEY,
        DISABLED,
        PermissionDeniedError(f"This API key lacks the scope {permission}"),
        PermissionDeniedError(f"This API key lacks the scope {Scope.USERS_UNGUARDED}"),
        TOO_MANY_WRONG_KEYS,
        RateLimitedError(TOO_MANY_LISTS, retry_after_seconds=BUSY_SECONDS),
        *SERVERS_FAIL,
    )


async def require_unguarded(request: Request, key: ApiKey, actor: Actor) -> None:
    """The key may have cells that a spreadsheet would run."""
    await require_scope(request, key, actor, Scope.USERS_UNGUARDED)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A request for a list. `subject` and `extent`, the part of the rows that was asked for, are for the trail."""

    key: ApiKey
    actor: Actor
    flag: str
    query: Query
    after: tuple[str, ...] = ()
    format: Format
    options: EncoderOptions
    filename: str
    headers: Mapping[str, str] = field(default_factory=dict)
    started: AuditAction
    ended: AuditAction
    subject: str
    extent: str

    def response(self, request: Request) -> Response:
        stream = AuditedStream(
            resources=resources_of(request),
            actor=self.actor,
            kind="list",
            format=self.format,
            started=self.started,
            ended=self.ended,
            subject=self.subject,
        )
        return stream.response(
            request,
            self._open(request),
            filename=self.filename,
            media_type=self.format.media_type,
            headers=self.headers,
        )

    @asynccontextmanager
    async def _open(self, request: Request) -> AsyncIterator[Opened]:
        resources, shares = resources_of(request), request.app.state.list_shares
        require = partial(require_permission, request, self.key, self.flag)
        timeout_seconds = resources.settings.acquire_timeout_seconds
        with shares.take(self.key.id):
            async with open_list(
                resources.lists, self.query, after=self.after, acquire_timeout_seconds=timeout_seconds
            ) as document:
                encoder = create_encoder(self.format, self.options)
                yield Opened(document, while_permitted(document.chunks(encoder), require), outcome=self.extent)


def create_shares(settings: Settings) -> Shares:
    """One key may use at most half of the places for lists."""
    return Shares(max(1, settings.list_pool_size // 2), refusal=TOO_MANY_LISTS, retry_after_seconds=BUSY_SECONDS)

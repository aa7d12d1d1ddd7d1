"""Lists of users for operators, with an API key, behind feature flags."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service import exporting, operating
from service.api.audited import AuditedStream, Opened
from service.api.auth import key_actor, resources_of
from service.api.requests import bearer_token, query_params
from service.api.responses import json_response
from service.audit import Actor, AuditAction
from service.auth import BIGINT, parse_bigint
from service.bootstrap import Resources
from service.datasets import Dataset
from service.encoders import CsvEncoder
from service.errors import (
    AuthenticationError,
    InvalidRequestError,
    PermissionDeniedError,
    RateLimitedError,
    UnavailableError,
)
from service.flags import Flag
from service.keys import ApiKey, Scope
from service.streaming import open_user_list

INVALID_KEY = "Invalid or missing API key"
NOT_ENABLED = "Export feature not enabled"
NOT_SET_UP = "This user list is not set up: there is no users/{}.sql"
UNSUPPORTED_FORMAT = "Unsupported format. Only 'csv' is supported."
WRONG_KEY_DELAY_SECONDS = 0.3
MAX_DELAYED_KEYS = 100
KEY_CHECK_SECONDS = 2.0
CSV = re.compile("[Cc][Ss][Vv]")

Chunks: TypeAlias = AsyncGenerator[bytes, None]


class ListQuery(msgspec.Struct, frozen=True):
    format: Annotated[str, Meta(pattern=f"^{CSV.pattern}$", description="Only `csv`, in any case.")] = "csv"
    email: Annotated[str | None, Meta(description="Only users with exactly this e-mail address.")] = None
    after: Annotated[
        Annotated[int, Meta(ge=BIGINT.start, le=BIGINT.stop - 1)] | None,
        Meta(description="Only users after this id: how a broken list is continued."),
    ] = None


class ListsAlive(msgspec.Struct, frozen=True):
    status: Literal["users export alive"]


class ListsSimple(msgspec.Struct, frozen=True):
    users: Literal["export simple status"]


async def export_users(request: Request) -> Response:
    return await _export(
        request, "export", Scope.USERS_EXPORT, Flag.USERS_EXPORT, resources_of(request).settings.users_filename
    )


async def export_users_full(request: Request) -> Response:
    return await _export(
        request,
        "export_full",
        Scope.USERS_EXPORT_FULL,
        Flag.USERS_EXPORT_FULL,
        resources_of(request).settings.users_full_filename,
    )


async def show_alive(request: Request) -> Response:
    """Asks no other server, so that it shows the flag and the process alone."""
    _require_flag(request, Flag.USERS_EXPORT_ALIVE)
    query_params(request, set())
    return json_response(ListsAlive("users export alive"))


async def show_simple(request: Request) -> Response:
    _require_flag(request, Flag.USERS_EXPORT_SIMPLE)
    query_params(request, set())
    return json_response(ListsSimple("export simple status"))


async def _export(request: Request, name: str, scope: Scope, flag: Flag, filename: str) -> Response:
    """Who asks comes first: a stranger learns neither what is switched on nor which parameters there are."""
    key, actor = await _require_key(request)
    _require_flag(request, flag)
    await _require_scope(request, key, actor, scope)
    query = _query(request)
    resources = resources_of(request)
    if name not in resources.user_lists:
        raise PermissionDeniedError(NOT_SET_UP.format(name))
    dataset = resources.user_lists[name]
    encoder = CsvEncoder()
    stream = AuditedStream(
        resources=resources,
        actor=actor,
        kind="list",
        format="csv",
        started=AuditAction.USERS_EXPORT_STARTED,
        ended=AuditAction.USERS_EXPORTED,
        subject=f"users/{dataset.name}",
    )
    opening = _open(resources, dataset, query, encoder, partial(_while_permitted, request, key, flag))
    return stream.response(request, opening, filename=filename, media_type=encoder.media_type)


async def _require_key(request: Request) -> tuple[ApiKey, Actor]:
    text = request.headers.get("X-API-Key") or bearer_token(request)
    if not text:
        raise AuthenticationError(INVALID_KEY)
    async with exporting.open_transaction(resources_of(request)) as connection:
        authenticated = await operating.authenticate_key(connection, text, key_actor(request))
    if authenticated is None:
        await _delay_wrong_key(request)
        raise AuthenticationError(INVALID_KEY)
    return authenticated


async def _delay_wrong_key(request: Request) -> None:
    """Slows whoever tries keys. Raises RateLimitedError where so many are tried that waiting would cost us more."""
    delayed: asyncio.Semaphore = request.app.state.wrong_keys
    if delayed.locked():
        raise RateLimitedError("Too many wrong API keys at once", retry_after_seconds=1)
    async with delayed:
        await asyncio.sleep(WRONG_KEY_DELAY_SECONDS)


def _require_flag(request: Request, flag: Flag) -> None:
    if not resources_of(request).flags.is_enabled(flag):
        raise PermissionDeniedError(NOT_ENABLED)


async def _require_scope(request: Request, key: ApiKey, actor: Actor, scope: Scope) -> None:
    if scope not in key.scopes:
        async with exporting.open_transaction(resources_of(request)) as connection:
            await operating.record_denial(connection, key, actor, outcome=f"no scope {scope}")
        raise PermissionDeniedError(f"This API key lacks the scope {scope}")


def _query(request: Request) -> ListQuery:
    given = query_params(request, set(ListQuery.__struct_fields__))
    if not CSV.fullmatch(given.get("format", "csv")):
        raise InvalidRequestError(UNSUPPORTED_FORMAT)
    return ListQuery(email=given.get("email"), after=_after(given["after"]) if "after" in given else None)


def _after(text: str) -> int:
    id_ = parse_bigint(text)
    if id_ is None:
        raise InvalidRequestError("after must be the id of the last row received")
    return id_


@asynccontextmanager
async def _open(
    resources: Resources, dataset: Dataset, query: ListQuery, encoder: CsvEncoder, watched: Callable[[Chunks], Chunks]
) -> AsyncIterator[Opened]:
    async with open_user_list(
        resources.streams,
        dataset,
        email=query.email,
        after=query.after,
        acquire_timeout_seconds=resources.settings.acquire_timeout_seconds,
    ) as document:
        yield Opened(document, watched(document.chunks(encoder)), outcome=_extent(query))


async def _while_permitted(request: Request, key: ApiKey, flag: Flag, chunks: Chunks) -> Chunks:
    """A list may take its reader hours; it is broken off within seconds once the flag is off or the key has ended."""
    checked_at = time.monotonic()
    async with aclosing(chunks):
        async for chunk in chunks:
            _require_flag(request, flag)
            if time.monotonic() - checked_at >= KEY_CHECK_SECONDS:
                await _require_usable(request, key)
                checked_at = time.monotonic()
            yield chunk


async def _require_usable(request: Request, key: ApiKey) -> None:
    usable = True
    with suppress(UnavailableError):  # where PostgreSQL can't be asked, what it said last holds, as for flags
        async with exporting.open_connection(resources_of(request)) as connection:
            usable = await operating.keys.is_usable(connection, key)
    if not usable:
        raise AuthenticationError(INVALID_KEY)


def _extent(query: ListQuery) -> str:
    """For the trail, which keeps no e-mail addresses."""
    if query.email is not None:
        return "one e-mail address"
    return "everybody" if query.after is None else f"everybody after {query.after}"

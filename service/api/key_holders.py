"""Permissions of the holder of an API key: the key, its scopes, and the feature flags."""

import asyncio
from contextlib import suppress

from starlette.requests import Request

from service.access.api_keys import ApiKey, KeyRepository
from service.api.callers import key_actor, resources_of
from service.api.http.requests import bearer_token
from service.bookkeeping.audit import Actor
from service.errors import AuthenticationError, PermissionDeniedError, RateLimitedError, UnavailableError

INVALID_KEY = "Invalid or missing API key"
NOT_ENABLED = "Export feature not enabled"
WRONG_KEY_DELAY_SECONDS = 0.3
MAX_DELAYED_KEYS = 100


async def require_key(request: Request) -> tuple[ApiKey, Actor]:
    text = request.headers.get("X-API-Key") or bearer_token(request)
    if not text:
        raise AuthenticationError(INVALID_KEY)
    async with resources_of(request).transaction() as connection:
        authenticated = await KeyRepository().authenticate(connection, text, key_actor(request))
    if authenticated is None:
        await _delay_wrong_key(request)
        raise AuthenticationError(INVALID_KEY)
    return authenticated


async def _delay_wrong_key(request: Request) -> None:
    """Delay guesses of keys. Raises RateLimitedError if so many are pending that delaying them would cost us more."""
    delayed: asyncio.Semaphore = request.app.state.wrong_keys
    if delayed.locked():
        raise RateLimitedError("Too many wrong API keys at once", retry_after_seconds=1)
    async with delayed:
        await asyncio.sleep(WRONG_KEY_DELAY_SECONDS)


def require_flag(request: Request, flag: str) -> None:
    if not resources_of(request).flags.is_enabled(flag):
        raise PermissionDeniedError(NOT_ENABLED)


async def require_scope(request: Request, key: ApiKey, actor: Actor, scope: str) -> None:
    if scope not in key.scopes:
        async with resources_of(request).transaction() as connection:
            await KeyRepository().record_denial(connection, key, actor, outcome=f"no scope {scope}")
        raise PermissionDeniedError(f"This API key lacks the scope {scope}")


async def require_permission(request: Request, key: ApiKey, flag: str) -> None:
    """To be asked while a list is on its way: the key and the flag as they are now."""
    require_flag(request, flag)
    usable = True
    with suppress(UnavailableError):  # during an outage the last known state holds, as for flags
        async with resources_of(request).connection() as connection:
            usable = await KeyRepository().is_usable(connection, key)
    if not usable:
        raise AuthenticationError(INVALID_KEY)

"""The operator whose API key a request carries, and what the key's scopes and the feature flags allow."""

import asyncio
from contextlib import suppress

from starlette.requests import Request

from service import errors
from service.access.api_keys import ApiKey, KeyRepository
from service.api.callers import key_actor, resources_of
from service.api.http.requests import bearer_token
from service.bookkeeping.audit import Actor, AuditAction
from service.errors import AuthenticationError, PermissionDeniedError, RateLimitedError, UnavailableError

INVALID_KEY = "Invalid or missing API key"
NOT_ENABLED = "Export feature not enabled"
WRONG_KEYS = "Too many wrong API keys at once"
WRONG_KEY_DELAY_SECONDS = 0.3
MAX_DELAYED_KEYS = 100

NO_KEY = errors.AuthenticationError(INVALID_KEY)
DISABLED = errors.PermissionDeniedError(NOT_ENABLED)
TOO_MANY_WRONG_KEYS = errors.RateLimitedError(WRONG_KEYS, retry_after_seconds=1)


async def require_operator(
    request: Request, *, flag: str, scope: str, denial: AuditAction = AuditAction.USERS_DENIED
) -> tuple[ApiKey, Actor]:
    """The usable key, which has `scope`, while `flag` is on; what is refused is audited as `denial`.

    Authenticate first: an unauthenticated caller learns neither the flag's state nor the known parameters.
    """
    key, actor = await require_key(request, denial)
    require_flag(request, flag)
    await require_scope(request, key, actor, scope, denial)
    return key, actor


async def require_key(request: Request, denial: AuditAction = AuditAction.USERS_DENIED) -> tuple[ApiKey, Actor]:
    """The usable key. Raises AuthenticationError, and RateLimitedError; what is refused is audited as `denial`."""
    text = request.headers.get("X-API-Key") or bearer_token(request)
    if not text:
        raise AuthenticationError(INVALID_KEY)
    async with resources_of(request).transaction() as connection:
        authenticated = await KeyRepository().authenticate(connection, text, key_actor(request), denial=denial)
    if authenticated is None:
        await _delay_wrong_key(request)
        raise AuthenticationError(INVALID_KEY)
    return authenticated


async def _delay_wrong_key(request: Request) -> None:
    """Delay guesses of keys. Raises RateLimitedError if so many are pending that delaying them would cost us more."""
    delayed: asyncio.Semaphore = request.app.state.wrong_keys
    if delayed.locked():
        raise RateLimitedError(WRONG_KEYS, retry_after_seconds=1)
    async with delayed:
        await asyncio.sleep(WRONG_KEY_DELAY_SECONDS)


def require_flag(request: Request, flag: str) -> None:
    if not resources_of(request).flags.is_enabled(flag):
        raise PermissionDeniedError(NOT_ENABLED)


async def require_scope(
    request: Request, key: ApiKey, actor: Actor, scope: str, denial: AuditAction = AuditAction.USERS_DENIED
) -> None:
    if scope not in key.scopes:
        async with resources_of(request).transaction() as connection:
            await KeyRepository().record_denial(connection, key, actor, outcome=f"no scope {scope}", denial=denial)
        raise PermissionDeniedError(f"This API key lacks the scope {scope}")


async def require_permission(request: Request, key: ApiKey, flag: str) -> None:
    """Whether the flag is still on, and the key usable, while a response is sent."""
    require_flag(request, flag)
    usable = True
    with suppress(UnavailableError):  # during an outage the last known state holds, as for flags
        async with resources_of(request).connection() as connection:
            usable = await KeyRepository().is_usable(connection, key)
    if not usable:
        raise AuthenticationError(INVALID_KEY)

"""API keys of machines and administrators: `co_<prefix>_<secret>`, known to us by the prefix and a hash alone."""

import datetime as dt
import hashlib
import hmac
import re
import secrets
import string
import uuid
from collections.abc import Collection
from enum import StrEnum

import asyncpg
import msgspec

from service.backends.database import QUERIES, Connection
from service.bookkeeping.audit import Actor, AuditAction, AuditLog, operator_actor
from service.errors import InvalidValueError

KEY = re.compile(r"co_([a-z0-9]{8})_[A-Za-z0-9_-]{43}")
PREFIX_ALPHABET = string.ascii_lowercase + string.digits
PREFIX_CHARACTERS = 8
SECRET_BYTES = 32


class Scope(StrEnum):
    """Rights of a key: to fetch a list of users, or to act for users at the desk.

    Each list of an operator's own has a scope by `list_permission`. No scope includes another.
    """

    USERS_EXPORT = "users:export"
    USERS_EXPORT_FULL = "users:export_full"
    USERS_UNGUARDED = "users:unguarded"
    REQUESTS_CREATE = "requests:create"
    REQUESTS_READ = "requests:read"
    REQUESTS_DOWNLOAD = "requests:download"


def list_permission(name: str) -> str:
    """The scope, and the feature flag, of the operators' list of this name."""
    return f"lists:{name}"


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `carryout.api_keys`; `expired` is by the database's clock."""

    id: uuid.UUID
    name: str
    prefix: str
    key_hash: bytes
    scopes: tuple[str, ...]
    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    last_used_at: dt.datetime | None
    expired: bool

    @property
    def state(self) -> str:
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expired else "active"

    def matches(self, text: str) -> bool:
        """Whether `text` is this key; takes the same time for every wrong one."""
        return hmac.compare_digest(self.key_hash, _hash(text))


class KeyRepository:
    """Nothing is cached: a key is read for every request, so that revocation holds at once, everywhere.

    Each change commits together with its audit event.
    """

    def __init__(self) -> None:
        self._audit = AuditLog()

    async def create(
        self, connection: Connection, *, name: str, scopes: Collection[str], expires_in_days: int | None
    ) -> tuple[ApiKey, str]:
        """The key's row, and its text, which is shown this once. Raises InvalidValueError if the name is taken."""
        prefix = "".join(secrets.choice(PREFIX_ALPHABET) for _ in range(PREFIX_CHARACTERS))
        text = f"co_{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"
        async with connection.transaction():
            key = await self._insert(connection, name, prefix, text, scopes, expires_in_days)
            await self._audit.record(
                connection,
                operator_actor(),
                AuditAction.KEY_CREATED,
                subject=_subject(key),
                outcome=", ".join(key.scopes),
            )
        return key, text

    async def _insert(  # noqa: PLR0913, PLR0917 (a row's columns)
        self,
        connection: Connection,
        name: str,
        prefix: str,
        text: str,
        scopes: Collection[str],
        expires_in_days: int | None,
    ) -> ApiKey:
        try:
            row = await connection.fetchrow(
                QUERIES["insert_api_key"], name, prefix, _hash(text), sorted(set(scopes)), expires_in_days
            )
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "one_usable_key_per_name":
                raise
            raise InvalidValueError(f"There is a key called {name} already") from None
        assert row is not None
        return _api_key(row)

    async def authenticate(
        self, connection: Connection, text: str, origin: Actor, *, denial: AuditAction = AuditAction.USERS_DENIED
    ) -> tuple[ApiKey, Actor] | None:
        """The usable key that `text` is, noted as used, and `origin` under its name.

        A refusal is audited as `denial` if the key exists. Any other text leaves no event, so that unauthenticated
        callers can't fill the trail.
        """
        key = await self.find(connection, text)
        if key is None:
            return None
        actor = msgspec.structs.replace(origin, type="key", name=key.prefix)
        fault = key.state if key.matches(text) else "wrong secret"
        if fault != "active":
            await self.record_denial(connection, key, actor, outcome=fault, denial=denial)
            return None
        await self._touch(connection, key)
        return key, actor

    async def find(self, connection: Connection, text: str) -> ApiKey | None:
        """The key that `text` names by its prefix; whether it `matches` is another question."""
        named = KEY.fullmatch(text)
        row = await connection.fetchrow(QUERIES["find_api_key"], named[1]) if named else None
        return _api_key(row) if row else None

    async def is_usable(self, connection: Connection, key: ApiKey) -> bool:
        """Whether it is still neither revoked nor expired."""
        usable: bool = await connection.fetchval(QUERIES["is_usable_api_key"], key.id)
        return usable

    async def list_all(self, connection: Connection) -> list[ApiKey]:
        """All of them, the oldest first."""
        return [_api_key(row) for row in await connection.fetch(QUERIES["list_api_keys"])]

    async def revoke(self, connection: Connection, name: str) -> ApiKey:
        """Raises InvalidValueError if no key of this name can be used any more."""
        async with connection.transaction():
            row = await connection.fetchrow(QUERIES["revoke_api_key"], name)
            if row is None:
                raise InvalidValueError(f"There is no unrevoked key called {name}")
            key = _api_key(row)
            await self._audit.record(connection, operator_actor(), AuditAction.KEY_REVOKED, subject=_subject(key))
        return key

    async def record_denial(
        self,
        connection: Connection,
        key: ApiKey,
        actor: Actor,
        *,
        outcome: str,
        denial: AuditAction = AuditAction.USERS_DENIED,
    ) -> None:
        """Audit a denial, at most once a minute for each key, so that its holder can't fill the trail."""
        if await connection.fetchval(QUERIES["claim_key_denial"], key.id) is not None:
            await self._audit.record(connection, actor, denial, outcome=outcome)

    async def _touch(self, connection: Connection, key: ApiKey) -> None:
        """Note that the key was used; written at most once a minute."""
        await connection.execute(QUERIES["touch_api_key"], key.id)


def _subject(key: ApiKey) -> str:
    return f"{key.prefix} {key.name}"


def _hash(text: str) -> bytes:
    # A fast, unsalted hash suffices: 256 random bits can't be found by brute force.
    return hashlib.sha256(text.encode()).digest()


def _api_key(row: asyncpg.Record) -> ApiKey:
    return msgspec.convert(dict(row), ApiKey)

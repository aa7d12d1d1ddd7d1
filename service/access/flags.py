"""Feature flags: defaults from the settings, overridden by rows that `carryout features` writes."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum

import asyncpg

from service.access.api_keys import list_permission
from service.backends.database import CONNECTION_LOST, QUERIES, Connection, connect
from service.bookkeeping.audit import AuditAction, AuditLog, operator_actor
from service.errors import ConfigurationError, OutageError
from service.telemetry.outages import OutageLog

READ_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0


class Flag(StrEnum):
    USERS_EXPORT = "users:export"
    USERS_EXPORT_FULL = "users:export_full"
    USERS_EXPORT_ALIVE = "users:export_alive"
    USERS_EXPORT_SIMPLE = "users:export_simple"
    REQUESTS = "requests:desk"


class FlagRepository:
    async def list_switched(self, connection: Connection) -> dict[str, bool]:
        """The flags that an operator switched, also ones that are gone."""
        rows = await connection.fetch(QUERIES["list_feature_flags"])
        return {row["name"]: row["enabled"] for row in rows}

    async def set(self, connection: Connection, flag: str, *, enabled: bool) -> None:
        """The change commits together with its audit event."""
        async with connection.transaction():
            await connection.execute(QUERIES["set_feature_flag"], flag, enabled)
            outcome = "enabled" if enabled else "disabled"
            await AuditLog().record(
                connection, operator_actor(), AuditAction.FEATURE_CHANGED, subject=flag, outcome=outcome
            )


class Flags:
    """The flags as they were a second ago, in memory."""

    def __init__(self, defaults: Mapping[str, bool]) -> None:
        self._defaults = defaults
        self._switched: Mapping[str, bool] = {}

    def is_enabled(self, flag: str) -> bool:
        return self._switched.get(flag, self._defaults[flag])

    async def read(self, connection: Connection) -> None:
        self._switched = await FlagRepository().list_switched(connection)


def default_flags(features: Sequence[str], lists: Collection[str] = ()) -> dict[str, bool]:
    """The defaults in CARRYOUT_FEATURES: the flags it names, or all if it names none, less those named as `-name`.

    Each of the operators' `lists` has a flag. Raises ConfigurationError for an unknown one.
    """
    known = [*Flag, *(list_permission(name) for name in lists)]
    for name in features:
        if name.removeprefix("-") not in known:
            raise ConfigurationError(
                f"CARRYOUT_FEATURES: {name.removeprefix('-')} is not a feature flag; choose from {', '.join(known)}"
            )
    named = [name for name in features if not name.startswith("-")] or known
    return {str(flag): flag in named and f"-{flag}" not in features for flag in known}


@asynccontextmanager
async def open_flags(database_url: str, features: Sequence[str], lists: Collection[str] = ()) -> AsyncIterator[Flags]:
    """Flags that follow the table, read once before this returns. Raises ConfigurationError.

    While PostgreSQL can't be reached they stay as they were.
    """
    flags = Flags(default_flags(features, lists))
    async with connect(database_url) as connection:
        await flags.read(connection)
    following = asyncio.create_task(_follow(flags, database_url))
    try:
        yield flags
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def _follow(flags: Flags, database_url: str) -> None:
    """Reading one row or none each second needs no LISTEN, which gets lost with its connection and in pgbouncer.

    Nor can it wait for the pool: flags are switched off during an incident.
    """
    outages = OutageLog("flags_not_read", "flags_read_again")
    while True:
        async with outages.catching(OutageError, asyncpg.PostgresError):
            await _read_while_connected(flags, database_url, outages)
        await asyncio.sleep(READ_SECONDS)


async def _read_while_connected(flags: Flags, database_url: str, outages: OutageLog) -> None:
    try:
        async with connect(database_url) as connection:
            while True:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await flags.read(connection)
                await outages.end()
                await asyncio.sleep(READ_SECONDS)
    except (ConfigurationError, *CONNECTION_LOST) as error:
        raise OutageError("The flags can't be read", server="postgresql") from error

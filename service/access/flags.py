"""Feature flags: defaults from the settings, overridden by rows that `carryout features` writes."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum

import asyncpg

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
    async def list_switched(self, connection: Connection) -> dict[Flag, bool]:
        """The flags that an operator switched. Rows of unknown flags are ignored."""
        rows = await connection.fetch(QUERIES["list_feature_flags"])
        return {Flag(row["name"]): row["enabled"] for row in rows if row["name"] in set(Flag)}

    async def set(self, connection: Connection, flag: Flag, *, enabled: bool) -> None:
        """The change commits together with its audit event."""
        async with connection.transaction():
            await connection.execute(QUERIES["set_feature_flag"], flag, enabled)
            outcome = "enabled" if enabled else "disabled"
            await AuditLog().record(
                connection, operator_actor(), AuditAction.FEATURE_CHANGED, subject=flag, outcome=outcome
            )


class Flags:
    """The flags as they were a second ago, in memory."""

    def __init__(self, defaults: Mapping[Flag, bool]) -> None:
        self._defaults = defaults
        self._switched: Mapping[Flag, bool] = {}

    def is_enabled(self, flag: Flag) -> bool:
        return self._switched.get(flag, self._defaults[flag])

    async def read(self, connection: Connection) -> None:
        self._switched = await FlagRepository().list_switched(connection)


def default_flags(features: Sequence[str]) -> dict[Flag, bool]:
    """The defaults in CARRYOUT_FEATURES: the flags it names, or all if it names none, less those named as `-name`.

    Raises ConfigurationError for an unknown one.
    """
    for name in features:
        if name.removeprefix("-") not in set(Flag):
            raise ConfigurationError(
                f"CARRYOUT_FEATURES: {name.removeprefix('-')} is not a feature flag; choose from {', '.join(Flag)}"
            )
    named = [name for name in features if not name.startswith("-")] or list(Flag)
    return {flag: flag in named and f"-{flag}" not in features for flag in Flag}


@asynccontextmanager
async def open_flags(database_url: str, features: Sequence[str]) -> AsyncIterator[Flags]:
    """Flags that follow the table, read once before this returns. Raises ConfigurationError.

    While PostgreSQL can't be reached they stay as they were.
    """
    flags = Flags(default_flags(features))
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

"""Feature flags: their defaults, and how running processes follow the table."""

import asyncio

import pytest

from service.access.flags import Flag, Flags, default_flags, open_flags
from service.errors import ConfigurationError
from tests.support.factories import Connection, list_audit
from tests.support.operators import switch

ALL_ON = dict.fromkeys(Flag, True)
ALIVE = Flag.USERS_EXPORT_ALIVE
DEFAULTS = {
    "all of them": (tuple(Flag), ALL_ON),
    "none named": ((), ALL_ON),
    "one named": (("users:export",), dict.fromkeys(Flag, False) | {Flag.USERS_EXPORT: True}),
    "one taken away": (("-users:export_full",), ALL_ON | {Flag.USERS_EXPORT_FULL: False}),
    "all taken away": (tuple(f"-{flag}" for flag in Flag), dict.fromkeys(Flag, False)),
    "named and taken away": (("users:export", "-users:export"), dict.fromkeys(Flag, False)),
}


async def until_flag_is(flags: Flags, flag: Flag, *, enabled: bool) -> None:
    while flags.is_enabled(flag) is not enabled:
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("case", DEFAULTS)
def test_defaults(case: str) -> None:
    features, expected = DEFAULTS[case]
    assert default_flags(features) == expected


@pytest.mark.parametrize("name", ["users:exports", "-users:exports", "--users:export", "USERS:EXPORT"])
async def test_an_unknown_flag_in_the_settings_stops_the_start(database_url: str, name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"CARRYOUT_FEATURES: .* is not a feature flag; choose from users:export"
    ):
        async with open_flags(database_url, (name,)):
            pass


async def test_rows_win_over_defaults_from_the_first_moment(database: Connection, database_url: str) -> None:
    await switch(database, ALIVE, enabled=False)
    await switch(database, Flag.USERS_EXPORT, enabled=True)

    async with open_flags(database_url, ("-users:export",)) as flags:
        enabled = [flag for flag in Flag if flags.is_enabled(flag)]

    assert enabled == [Flag.USERS_EXPORT, Flag.USERS_EXPORT_FULL, Flag.USERS_EXPORT_SIMPLE, Flag.REQUESTS]


async def test_rows_of_removed_flags_are_ignored(database: Connection, database_url: str) -> None:
    await database.execute("INSERT INTO carryout.feature_flags (name, enabled) VALUES ('users:export_old', false)")

    async with open_flags(database_url, tuple(Flag)) as flags:
        assert all(flags.is_enabled(flag) for flag in Flag)


@pytest.mark.slow
async def test_switches_are_followed_also_after_the_connection_was_lost(
    database: Connection, database_url: str
) -> None:
    async with open_flags(database_url, tuple(Flag)) as flags:
        await switch(database, ALIVE, enabled=False)
        await until_flag_is(flags, ALIVE, enabled=False)

        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert not flags.is_enabled(ALIVE)

        await switch(database, ALIVE, enabled=True)
        await until_flag_is(flags, ALIVE, enabled=True)


async def test_a_database_that_is_not_there_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="PostgreSQL can't be reached"):
        async with open_flags("postgresql://127.0.0.1:1/none", tuple(Flag)):
            pass


async def test_switching_is_audited(database: Connection) -> None:
    await switch(database, ALIVE, enabled=False)
    await switch(database, ALIVE, enabled=True)

    events = [(event["action"], event["subject"], event["outcome"]) for event in await list_audit(database)]

    assert events == [
        ("features:changed", "users:export_alive", "disabled"),
        ("features:changed", "users:export_alive", "enabled"),
    ]

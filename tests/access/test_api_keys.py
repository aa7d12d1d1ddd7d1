"""API keys in the database: what is stored, what is recognised, and what is written when one is used."""

import re

import pytest

from service.access.api_keys import KeyRepository, Scope
from service.bookkeeping.audit import Actor
from service.errors import InvalidValueError
from tests.support.factories import Connection, list_actions, list_audit
from tests.support.operators import create_key

ORIGIN = Actor("key", None, ip="192.0.2.7", user_agent="curl", request_id="r1")


async def authenticate(database: Connection, text: str) -> bool:
    async with database.transaction():
        return await KeyRepository().authenticate(database, text, ORIGIN) is not None


async def age(database: Connection, column: str) -> None:
    await database.execute(f"UPDATE carryout.api_keys SET {column} = {column} - interval '61 seconds'")


async def test_a_key_has_256_random_bits_after_its_prefix(database: Connection) -> None:
    keys = {await create_key(database, name=name) for name in "abc"}

    assert len(keys) == 3
    for key in keys:
        assert re.fullmatch(r"co_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", key)


async def test_only_a_hash_is_stored(database: Connection) -> None:
    text = await create_key(database)

    stored = await database.fetchval("SELECT to_jsonb(k)::text FROM carryout.api_keys k")

    assert text.split("_", 2)[2] not in stored
    assert text.split("_")[1] in stored


async def test_a_name_is_free_again_once_its_key_is_revoked(database: Connection) -> None:
    first = await create_key(database, name="nightly")
    with pytest.raises(InvalidValueError, match="There is a key called nightly already"):
        await create_key(database, name="nightly")

    await KeyRepository().revoke(database, "nightly")
    second = await create_key(database, name="nightly")

    assert not await authenticate(database, first)
    assert await authenticate(database, second)
    with pytest.raises(InvalidValueError, match="There is no unrevoked key called other"):
        await KeyRepository().revoke(database, "other")


async def test_scopes_are_kept_once_each(database: Connection) -> None:
    await create_key(database, Scope.USERS_EXPORT_FULL, Scope.USERS_EXPORT, Scope.USERS_EXPORT)

    (key,) = await KeyRepository().list_all(database)

    assert key.scopes == (Scope.USERS_EXPORT, Scope.USERS_EXPORT_FULL)


async def test_expiry_is_by_the_databases_clock(database: Connection) -> None:
    key, text = await KeyRepository().create(database, name="short", scopes=[Scope.USERS_EXPORT], expires_in_days=1)
    assert key.expires_at is not None
    assert (key.expires_at - key.created_at).days == 1
    assert await authenticate(database, text)

    await database.execute("UPDATE carryout.api_keys SET expires_at = now()")

    assert not await authenticate(database, text)
    assert [key.state for key in await KeyRepository().list_all(database)] == ["expired"]


async def test_every_flipped_character_is_refused(database: Connection) -> None:
    text = await create_key(database)

    for position, character in enumerate(text):
        flipped = text[:position] + ("A" if character != "A" else "B") + text[position + 1 :]
        assert not await authenticate(database, flipped)
    for odd in (text + "A", text[:-1], f" {text}", text + "\n", text.upper(), "co__", "", "'; DROP TABLE users;--"):
        assert not await authenticate(database, odd)
    assert await authenticate(database, text)


async def test_use_is_written_at_most_once_a_minute(database: Connection) -> None:
    text = await create_key(database)

    async def use() -> object:
        assert await authenticate(database, text)
        return await database.fetchval("SELECT last_used_at FROM carryout.api_keys")

    first = await use()
    assert first is not None
    assert await use() == first
    await age(database, "last_used_at")
    assert await use() != first
    assert await use() == await use()


async def test_denials_of_a_known_key_are_audited_once_a_minute(database: Connection) -> None:
    text = await create_key(database)
    prefix = text.split("_")[1]
    wrong = f"co_{prefix}_{'A' * 43}"

    for _ in range(3):
        assert not await authenticate(database, wrong)
    await age(database, "last_denied_at")
    await KeyRepository().revoke(database, "nightly")
    assert not await authenticate(database, text)

    denied = [event for event in await list_audit(database) if event["action"] == "users:denied"]
    assert [event["outcome"] for event in denied] == ["wrong secret", "revoked"]
    assert {(event["actor_type"], event["actor"], event["ip"].compressed) for event in denied} == {
        ("key", prefix, "192.0.2.7")
    }
    everything = await database.fetchval("SELECT string_agg(to_jsonb(a)::text, '') FROM carryout.export_audit a")
    assert text.split("_", 2)[2] not in everything


async def test_keys_that_never_were_leave_no_trace(database: Connection) -> None:
    for number in range(5):
        assert not await authenticate(database, f"co_aaaaaaa{number}_{'A' * 43}")

    assert await list_actions(database) == []


async def test_making_and_revoking_are_audited(database: Connection) -> None:
    text = await create_key(database, Scope.USERS_EXPORT)
    await KeyRepository().revoke(database, "nightly")

    events = [(event["action"], event["subject"], event["outcome"]) for event in await list_audit(database)]

    key = f"{text.split('_')[1]} nightly"
    assert events == [("keys:created", key, "users:export"), ("keys:revoked", key, None)]

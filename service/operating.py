"""What operators do: each change commits together with its audit event."""

import os
import pwd
import uuid
from collections.abc import Collection, Iterable

import msgspec

from service import ending
from service.audit import SYSTEM, Actor, AuditAction, AuditLog
from service.database import Connection, UserId
from service.errors import ExportNotFoundError
from service.exports import Export, ExportRepository
from service.flags import Flag, FlagRepository
from service.keys import ApiKey, KeyRepository, Scope

CANCELLED_MESSAGE = "cancelled by an operator"

keys = KeyRepository()
flags = FlagRepository()
audit = AuditLog()


async def create_key(
    connection: Connection, *, name: str, scopes: Collection[Scope], expires_in_days: int | None
) -> tuple[ApiKey, str]:
    """The key and its text, shown this once. Raises InvalidValueError if the name is taken."""
    async with connection.transaction():
        key, text = await keys.create(connection, name=name, scopes=scopes, expires_in_days=expires_in_days)
        await audit.record(
            connection, _operator(), AuditAction.KEY_CREATED, subject=_subject(key), outcome=", ".join(key.scopes)
        )
    return key, text


async def revoke_key(connection: Connection, name: str) -> ApiKey:
    """Raises InvalidValueError if no key of this name can be used any more."""
    async with connection.transaction():
        key = await keys.revoke(connection, name)
        await audit.record(connection, _operator(), AuditAction.KEY_REVOKED, subject=_subject(key))
    return key


async def switch_flag(connection: Connection, flag: Flag, *, enabled: bool) -> None:
    async with connection.transaction():
        await flags.set(connection, flag, enabled=enabled)
        outcome = "enabled" if enabled else "disabled"
        await audit.record(connection, _operator(), AuditAction.FEATURE_CHANGED, subject=flag, outcome=outcome)


async def end_export(connection: Connection, exports: ExportRepository, job_id: uuid.UUID) -> list[Export]:
    """The export as it is then; nothing if it had ended before. Raises ExportNotFoundError for an unknown id."""
    async with connection.transaction():
        if await exports.find(connection, job_id) is None:
            raise ExportNotFoundError
        return await _end(connection, exports, [job_id])


async def end_exports_of_user(connection: Connection, exports: ExportRepository, user_id: UserId) -> list[Export]:
    """Those that were running or had a working link, as they are then: all of them, or none if anything fails."""
    async with connection.transaction():
        await exports.lock_user(connection, user_id)  # so that none is being accepted meanwhile
        unended = await exports.list_unended(connection, user_id)
        return await _end(connection, exports, [export.id for export in unended])


async def _end(connection: Connection, exports: ExportRepository, job_ids: Iterable[uuid.UUID]) -> list[Export]:
    operator = _operator()
    ended = [
        await ending.end_export(connection, exports, audit, job_id, operator, message=CANCELLED_MESSAGE)
        for job_id in job_ids
    ]
    return [export for export in ended if export]


async def authenticate_key(connection: Connection, text: str, origin: Actor) -> tuple[ApiKey, Actor] | None:
    """The usable key that `text` is, noted as used, and `origin` under its name.

    For a key that exists a refusal is audited; any other text leaves no trace, as anybody could fill the trail with it.
    """
    key = await keys.find(connection, text)
    if key is None:
        return None
    actor = msgspec.structs.replace(origin, type="key", name=key.prefix)
    fault = key.state if key.matches(text) else "wrong secret"
    if fault != "active":
        await record_denial(connection, key, actor, outcome=fault)
        return None
    await keys.touch(connection, key)
    return key, actor


async def record_denial(connection: Connection, key: ApiKey, actor: Actor, *, outcome: str) -> None:
    """At most once a minute for each key."""
    if await keys.claim_denial(connection, key):
        await audit.record(connection, actor, AuditAction.USERS_DENIED, outcome=outcome)


def _operator() -> Actor:
    """The system; as its user agent, the account of this machine that told it so."""
    try:
        account = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's account often has a number alone
        account = str(os.getuid())
    return msgspec.structs.replace(SYSTEM, user_agent=f"carryout ({account})")


def _subject(key: ApiKey) -> str:
    return f"{key.prefix} {key.name}"

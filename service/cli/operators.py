"""Commands for operators: API keys, feature flags, and the audit trail."""

import asyncio
import re
import uuid
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from guard.terminal import echo
from guard.text import is_printable
from service.access.api_keys import ApiKey, KeyRepository, Scope, list_permission
from service.access.flags import Flag, FlagRepository, default_flags
from service.bookkeeping.audit import AuditAction, AuditEvent, AuditFilter, AuditLog
from service.cli.options import (
    choice_of,
    env_file_option,
    limit_option,
    load_settings,
    open_database,
    since_option,
    user_id_of,
)
from service.cli.output import echo_found, echo_rows, json_option
from service.documents.datasets import NAME as LIST_NAME
from service.documents.datasets import list_names
from service.errors import InvalidValueError
from service.settings import Settings

MAX_NAME_CHARACTERS = 100
MAX_EXPIRY_DAYS = 3_650
LIST_PERMISSION = re.compile(list_permission(LIST_NAME.pattern))
KEY_COLUMNS = {
    "prefix": "prefix",
    "name": "name",
    "state": "state",
    "scopes": "scopes",
    "created_at": "created",
    "expires_at": "expires",
    "last_used_at": "last used",
}
AUDIT_COLUMNS = ("time", "actor", "action", "subject", "user", "job", "records", "outcome", "ip")


class KeyName(click.ParamType[str]):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = str(value)
        if not (1 <= len(name) <= MAX_NAME_CHARACTERS and is_printable(name)):
            self.fail(f"a key's name must be 1 to {MAX_NAME_CHARACTERS} printable characters", param, ctx)
        return name


class Permission(click.ParamType[str]):
    """A scope or a feature flag: one of the fixed `names`, or that of an operators' list."""

    name = "name"

    def __init__(self, names: type[StrEnum]) -> None:
        self._names = [str(name) for name in names]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self._names and not LIST_PERMISSION.fullmatch(str(value)):
            known = ", ".join(map(repr, self._names))
            self.fail(f"{value!r} is not one of {known} and 'lists:NAME'", param, ctx)
        return str(value)


key_name = click.argument("name", type=KeyName())
feature_name = click.argument("name", type=Permission(Flag))


@click.group()
def keys() -> None:
    """Create, list and revoke API keys for the operators' endpoints."""


@keys.command("create")
@key_name
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    type=Permission(Scope),
    help=f"A right of the key: {', '.join(Scope)} or lists:NAME; repeatable.",
)
@click.option(
    "--expires-in-days",
    type=click.IntRange(1, MAX_EXPIRY_DAYS),
    help="Days until the key expires. By default it doesn't.",
)
@env_file_option
def create_key(name: str, scopes: Sequence[str], expires_in_days: int | None, env_file: Path | None) -> None:
    """Create a key called NAME and print it. It is shown only once."""
    settings = load_settings(env_file)
    _require_lists(settings, scopes)

    async def create() -> str:
        async with open_database(settings) as connection:
            _, text = await KeyRepository().create(
                connection, name=name, scopes=scopes, expires_in_days=expires_in_days
            )
            return text

    echo(asyncio.run(create()))
    echo("Keep it now: only its hash is stored, so it can't be shown again.", err=True)


@keys.command("list")
@json_option
@env_file_option
def list_keys(*, as_json: bool, env_file: Path | None) -> None:
    """List all keys, without their secrets."""

    async def list_() -> list[ApiKey]:
        async with open_database(load_settings(env_file)) as connection:
            return await KeyRepository().list_all(connection)

    rows = [{name: getattr(key, name) for name in KEY_COLUMNS} for key in asyncio.run(list_())]
    echo_rows(KEY_COLUMNS.values(), rows, as_json=as_json)


@keys.command("revoke")
@key_name
@env_file_option
def revoke_key(name: str, env_file: Path | None) -> None:
    """Revoke the key called NAME. Every process refuses it at once."""

    async def revoke() -> str:
        async with open_database(load_settings(env_file)) as connection:
            return (await KeyRepository().revoke(connection, name)).prefix

    echo(f"revoked {name} ({asyncio.run(revoke())})")


@click.group()
def features() -> None:
    """List and switch the feature flags of the operators' endpoints."""


@features.command("list")
@json_option
@env_file_option
def list_features(*, as_json: bool, env_file: Path | None) -> None:
    """List all flags, and whether each was switched or has its default."""

    async def list_() -> list[dict[str, object]]:
        settings = load_settings(env_file)
        defaults = default_flags(settings.features, list_names(settings.lists_folder))
        async with open_database(settings) as connection:
            switched = await FlagRepository().list_switched(connection)
        return [
            {
                "name": flag,
                "state": "on" if switched.get(flag, defaults[flag]) else "off",
                "source": "switched" if flag in switched else "default",
            }
            for flag in defaults
        ]

    echo_rows(("name", "state", "source"), asyncio.run(list_()), as_json=as_json)


@features.command("enable")
@feature_name
@env_file_option
def enable_feature(name: str, env_file: Path | None) -> None:
    """Switch the flag NAME on. Running processes notice within 2 seconds."""
    _switch(name, env_file, enabled=True)


@features.command("disable")
@feature_name
@env_file_option
def disable_feature(name: str, env_file: Path | None) -> None:
    """Switch the flag NAME off. Running processes notice within 2 seconds."""
    _switch(name, env_file, enabled=False)


@click.command()
@click.option("--user", help="Only events about this user's data.")
@click.option("--job", type=click.UUID, help="Only events about this export.")
@click.option("--action", type=choice_of(AuditAction), help="Only events with this action.")
@click.option("--request", help="Only events of this request, by the id that its answer shows.")
@since_option
@limit_option("Maximum number of events; the last are shown.")
@json_option
@env_file_option
def audit(  # noqa: PLR0913 (a command's options)
    *,
    user: str | None,
    job: uuid.UUID | None,
    action: str | None,
    request: str | None,
    since: float | None,
    limit: int,
    as_json: bool,
    env_file: Path | None,
) -> None:
    """Show the audit trail, latest event last. With --json, events have all fields."""
    settings = load_settings(env_file)
    wanted = AuditFilter(
        user_id=user_id_of(settings, user),
        job_id=job,
        action=AuditAction(action) if action else None,
        request_id=request,
        since_seconds=since,
        limit=limit,
    )

    async def show() -> None:
        async with open_database(settings) as connection:
            events = AuditLog().iterate_latest(connection, wanted)
            await echo_found(events, AUDIT_COLUMNS, _audit_row, as_json=as_json)

    asyncio.run(show())


def _audit_row(event: AuditEvent) -> Sequence[object]:
    actor = f"{event.actor_type} {event.actor}" if event.actor else event.actor_type
    return (
        event.occurred_at,
        actor,
        event.action,
        event.subject,
        event.user_id,
        event.job_id,
        event.records,
        event.outcome,
        event.ip,
    )


def _require_lists(settings: Settings, permissions: Sequence[str]) -> None:
    """Raise InvalidValueError for the permission of a list that doesn't exist: a typing mistake would do nothing."""
    known = [list_permission(name) for name in list_names(settings.lists_folder)]
    for permission in permissions:
        if LIST_PERMISSION.fullmatch(permission) and permission not in known:
            lists = f"has {', '.join(known)}" if known else "has no lists"
            raise InvalidValueError(f"No list goes with {permission}: CARRYOUT_LISTS_DIR {lists}")


def _switch(flag: str, env_file: Path | None, *, enabled: bool) -> None:
    settings = load_settings(env_file)
    _require_lists(settings, [flag])

    async def switch() -> None:
        async with open_database(settings) as connection:
            await FlagRepository().set(connection, flag, enabled=enabled)

    asyncio.run(switch())
    echo(f"{'enabled' if enabled else 'disabled'} {flag}")

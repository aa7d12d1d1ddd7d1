"""Commands for operators: API keys, feature flags, and the audit trail."""

import asyncio
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from service import operating
from service.audit import AuditAction, AuditEvent, AuditFilter, AuditLog
from service.auth import parse_user_id
from service.command_options import choice_of, env_file_option, load_settings, open_database, since_option
from service.command_output import echo_each, echo_rows, echo_table, json_option
from service.flags import Flag, FlagRepository, default_flags
from service.keys import ApiKey, KeyRepository, Scope

MAX_NAME_CHARACTERS = 100
MAX_EXPIRY_DAYS = 3_650
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
        if not (1 <= len(name) <= MAX_NAME_CHARACTERS and name.isprintable()):
            self.fail(f"a key's name is 1 to {MAX_NAME_CHARACTERS} printable characters", param, ctx)
        return name


key_name = click.argument("name", type=KeyName())
feature_name = click.argument("name", type=choice_of(Flag))


@click.group()
def keys() -> None:
    """API keys for the operators' endpoints."""


@keys.command("create")
@key_name
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    type=choice_of(Scope),
    help="What the key may fetch; may be given more than once.",
)
@click.option("--expires-in-days", type=click.IntRange(1, MAX_EXPIRY_DAYS), help="Without it the key doesn't expire.")
@env_file_option
def create_key(name: str, scopes: Sequence[str], expires_in_days: int | None, env_file: Path | None) -> None:
    """Make a key called NAME and print it, this once."""
    wanted = [Scope(scope) for scope in scopes]

    async def create() -> str:
        async with open_database(load_settings(env_file)) as connection:
            _, text = await operating.create_key(connection, name=name, scopes=wanted, expires_in_days=expires_in_days)
            return text

    click.echo(asyncio.run(create()))
    click.echo("Keep it now: only its hash is stored, so nobody can show it again.", err=True)


@keys.command("list")
@json_option
@env_file_option
def list_keys(*, as_json: bool, env_file: Path | None) -> None:
    """Show every key but its secret."""

    async def list_() -> list[ApiKey]:
        async with open_database(load_settings(env_file)) as connection:
            return await KeyRepository().list_all(connection)

    rows = [{name: getattr(key, name) for name in KEY_COLUMNS} for key in asyncio.run(list_())]
    echo_rows(KEY_COLUMNS.values(), rows, as_json=as_json)


@keys.command("revoke")
@key_name
@env_file_option
def revoke_key(name: str, env_file: Path | None) -> None:
    """Refuse the key called NAME from now on, in every process."""

    async def revoke() -> str:
        async with open_database(load_settings(env_file)) as connection:
            return (await operating.revoke_key(connection, name)).prefix

    click.echo(f"revoked {name} ({asyncio.run(revoke())})")


@click.group()
def features() -> None:
    """Feature flags of the operators' endpoints."""


@features.command("list")
@json_option
@env_file_option
def list_features(*, as_json: bool, env_file: Path | None) -> None:
    """Show every flag, and whether it was switched or has its default."""

    async def list_() -> list[dict[str, object]]:
        settings = load_settings(env_file)
        defaults = default_flags(settings.features)
        async with open_database(settings) as connection:
            switched = await FlagRepository().list_switched(connection)
        return [
            {
                "name": flag,
                "state": "on" if switched.get(flag, defaults[flag]) else "off",
                "source": "switched" if flag in switched else "default",
            }
            for flag in Flag
        ]

    echo_rows(("name", "state", "source"), asyncio.run(list_()), as_json=as_json)


@features.command("enable")
@feature_name
@env_file_option
def enable_feature(name: str, env_file: Path | None) -> None:
    """Switch the flag NAME on; running processes notice within 2 seconds."""
    _switch(Flag(name), env_file, enabled=True)


@features.command("disable")
@feature_name
@env_file_option
def disable_feature(name: str, env_file: Path | None) -> None:
    """Switch the flag NAME off; running processes notice within 2 seconds."""
    _switch(Flag(name), env_file, enabled=False)


@click.command()
@click.option("--user", help="Only events about this user's data.")
@click.option("--job", type=click.UUID, help="Only events about this export.")
@click.option("--action", type=choice_of(AuditAction), help="Only this action.")
@since_option
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="The last so many events.")
@json_option
@env_file_option
def audit(  # noqa: PLR0913 (a command's options)
    *,
    user: str | None,
    job: uuid.UUID | None,
    action: str | None,
    since: float | None,
    limit: int,
    as_json: bool,
    env_file: Path | None,
) -> None:
    """Show what happened to anyone's data, the latest last; as JSON, with every field."""
    settings = load_settings(env_file)
    wanted = AuditFilter(
        user_id=parse_user_id(user, settings.user_id_type) if user is not None else None,
        job_id=job,
        action=AuditAction(action) if action else None,
        since_seconds=since,
        limit=limit,
    )

    async def show() -> None:
        async with open_database(settings) as connection:
            events = AuditLog().iterate_latest(connection, wanted)
            if as_json:
                await echo_each(events)
            else:
                echo_table(AUDIT_COLUMNS, [_audit_row(event) async for event in events])

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


def _switch(flag: Flag, env_file: Path | None, *, enabled: bool) -> None:
    async def switch() -> None:
        async with open_database(load_settings(env_file)) as connection:
            await operating.switch_flag(connection, flag, enabled=enabled)

    asyncio.run(switch())
    click.echo(f"{'enabled' if enabled else 'disabled'} {flag}")

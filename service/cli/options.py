"""Shared parts of the `carryout` commands: options, settings, and the database."""

import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from guard.files import is_readable_by_all, read_trusted
from guard.terminal import echo
from service.backends.database import Connection, check_schema, connect
from service.errors import ConfigurationError
from service.settings import PREFIX, Settings, from_env
from service.user_ids import UserId, parse_user_id

AGE = re.compile(r"(\d{1,6})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Age(click.ParamType[float]):
    """An age such as 24h, converted to seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not (given := AGE.fullmatch(str(value))):
            self.fail("give a number with the unit s, m, h or d, for example 24h", param, ctx)
        return float(int(given[1]) * SECONDS[given[2]])


since_option = click.option(
    "--since", type=Age(), help="Only entries younger than this: a number with the unit s, m, h or d, for example 24h."
)


def limit_option(help_: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help=help_)


def user_id_of(settings: Settings, user: str | None) -> UserId | None:
    """The id that `--user` gives, if any. Raises InvalidValueError."""
    return None if user is None else parse_user_id(user, settings.user_id_type)


def choice_of(names: type[StrEnum]) -> click.Choice[str]:
    """A choice of an enum's values; click itself would offer its names."""
    return click.Choice([name.value for name in names])


def env_file_option(command: Callable[..., None], **attributes: Any) -> Callable[..., None]:
    """The option `--env-file`; `attributes` are passed to `click.option`."""
    return click.option(
        "--env-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File with lines CARRYOUT_NAME=value. The environment wins.",
        **attributes,
    )(command)


def load_settings(env_file: Path | None) -> Settings:
    """Raises ConfigurationError."""
    from_file = read_env_file(env_file) if env_file else {}
    return from_env(from_file | dict(os.environ))


def read_env_file(path: Path) -> dict[str, str]:
    """Raises ConfigurationError."""
    try:
        lines = read_trusted(path).decode().split("\n")
        exposed = is_readable_by_all(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"--env-file: {path} can't be read: {reason}") from None
    if exposed:
        echo(f"Warning: every account may read {path}, which may hold secrets: chmod o-r", err=True)
    return dict(line.split("=", 1) for line in lines if line.startswith(PREFIX) and "=" in line)


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Connection]:
    """A connection to Carryout's own tables. Raises ConfigurationError if their schema doesn't fit this version."""
    async with connect(settings.database_url) as connection:
        await check_schema(connection, user_id_type=settings.user_id_type, owner=settings.schema_owner)
        yield connection

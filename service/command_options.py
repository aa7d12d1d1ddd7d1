"""What the commands of `carryout` share: options, settings, and the database."""

import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from service.database import Connection, check_schema, connect
from service.settings import PREFIX, Settings, from_env

AGE = re.compile(r"(\d{1,6})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Age(click.ParamType[float]):
    """Converts to seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not (given := AGE.fullmatch(str(value))):
            self.fail("give a number and s, m, h or d, as in 24h", param, ctx)
        return float(int(given[1]) * SECONDS[given[2]])


since_option = click.option("--since", type=Age(), help="Only the last so many s, m, h or d, as in 24h.")


def choice_of(names: type[StrEnum]) -> click.Choice[str]:
    """Click itself would take an enum's names instead."""
    return click.Choice([name.value for name in names])


def env_file_option(command: Callable[..., None], **attributes: Any) -> Callable[..., None]:
    """`attributes` are further ones of click's option."""
    return click.option(
        "--env-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Settings as lines CARRYOUT_NAME=value; the environment wins.",
        **attributes,
    )(command)


def load_settings(env_file: Path | None) -> Settings:
    """Raises ConfigurationError."""
    from_file = read_env_file(env_file) if env_file else {}
    return from_env(from_file | dict(os.environ))


def read_env_file(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line.startswith(PREFIX) and "=" in line)


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Connection]:
    """One connection to Carryout's own tables. Raises ConfigurationError if they aren't as this code needs them."""
    async with connect(settings.database_url) as connection:
        await check_schema(connection, user_id_type=settings.user_id_type)
        yield connection

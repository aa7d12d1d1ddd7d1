"""What the commands of `carryout` share: where their settings come from."""

import os
from collections.abc import Callable
from pathlib import Path

import click

from service.settings import PREFIX, Settings, from_env


def env_file_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--env-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Settings as lines CARRYOUT_NAME=value; the environment wins.",
    )(command)


def load_settings(env_file: Path | None) -> Settings:
    """Raises ConfigurationError."""
    from_file = read_env_file(env_file) if env_file else {}
    return from_env(from_file | dict(os.environ))


def read_env_file(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line.startswith(PREFIX) and "=" in line)

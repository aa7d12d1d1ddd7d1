"""The `carryout` command: a group that imports a command's module only to run it or to show its help."""

from importlib import import_module
from types import MappingProxyType
from typing import Final

import click

from service.errors import ConfigurationError, ServiceError

EXIT_FAILURE: Final = 1
EXIT_CONFIGURATION: Final = 2
MODULES: Final = MappingProxyType(
    {
        "audit": "service.operators_cli",
        "check": "onboarding.commands",
        "demo": "service.processes_cli",
        "dev": "service.processes_cli",
        "export": "client.cli",
        "exports": "service.exports_cli",
        "features": "service.operators_cli",
        "init": "onboarding.commands",
        "keys": "service.operators_cli",
        "migrate": "service.processes_cli",
        "serve": "service.processes_cli",
        "token": "service.processes_cli",
        "users": "client.cli",
        "worker": "service.processes_cli",
    }
)


class LazyGroup(click.Group):
    """Its commands are the names in MODULES, each an object of its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return sorted(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (likewise)
        if cmd_name not in MODULES:
            return None
        command: click.Command = getattr(import_module(MODULES[cmd_name]), cmd_name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="carryout")
def cli() -> None:
    """Personal data exports beside a PostgreSQL application."""


def run() -> int:
    """The exit code, once what went wrong is said in one sentence. Raises KeyboardInterrupt."""
    try:
        return cli.main(standalone_mode=False) or 0
    except click.Abort:  # what click makes of Ctrl-C
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ServiceError as error:
        click.echo(f"carryout: {error.detail}", err=True)
        return EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_FAILURE

"""The `carryout` command group. It imports a command's module only to run that command or to show its help."""

import os
import sys
import traceback
from importlib import import_module
from io import StringIO
from types import MappingProxyType
from typing import Final

import click

from guard.terminal import echo, show_traceback
from service.errors import ConfigurationError, ServiceError

EXIT_FAILURE: Final = 1
EXIT_CONFIGURATION: Final = 2
COMMANDS: Final = MappingProxyType(
    {
        "audit": ("service.cli.operators", "Show the audit trail, latest event last."),
        "check": ("service.cli.onboarding", "Find undecided tables and columns of the database at DSN."),
        "demo": ("service.cli.processes", "Export a sample user's data in every supported way, with real servers."),
        "dev": ("service.cli.processes", "Run everything on this machine: embedded servers, API and worker."),
        "events": (
            "service.cli.events",
            "List the events that are posted to CARRYOUT_WEBHOOK_URL, and post them again.",
        ),
        "export": ("client.cli", "Download the data of a user, with the token in CARRYOUT_TOKEN."),
        "exports": ("service.cli.exports", "List, show and end the exports of all users."),
        "features": ("service.cli.operators", "List and switch the feature flags of the operators' endpoints."),
        "init": ("service.cli.onboarding", "Write dataset files for the application whose database is at DSN."),
        "keys": ("service.cli.operators", "Create, list and revoke API keys for the operators' endpoints."),
        "list": ("client.cli", "Download the operators' list NAME, with the API key in CARRYOUT_API_KEY."),
        "mails": ("service.cli.mails", "List the mails of exports, send them again, and preview them."),
        "migrate": (
            "service.cli.processes",
            "Migrate the database's schema, and grant its use to the role of CARRYOUT_DATABASE_URL.",
        ),
        "purge": (
            "service.cli.retention",
            "Delete the rows of exports, with their mails, and the events of the audit trail that are older.",
        ),
        "reconcile": ("service.cli.reconcile", "Compare the storage with the exports, and mend what differs."),
        "requests": (
            "client.desk",
            "Ask for exports on users' behalf, and list the requests, with the API key in CARRYOUT_API_KEY.",
        ),
        "serve": ("service.cli.processes", "Run the API."),
        "token": ("service.cli.tokens", "Create a token for a test, or say why one is refused."),
        "users": ("client.cli", "Download the list of users as CSV, with the API key in CARRYOUT_API_KEY."),
        "verify": ("client.cli", "Check the size and SHA-256 of each file in a package (ZIP) against its manifest."),
        "worker": ("service.cli.processes", "Run a worker."),
    }
)


ATTRIBUTES: Final = MappingProxyType({"list": "list_"})


class LazyGroup(click.Group):
    """A group of the commands in COMMANDS; each is an attribute of its module, by its name or that in ATTRIBUTES."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (likewise)
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), ATTRIBUTES.get(cmd_name, cmd_name))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (likewise)
        """List them without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="carryout")
def cli() -> None:
    """Personal data exports beside a PostgreSQL application."""


def run() -> int:
    """Run the command and return its exit code; print an error as one sentence. Raises KeyboardInterrupt."""
    sys.excepthook = show_traceback
    try:
        return cli.main(standalone_mode=False) or 0
    except click.Abort:  # click's exception for Ctrl-C
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        shown = StringIO()
        error.show(file=shown)
        echo(*shown.getvalue().splitlines(), err=True)
        return error.exit_code
    except OSError as error:
        if not _is_outputs(error):
            raise
        return _end_output(error)
    except ServiceError as error:
        echo(f"carryout: {error.detail}", err=True)
        return EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_FAILURE


def _is_outputs(error: OSError) -> bool:
    """Whether stdout refused what the command prints: all of it goes through click."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__") == "click.utils"


def _end_output(error: OSError) -> int:
    """A reader that has enough (`| head`) is told nothing; a full disk is an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try to write the rest at its end
    if not isinstance(error, BrokenPipeError):
        echo(f"carryout: The output can't be written: {error.strerror}", err=True)
    return EXIT_FAILURE

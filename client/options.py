"""What the client's commands share: the service, who asks, and where the document goes."""

import functools
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from yarl import URL

from client.console import Console
from client.outputs import STANDARD_OUTPUT

CREDENTIAL = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Target:
    url: URL
    path: Path
    force: bool
    console: Console
    credentials: Mapping[str, str]

    def resume_command(self, *arguments: str) -> str:
        """To be pasted, without the credential; empty where nothing can be resumed."""
        if str(self.path) == STANDARD_OUTPUT:
            return ""
        force = ("--force",) if self.force else ()
        return shlex.join(["carryout", *arguments, "--url", str(self.url), "-o", str(self.path), *force])


def target_options(name: str, variable: str, header: Callable[[str], Mapping[str, str]]) -> Callable[..., Any]:
    """Give the command a Target, whose credential is called `name` and is sent as `header` says."""
    options = (
        click.option("--url", required=True, metavar="URL", callback=_parse_url, help="The service, as https://host."),
        click.option(
            "-o",
            "--output",
            "path",
            metavar="FILE",
            required=True,
            type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
            help="Where to: FILE is there when it is complete, FILE.part until then. - is standard output.",
        ),
        click.option("--force", is_flag=True, help="Replace FILE if it is there."),
        click.option("--quiet", is_flag=True, help="Say nothing but what goes wrong."),
        click.option(f"--{name}", "text", help=f"The {name}. Better set {variable}: `ps` shows arguments to anybody."),
        click.option(
            f"--{name}-file",
            "file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help=f"File with the {name}, instead of {variable}.",
        ),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_target(*, url: URL, path: Path, force: bool, **given: Any) -> None:
            credentials = header(_read_credential(name, variable, given.pop("text"), given.pop("file")))
            command(Target(url, path, force, Console(quiet=given.pop("quiet")), credentials), **given)

        decorated: Callable[..., None] = with_target
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def _parse_url(_context: click.Context, _parameter: click.Parameter, text: str) -> URL:
    try:
        url = URL(text)
    except ValueError:
        raise click.BadParameter("is no URL") from None
    if url.scheme not in {"http", "https"} or not url.host or url.user or url.query_string or url.fragment:
        raise click.BadParameter("begins with http:// or https://, then a host and, if need be, a path")
    return url


def _read_credential(name: str, variable: str, text: str | None, file: Path | None) -> str:
    if text and file:
        raise click.UsageError(f"Give --{name} or --{name}-file, not both")
    found = (text or (file.read_text(errors="replace") if file else os.environ.get(variable, ""))).strip()
    if not CREDENTIAL.fullmatch(found):
        raise click.UsageError(f"Set {variable} to the {name}, or give --{name}-file")
    return found

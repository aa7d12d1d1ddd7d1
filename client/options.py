"""Options that the client's commands share: the service, the credential, and the output."""

import functools
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from yarl import URL

from client.console import Console
from client.outputs import STANDARD_OUTPUT
from client.words import gettext
from guard.files import read_trusted

CREDENTIAL = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Service:
    url: URL
    console: Console
    credentials: Mapping[str, str]


@dataclass(frozen=True)
class Target(Service):
    """A service, and the file that its answer goes to."""

    path: Path
    force: bool

    def resume_command(self, *arguments: str) -> str:
        """A shell command without the credential; empty if the output can't be resumed."""
        if str(self.path) == STANDARD_OUTPUT:
            return ""
        force = ("--force",) if self.force else ()
        return shlex.join(["carryout", *arguments, "--url", str(self.url), "-o", str(self.path), *force])


def service_options(name: str, variable: str, header: Callable[[str], Mapping[str, str]]) -> Callable[..., Any]:
    """Pass a Service to the command; `name` is that of its credential, `header` makes the headers that send it."""
    options = (
        click.option(
            "--url", required=True, metavar="URL", callback=_parse_url, help="URL of the service, as https://host."
        ),
        click.option("--quiet", is_flag=True, help="Print errors only."),
        click.option(f"--{name}", "text", help=f"The {name}. Prefer {variable}: `ps` shows arguments to all accounts."),
        click.option(
            f"--{name}-file",
            "file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help=f"File with the {name}, instead of {variable}.",
        ),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_service(*, url: URL, **given: Any) -> None:
            credentials = header(_read_credential(name, variable, given.pop("text"), given.pop("file")))
            command(Service(url, Console(quiet=given.pop("quiet")), credentials), **given)

        return _with_options(with_service, options)

    return decorate


def target_options(name: str, variable: str, header: Callable[[str], Mapping[str, str]]) -> Callable[..., Any]:
    """The same with a Target."""
    options = (
        click.option(
            "-o",
            "--output",
            "path",
            metavar="FILE",
            required=True,
            type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
            help="Output file. Data is in FILE.part until it is complete. - is standard output.",
        ),
        click.option("--force", is_flag=True, help="Replace FILE if it exists."),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_target(service: Service, *, path: Path, force: bool, **given: Any) -> None:
            command(Target(service.url, service.console, service.credentials, path, force), **given)

        decorated: Callable[..., None] = service_options(name, variable, header)(_with_options(with_target, options))
        return decorated

    return decorate


def _with_options(command: Callable[..., None], options: Sequence[Callable[..., Any]]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command


def _parse_url(_context: click.Context, _parameter: click.Parameter, text: str) -> URL:
    try:
        url = URL(text)
    except ValueError:
        raise click.BadParameter("is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.host or url.user or url.query_string or url.fragment:
        raise click.BadParameter("must be http:// or https://, a host and an optional path")
    return url


def _read_credential(name: str, variable: str, text: str | None, file: Path | None) -> str:
    option, file_option = f"--{name}", f"--{name}-file"
    if text and file:
        raise click.UsageError(gettext("Give %(option)s or %(other)s, not both", option=option, other=file_option))
    found = (text or (_read(file) if file else os.environ.get(variable, ""))).strip()
    if not CREDENTIAL.fullmatch(found):
        raise click.UsageError(gettext("Set %(variable)s, or give %(option)s", variable=variable, option=file_option))
    return found


def _read(file: Path) -> str:
    try:
        return read_trusted(file).decode(errors="replace")
    except OSError as error:
        sentence = gettext("%(path)s can't be read: %(reason)s", path=file, reason=error.strerror)
        raise click.UsageError(sentence) from None

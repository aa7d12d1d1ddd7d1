"""Commands that set up and run the service, or all of it on one machine."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import uvloop

from service.auth import create_token
from service.command_options import env_file_option, load_settings
from service.database import migrate as apply_migrations
from service.logs import configure_logging


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65_535), help="Port to listen on.")
@env_file_option
def serve(host: str, port: int, env_file: Path | None) -> None:
    """Run the API."""
    from service.api.server import serve as serve_api  # noqa: PLC0415 (the worker doesn't need Starlette)

    settings = load_settings(env_file)
    configure_logging(settings.log_level)
    _run_on_uvloop(serve_api(settings, host=host, port=port))


@click.command()
@env_file_option
def worker(env_file: Path | None) -> None:
    """Run a worker, which makes queued exports, sends the mails and repairs."""
    from worker.main import work  # noqa: PLC0415 (the API doesn't need the worker's half of arq)

    settings = load_settings(env_file)
    configure_logging(settings.log_level)
    _run_on_uvloop(work(settings))


@click.command()
@env_file_option
def migrate(env_file: Path | None) -> None:
    """Bring the database's schema up to date."""
    settings = load_settings(env_file)
    applied = asyncio.run(apply_migrations(settings.database_url, user_id_type=settings.user_id_type))
    click.echo("\n".join(f"applied {name}" for name in applied) or "nothing to apply")


@click.command()
@click.argument("user_id")
@click.option(
    "--ttl",
    default=3_600,
    show_default=True,
    type=click.IntRange(1, 315_360_000),
    help="Seconds the token is good for.",
)
@env_file_option
def token(user_id: str, ttl: int, env_file: Path | None) -> None:
    """Print a JWT for USER_ID, signed with CARRYOUT_JWT_SECRET."""
    click.echo(create_token(load_settings(env_file), user_id, ttl))


@click.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65_535), help="Port of the API.")
@click.option(
    "--data-dir",
    default=".carryout",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the embedded servers keep their data.",
)
def dev(port: int, data_dir: Path) -> None:
    """Run everything on this machine: embedded servers, API and worker."""
    from devstack.dev import run_dev  # noqa: PLC0415 (not installed in production)

    asyncio.run(run_dev(port, data_dir))


@click.command()
@click.option(
    "--data-dir",
    default=".carryout-demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the demo keeps its data and the files it downloads.",
)
def demo(data_dir: Path) -> None:
    """Export a sample user's data in every way there is, against real servers."""
    from devstack.demo import run_demo  # noqa: PLC0415 (likewise)

    asyncio.run(run_demo(data_dir))


def _run_on_uvloop(work: Coroutine[Any, Any, None]) -> None:
    """A stream takes a fifth less CPU than on asyncio's own loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)

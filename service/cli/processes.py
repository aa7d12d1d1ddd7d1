"""Commands that set up and run the service, and that run all of it on one machine."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import uvloop

from guard.terminal import echo
from service.backends.database import MIGRATION_URL, grant_serving_role
from service.backends.database import migrate as apply_migrations
from service.cli.options import env_file_option, load_settings
from service.settings import Settings
from service.telemetry.logs import configure_logging


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
    """Run a worker. It makes queued exports, sends mails and repairs interrupted work."""
    from worker.main import work  # noqa: PLC0415 (the API doesn't need the worker's half of arq)

    settings = load_settings(env_file)
    configure_logging(settings.log_level)
    _run_on_uvloop(work(settings))


@click.command()
@env_file_option
def migrate(env_file: Path | None) -> None:
    """Migrate the database's schema, and grant its use to the role of CARRYOUT_DATABASE_URL."""
    applied = asyncio.run(_migrate(load_settings(env_file)))
    echo(*([f"applied {name}" for name in applied] or ["nothing to apply"]))


async def _migrate(settings: Settings) -> list[str]:
    url, apart = settings.migration_database_url, settings.migration_database_url != settings.database_url
    applied = await apply_migrations(
        url,
        user_id_type=settings.user_id_type,
        owner=settings.schema_owner,
        name=MIGRATION_URL if apart else "CARRYOUT_DATABASE_URL",
    )
    if apart:
        await grant_serving_role(url, settings.database_url)
    return applied


@click.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65_535), help="Port of the API.")
@click.option(
    "--data-dir",
    default=".carryout",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for the data of the embedded servers.",
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
    help="Directory for the demo's data and its downloaded files.",
)
def demo(data_dir: Path) -> None:
    """Export a sample user's data in every supported way, with real servers."""
    from devstack.demo import run_demo  # noqa: PLC0415 (likewise)

    asyncio.run(run_demo(data_dir))


def _run_on_uvloop(work: Coroutine[Any, Any, None]) -> None:
    """A stream takes a fifth less CPU than on asyncio's own loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)

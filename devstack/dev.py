"""`carryout dev`: the whole service on one machine."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from devstack.ports import ask, is_port_free
from devstack.process import ChildProcess, Command
from devstack.sample import ADA, grant_reader, load_sample
from devstack.stack import Stack, open_stack
from guard.files import replace_file
from guard.terminal import echo
from service.access.api_keys import KeyRepository, Scope
from service.access.tokens import create_token
from service.backends.database import connect
from service.errors import ConfigurationError, InvalidValueError
from service.settings import PREFIX, Settings, from_env

Restart = Callable[[], Awaitable[None]]

# -P: without it, `-m` imports modules from the working directory first, where another account may have put some.
CARRYOUT: Final[Command] = [sys.executable, "-P", "-m", "service.cli.main"]
TOKEN_TTL_SECONDS: Final = 24 * 3_600
KEY_NAME: Final = "dev"
FIRST_BACKOFF_SECONDS: Final = 0.5
LONGEST_BACKOFF_SECONDS: Final = 10.0
DATASETS: Final = f"{PREFIX}DATASETS_DIR"
SOURCE: Final = f"{PREFIX}SOURCE_DATABASE_URL"


async def run_dev(port: int, data_dir: Path) -> None:
    """Run until Ctrl-C or SIGTERM. Raises ConfigurationError if something can't be started."""
    started = time.monotonic()
    with suppress(asyncio.CancelledError):  # the normal end
        async with (
            open_stack(data_dir, os.environ) as stack,
            _kept_running(*_restarts(stack)),
            open_service(stack, port) as settings,
        ):
            key = await _renew_key(settings) if stack.postgres else None
            echo(*_welcome(stack, settings, port, key, time.monotonic() - started))
            await asyncio.Event().wait()


def _restarts(stack: Stack) -> list[tuple[ChildProcess, Restart]]:
    """The function that restarts each embedded server. The mail sink is part of this process."""
    servers = (stack.postgres, stack.redis, stack.object_store)
    return [(server.process, server.start) for server in servers if server is not None]


@asynccontextmanager
async def open_service(stack: Stack, port: int) -> AsyncIterator[Settings]:
    """Start the API, ready on 127.0.0.1, and a worker, and restart them when they die; load the sample application.

    The file `env` in the data folder has their settings before they start. Raises ConfigurationError if the API
    doesn't become ready.
    """
    environ = {"CARRYOUT_PUBLIC_URL": f"http://127.0.0.1:{port}"} | stack.environ
    settings = from_env(environ)
    run_dir = stack.data_dir / "run"
    api, worker = ChildProcess("api", run_dir), ChildProcess("worker", run_dir)
    if not is_port_free(port):
        raise ConfigurationError(f"Port {port} is in use; choose another one with --port")
    await ChildProcess("migrate", run_dir).run([*CARRYOUT, "migrate"], dict(os.environ) | environ | stack.migration)
    environ |= await _load_sample(stack, settings)
    replace_file(stack.data_dir / "env", "".join(f"{name}={text}\n" for name, text in environ.items()).encode())
    child_environ = dict(os.environ) | environ
    serve: Command = [*CARRYOUT, "serve", "--host", "127.0.0.1", "--port", str(port)]
    work: Command = [*CARRYOUT, "worker"]
    try:
        await worker.spawn(work, child_environ)
        await api.start(serve, child_environ, answers=lambda: _is_ready(port))
        async with _kept_running(
            (api, partial(api.spawn, serve, child_environ)), (worker, partial(worker.spawn, work, child_environ))
        ):
            yield from_env(environ)
    finally:
        await asyncio.gather(api.stop(), worker.stop())


async def _load_sample(stack: Stack, settings: Settings) -> dict[str, str]:
    """Load the sample, unless a setting names another source. Returns the reader's setting, if the stack made one."""
    if settings.source_database_url != settings.database_url:
        return {}
    await load_sample(stack.admin_url)
    if stack.postgres is None:
        return {}
    if DATASETS in stack.environ:  # custom datasets read other tables, and need other grants
        return {SOURCE: stack.admin_url}
    return {SOURCE: await grant_reader(stack.admin_url, stack.reader_password)}


@asynccontextmanager
async def _kept_running(*children: tuple[ChildProcess, Restart]) -> AsyncIterator[None]:
    keepers = [asyncio.create_task(_keep_running(child, restart)) for child, restart in children]
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


async def _is_ready(port: int) -> bool:
    return (await ask(port, b"GET /readyz HTTP/1.0\r\n\r\n")).split()[1:2] == [b"200"]


async def _keep_running(child: ChildProcess, restart: Restart) -> None:
    backoff_seconds = FIRST_BACKOFF_SECONDS
    while True:
        began = time.monotonic()
        status = await child.wait()
        if time.monotonic() - began > LONGEST_BACKOFF_SECONDS:
            backoff_seconds = FIRST_BACKOFF_SECONDS
        echo(f"{child.name} ended with status {status}, see {child.log_path}; restarting it")
        await asyncio.sleep(backoff_seconds)
        backoff_seconds = min(2 * backoff_seconds, LONGEST_BACKOFF_SECONDS)
        with suppress(ConfigurationError):  # the log has the reason; the loop retries
            await restart()


async def _renew_key(settings: Settings) -> str:
    """Create an operators' key and revoke that of the last start, because only its hash is stored."""
    async with connect(settings.database_url) as connection:
        with suppress(InvalidValueError):
            await KeyRepository().revoke(connection, KEY_NAME)
        _, text = await KeyRepository().create(connection, name=KEY_NAME, scopes=tuple(Scope), expires_in_days=None)
    return text


def _welcome(stack: Stack, settings: Settings, port: int, key: str | None, seconds: float) -> list[str]:
    url = f"http://127.0.0.1:{port}"
    lines = [
        f"Carryout is ready after {seconds:.1f} s; Ctrl-C stops it.",
        f"  API       {url}",
        f"  settings  {stack.data_dir / 'env'}",
        f"  logs      {stack.data_dir / 'run'}/*.log",
    ]
    if stack.mail_sink is not None:
        lines.append(f"  mails     {stack.mail_dir}/*.eml")
    if stack.object_store is not None:
        lines.append(f"  files     {stack.data_dir / 'objects' / settings.s3_bucket}")
    # Only then can this process sign a token, and only then does the sample's user exist.
    if settings.jwt_secret and settings.user_id_type == "uuid":
        token = create_token(settings, str(ADA), TOKEN_TTL_SECONDS)
        lines += ["", "As a user of the sample application, in a browser:", "", f"{url}/#token={token}"]
        lines += ["", "or to paste:", "", *_examples(token, url)]
    if key:
        lines += ["", "As an operator:", "", *_operator_examples(key, url)]
    return lines


def _examples(token: str, url: str) -> list[str]:
    credentials = '-H "Authorization: Bearer $TOKEN"'
    call = f"curl -sS {credentials}"
    post = f"{call} -H 'Content-Type: application/json'"
    return [
        f"TOKEN={token}",
        "# a small export is made at once",
        f"""{post} -d '{{"format":"csv"}}' {url}/api/export""",
        "# a queued one is announced by a mail",
        f"""{post} -H 'Prefer: respond-async' -d '{{"format":"json"}}' {url}/api/export""",
        "# the same document, straight from the database",
        f"curl -fsS {credentials} -o my-data.csv '{url}/api/export/stream?format=csv'",
        "# all exports so far",
        f"{call} {url}/api/export",
    ]


def _operator_examples(key: str, url: str) -> list[str]:
    call = 'curl -fsS -H "X-API-Key: $KEY"'
    return [
        f"KEY={key}",
        "# all users, streamed",
        f"{call} -o users_full_export.csv '{url}/api/v1/users/export-full?format=csv'",
    ]

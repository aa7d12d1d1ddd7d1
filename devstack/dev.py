"""The whole service on one machine: what `carryout dev` runs."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from devstack.files import write_private
from devstack.ports import ask, is_port_free
from devstack.process import ChildProcess, Command
from devstack.sample import ADA, grant_reader, load_sample
from devstack.stack import Stack, open_stack
from service import operating
from service.auth import create_token
from service.database import connect
from service.errors import ConfigurationError, InvalidValueError
from service.keys import Scope
from service.settings import PREFIX, Settings, from_env

Restart = Callable[[], Awaitable[None]]

CARRYOUT: Final[Command] = [sys.executable, "-m", "service.cli"]
TOKEN_TTL_SECONDS: Final = 24 * 3_600
KEY_NAME: Final = "dev"
FIRST_BACKOFF_SECONDS: Final = 0.5
LONGEST_BACKOFF_SECONDS: Final = 10.0
DATASETS: Final = f"{PREFIX}DATASETS_DIR"
SOURCE: Final = f"{PREFIX}SOURCE_DATABASE_URL"


async def run_dev(port: int, data_dir: Path) -> None:
    """Run until Ctrl-C or SIGTERM. Raises ConfigurationError if something can't be started."""
    started = time.monotonic()
    with suppress(asyncio.CancelledError):  # that is how it's meant to end
        async with (
            open_stack(data_dir, os.environ) as stack,
            _kept_running(*_restarts(stack)),
            open_service(stack, port) as settings,
        ):
            key = await _renew_key(settings) if stack.postgres else None
            print(_welcome(stack, settings, port, key, time.monotonic() - started), flush=True)
            await asyncio.Event().wait()


def _restarts(stack: Stack) -> list[tuple[ChildProcess, Restart]]:
    """What brings each embedded server back; the mail sink is part of this process."""
    servers = (stack.postgres, stack.redis, stack.object_store)
    return [(server.process, server.start) for server in servers if server is not None]


@asynccontextmanager
async def open_service(stack: Stack, port: int) -> AsyncIterator[Settings]:
    """The API, ready on 127.0.0.1, and a worker, both started again when they die; the sample application is loaded.

    Their settings are in `env` in the data folder before they start. Raises ConfigurationError if the API doesn't
    get ready.
    """
    environ = {"CARRYOUT_PUBLIC_URL": f"http://127.0.0.1:{port}"} | stack.environ
    settings = from_env(environ)
    run_dir = stack.data_dir / "run"
    api, worker = ChildProcess("api", run_dir), ChildProcess("worker", run_dir)
    if not is_port_free(port):
        raise ConfigurationError(f"Port {port} is taken; choose another with --port")
    await ChildProcess("migrate", run_dir).run([*CARRYOUT, "migrate"], dict(os.environ) | environ)
    environ |= await _load_sample(stack, settings)
    write_private(stack.data_dir / "env", "".join(f"{name}={text}\n" for name, text in environ.items()).encode())
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
    """Unless the application's data is elsewhere. Gives the setting to read it by, where that is ours to make."""
    if settings.source_database_url != settings.database_url:
        return {}
    await load_sample(settings.database_url)
    if stack.postgres is None or DATASETS in stack.environ:  # other datasets read other tables, and need other grants
        return {}
    return {SOURCE: await grant_reader(settings.database_url, stack.reader_password)}


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
        print(f"{child.name} ended with status {status}, see {child.log_path}; it is started again", flush=True)
        await asyncio.sleep(backoff_seconds)
        backoff_seconds = min(2 * backoff_seconds, LONGEST_BACKOFF_SECONDS)
        with suppress(ConfigurationError):  # its reason is in the log; the child has ended again
            await restart()


async def _renew_key(settings: Settings) -> str:
    """An operators' key; the one of the last start ends, as only its hash is known."""
    async with connect(settings.database_url) as connection:
        with suppress(InvalidValueError):
            await operating.revoke_key(connection, KEY_NAME)
        _, text = await operating.create_key(connection, name=KEY_NAME, scopes=tuple(Scope), expires_in_days=None)
    return text


def _welcome(stack: Stack, settings: Settings, port: int, key: str | None, seconds: float) -> str:
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
    # Only then is the token ours to make, and the sample's user there.
    if settings.jwt_secret and settings.user_id_type == "uuid":
        token = create_token(settings, str(ADA), TOKEN_TTL_SECONDS)
        lines += ["", "As a user of the sample application, in a browser:", "", f"{url}/#token={token}"]
        lines += ["", "or to paste:", "", *_examples(token, url)]
    if key:
        lines += ["", "As an operator:", "", *_operator_examples(key, url)]
    return "\n".join(lines)


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

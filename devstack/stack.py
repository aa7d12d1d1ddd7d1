"""All servers that Carryout needs, with their data in one folder."""

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from devstack.files import own_folder
from devstack.mailsink import MailSink
from devstack.process import stop_leftovers
from devstack.roles import OWNER, SERVICE, make_roles, with_role
from devstack.servers import ObjectStore, Postgres, Redis, Server
from guard.files import replace_file
from service.backends.database import MIGRATION_URL
from service.settings import PREFIX

SECRET_NAMES: Final = (
    "postgres_password",
    "owner_password",
    "service_password",
    "reader_password",
    "redis_password",
    "s3_access_key_id",
    "s3_secret_access_key",
    "link_secret",
    "jwt_secret",
)
JWT_KEYS: Final = frozenset({"CARRYOUT_JWT_SECRET", "CARRYOUT_JWT_PUBLIC_KEY_FILE", "CARRYOUT_JWT_JWKS_URL"})


@dataclass(frozen=True)
class Stack:
    """A server is None if a setting of the caller replaces it.

    `environ` has every CARRYOUT_ setting that a process needs, except `CARRYOUT_PUBLIC_URL`; `migration` has the
    additional ones of `carryout migrate`. `admin_url` is the database's URL for its superuser. `reader_password` is the
    password of the role that may read the sample application.
    """

    data_dir: Path
    mail_dir: Path
    environ: dict[str, str]
    migration: dict[str, str]
    admin_url: str
    reader_password: str
    postgres: Postgres | None
    redis: Redis | None
    object_store: ObjectStore | None
    mail_sink: MailSink | None

    @property
    def role_urls(self) -> tuple[str, ...]:
        return self.environ["CARRYOUT_DATABASE_URL"], *self.migration.values()


@asynccontextmanager
async def open_stack(data_dir: Path, environ: Mapping[str, str]) -> AsyncIterator[Stack]:
    """Run the servers that `environ` doesn't replace. Meanwhile SIGTERM cancels the current task.

    Only for an event loop in the main thread. Raises ConfigurationError if a server can't be started or another
    process uses `data_dir`.
    """
    given = {name: text for name, text in environ.items() if name.startswith(PREFIX) and text.strip()}
    with own_folder(data_dir), _cancelled_by_sigterm():
        run_dir = data_dir / "run"
        run_dir.mkdir(mode=0o700, exist_ok=True)
        await stop_leftovers(run_dir)  # first, because their ports must be free for reuse
        stack = _plan(data_dir, run_dir, given)
        planned: list[Server | None] = [stack.postgres, stack.redis, stack.object_store, stack.mail_sink]
        servers = [server for server in planned if server is not None]
        try:
            await _start(servers)
            if stack.postgres is not None:
                await make_roles(stack.admin_url, stack.role_urls)
            yield stack
        finally:
            await asyncio.gather(*(server.stop() for server in servers))


def _plan(data_dir: Path, run_dir: Path, given: dict[str, str]) -> Stack:
    mail_dir = data_dir / "mail"
    own = _load_secrets(data_dir / "secrets.json")
    settings = _default_settings(own, given) | given
    migration: dict[str, str] = {}
    postgres = redis = object_store = mail_sink = None
    if "CARRYOUT_DATABASE_URL" not in given:
        postgres = Postgres(data_dir / "postgres", run_dir, password=own["postgres_password"])
        settings["CARRYOUT_DATABASE_URL"] = with_role(postgres.url, SERVICE, own["service_password"])
        settings["CARRYOUT_SCHEMA_OWNER"] = OWNER
        migration = {MIGRATION_URL: with_role(postgres.url, OWNER, own["owner_password"])}
    if "CARRYOUT_REDIS_URL" not in given:
        redis = Redis(run_dir, password=own["redis_password"])
        settings["CARRYOUT_REDIS_URL"] = redis.url
    if "CARRYOUT_S3_ENDPOINT_URL" not in given:
        object_store = ObjectStore(
            data_dir / "objects",
            run_dir,
            bucket=settings["CARRYOUT_S3_BUCKET"],
            access_key_id=settings["CARRYOUT_S3_ACCESS_KEY_ID"],
            secret_access_key=settings["CARRYOUT_S3_SECRET_ACCESS_KEY"],
        )
        settings["CARRYOUT_S3_ENDPOINT_URL"] = object_store.url
    if "CARRYOUT_SMTP_URL" not in given:
        mail_sink = MailSink(mail_dir, run_dir)
        settings["CARRYOUT_SMTP_URL"] = mail_sink.url
    return Stack(
        data_dir=data_dir,
        mail_dir=mail_dir,
        environ=settings,
        migration=migration,
        admin_url=postgres.url if postgres else settings["CARRYOUT_DATABASE_URL"],
        reader_password=own["reader_password"],
        postgres=postgres,
        redis=redis,
        object_store=object_store,
        mail_sink=mail_sink,
    )


def _default_settings(own: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    settings = {
        "CARRYOUT_S3_BUCKET": "carryout",
        "CARRYOUT_MAIL_FROM": "carryout@example.com",
        "CARRYOUT_LINK_SECRETS": own["link_secret"],
    }
    if JWT_KEYS.isdisjoint(given):
        settings["CARRYOUT_JWT_SECRET"] = own["jwt_secret"]
    if "CARRYOUT_S3_ENDPOINT_URL" not in given:
        settings["CARRYOUT_S3_ACCESS_KEY_ID"] = own["s3_access_key_id"]
        settings["CARRYOUT_S3_SECRET_ACCESS_KEY"] = own["s3_secret_access_key"]
    return settings


def _load_secrets(path: Path) -> dict[str, str]:
    """Random secrets; missing ones are generated and stored."""
    kept: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
    if missing := [name for name in SECRET_NAMES if name not in kept]:
        kept |= {name: secrets.token_hex(32) for name in missing}
        replace_file(path, json.dumps(kept, indent=2).encode())
    return kept


async def _start(servers: Sequence[Server]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.start())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


@contextmanager
def _cancelled_by_sigterm() -> Iterator[None]:
    """Cancel the task on SIGTERM: by default the signal ends the process without stopping its children.

    SIGINT isn't used, because background processes of a shell ignore it.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if task is None or task.done():  # in a test, the task that set up the fixture has ended
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(task.cancel)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

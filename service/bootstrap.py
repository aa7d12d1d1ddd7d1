"""The one composition root: everything a process needs, opened in order and closed in reverse."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

from service.audit import AuditLog
from service.auth import JwtVerifier, open_jwt_verifier
from service.causes import DENIED, NO_BUCKET, NO_BUCKET_NAME, NO_CREDENTIALS, describe_cause
from service.database import Pool, check_schema, connect, open_pool
from service.datasets import Dataset, list_exposed_columns, load_datasets, load_user_lists
from service.errors import ConfigurationError, UnavailableError
from service.exports import ExportRepository
from service.flags import Flags, open_flags
from service.jobs import JobQueue, open_queue
from service.links import LinkSigner
from service.mailer import Mailer
from service.metrics import Metrics
from service.notifications import NotificationRepository
from service.settings import Settings
from service.storage import ObjectStorage, open_storage
from service.tracing import Tracer
from service.turns import Turns
from service.unreachable import NO_ANSWER

S3_KEY_SETTINGS = "CARRYOUT_S3_ACCESS_KEY_ID, CARRYOUT_S3_SECRET_ACCESS_KEY"
START_CHECKS = 5
S3_SETTINGS = {
    NO_BUCKET: "CARRYOUT_S3_BUCKET",
    NO_BUCKET_NAME: "CARRYOUT_S3_BUCKET",
    DENIED: S3_KEY_SETTINGS,
    NO_CREDENTIALS: S3_KEY_SETTINGS,
}

logger = structlog.get_logger()


@dataclass(frozen=True)
class Resources:
    """`database` is for bookkeeping; `source` and `streams` read the application's data, for files and for clients.

    None waits for another: clients that read slowly hold up nobody but other streams. `turns` are users'.
    """

    settings: Settings
    database: Pool
    source: Pool
    streams: Pool
    datasets: tuple[Dataset, ...]
    user_lists: dict[str, Dataset]
    flags: Flags
    storage: ObjectStorage
    queue: JobQueue
    verifier: JwtVerifier
    links: LinkSigner
    mailer: Mailer
    exports: ExportRepository
    notifications: NotificationRepository
    audit: AuditLog
    metrics: Metrics
    tracer: Tracer
    turns: Turns


class _Source(NamedTuple):
    """What the application's database is found to be at the start."""

    datasets: tuple[Dataset, ...]
    user_lists: dict[str, Dataset]
    exposed_columns: list[str]


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Raises ConfigurationError, one sentence that names what is wrong, if a server or a dataset is amiss."""
    mailer = Mailer(settings.smtp_url, settings.mail_from)
    async with connect(settings.database_url) as connection:
        await check_schema(connection, user_id_type=settings.user_id_type)
    source = await _read_source(settings)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        resources = Resources(
            settings=settings,
            tracer=await enter(_open_tracer(settings)),
            datasets=source.datasets,
            user_lists=source.user_lists,
            flags=await enter(open_flags(settings.database_url, settings.features)),
            database=await enter(
                open_pool(settings.database_url, size=settings.pool_size, application_name="carryout")
            ),
            source=await enter(
                open_pool(settings.source_database_url, size=settings.pool_size, application_name="carryout-source")
            ),
            streams=await enter(
                open_pool(
                    settings.source_database_url,
                    size=settings.stream_pool_size,
                    application_name="carryout-streams",
                )
            ),
            storage=await enter(open_storage(settings)),
            queue=await enter(open_queue(settings.redis_url)),
            verifier=await enter(open_jwt_verifier(settings)),
            links=LinkSigner(settings.link_secrets),
            mailer=mailer,
            exports=ExportRepository(lease_seconds=settings.lease_seconds),
            notifications=NotificationRepository(mailer.domain),
            audit=AuditLog(),
            metrics=Metrics(),
            turns=Turns(),
        )
        resources.metrics.watch_pool("database", resources.database)
        resources.metrics.watch_pool("source", resources.source)
        resources.metrics.watch_pool("streams", resources.streams)
        resources.metrics.exposed_columns.set(len(source.exposed_columns))
        await _require_servers(resources)
        if source.exposed_columns:
            await logger.awarning("source_role_can_read_forbidden_columns", columns=source.exposed_columns)
        yield resources


async def _read_source(settings: Settings) -> _Source:
    to_operators = [name for name in settings.forbidden_columns if name not in settings.operator_columns]
    directory = Path(settings.datasets_dir)
    async with connect(settings.source_database_url, name="CARRYOUT_SOURCE_DATABASE_URL") as connection:
        datasets = await load_datasets(
            connection, directory, user_id_type=settings.user_id_type, forbidden=settings.forbidden_columns
        )
        user_lists = await load_user_lists(connection, directory, forbidden=to_operators)
        exposed_columns = await list_exposed_columns(
            connection,
            [*datasets, *user_lists.values()],
            forbidden=to_operators if user_lists else settings.forbidden_columns,
        )
    return _Source(datasets, user_lists, exposed_columns)


@asynccontextmanager
async def _open_tracer(settings: Settings) -> AsyncIterator[Tracer]:
    if not settings.otlp_endpoint:
        yield Tracer()
        return
    try:
        from service.otel import open_otel_tracer  # noqa: PLC0415 (an optional extra)
    except ModuleNotFoundError:
        raise ConfigurationError("CARRYOUT_OTLP_ENDPOINT needs OpenTelemetry: pip install carryout[otel]") from None
    async with open_otel_tracer(settings.otlp_endpoint) as tracer:
        yield tracer


async def _require_servers(resources: Resources) -> None:
    try:
        await _patiently(resources.queue.check)
    except UnavailableError as error:
        raise ConfigurationError(f"Redis {describe_cause(error)} (CARRYOUT_REDIS_URL)") from error
    try:
        await _patiently(resources.storage.check)
    except UnavailableError as error:
        cause, bucket = describe_cause(error), resources.settings.s3_bucket
        names = S3_SETTINGS.get(cause, "CARRYOUT_S3_ENDPOINT_URL")
        raise ConfigurationError(f"S3 {cause}, asked for {bucket} ({names})") from error


async def _patiently(check: Callable[[], Awaitable[None]]) -> None:
    """Checks are short, for probes. A server, or a machine, that is only busy has more time while nobody waits."""
    for _ in range(START_CHECKS - 1):
        try:
            await check()
        except UnavailableError as error:
            if describe_cause(error) != NO_ANSWER:
                raise
        else:
            return
    await check()

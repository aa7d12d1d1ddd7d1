"""The composition root: opens a process's resources in order and closes them in reverse."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import structlog

from service.access.flags import Flags, open_flags
from service.access.links import LinkSigner
from service.access.tokens import JwtVerifier, accepts_any_purpose, open_jwt_verifier
from service.backends.attachments import AttachmentStore, open_attachment_stores
from service.backends.database import (
    HOLD_EVERYTHING,
    Autocommit,
    Connection,
    Pool,
    acquire,
    check_schema,
    connect,
    may_change_trail,
    open_pool,
)
from service.backends.failures import (
    DENIED,
    NO_ANSWER,
    NO_BUCKET,
    NO_BUCKET_NAME,
    NO_CREDENTIALS,
    NO_LISTENER,
    NO_PRIMARY,
    NO_ROLE,
    VIRTUAL_ONLY,
    WRONG_KEYS,
    WRONG_REGION,
    describe_cause,
)
from service.backends.queue import JobQueue, open_queue
from service.backends.smtp import Mailer
from service.backends.storage import ObjectStorage, open_storage
from service.bookkeeping.audit import AuditLog
from service.bookkeeping.events import EventRepository
from service.bookkeeping.exports import ExportRepository, find_mark
from service.bookkeeping.mails import NotificationRepository
from service.branding.brand import Brand, load_brand
from service.documents.datasets import (
    Dataset,
    list_exposed_columns,
    load_datasets,
    load_lists,
    load_user_lists,
    load_user_search,
)
from service.documents.schema import Schema, load_schema
from service.errors import ConfigurationError, UnavailableError
from service.mutex import KeyedMutex
from service.settings import Settings
from service.telemetry.clocks import Clock
from service.telemetry.logs import SINK
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracer

S3_KEY_SETTINGS = "CARRYOUT_S3_ACCESS_KEY_ID, CARRYOUT_S3_SECRET_ACCESS_KEY"
START_CHECKS = 5
FAILOVER_CHECKS = 15
START_PAUSE_SECONDS = 1.0
S3_SETTINGS = {
    NO_BUCKET: "CARRYOUT_S3_BUCKET",
    NO_BUCKET_NAME: "CARRYOUT_S3_BUCKET",
    DENIED: "CARRYOUT_S3_BUCKET, CARRYOUT_S3_PREFIX, and the rights of CARRYOUT_S3_ACCESS_KEY_ID",
    WRONG_KEYS: S3_KEY_SETTINGS,
    WRONG_REGION: "CARRYOUT_S3_REGION",
    VIRTUAL_ONLY: "CARRYOUT_S3_ADDRESSING_STYLE",
    NO_CREDENTIALS: S3_KEY_SETTINGS,
    NO_ROLE: "AWS_ROLE_ARN",
}

logger = structlog.get_logger()


@dataclass(frozen=True)
class Resources:
    """`database` is for bookkeeping, in `encoding`; the other pools read the application's data: `source` for files,
    `streams` for users' live streams, `lists` for operators' lists.

    Each pool has its own connections, so slow readers of streams delay only other streams. `user_mutex` is keyed by
    user id. `mark` is in the keys of this installation's objects.
    """

    settings: Settings
    brand: Brand
    database: Pool
    encoding: str
    source: Pool
    streams: Pool
    lists: Pool
    datasets: tuple[Dataset, ...]
    schema: Schema
    user_lists: dict[str, Dataset]
    user_search: Dataset | None
    operator_lists: dict[str, Dataset]
    flags: Flags
    storage: ObjectStorage
    file_stores: dict[str, AttachmentStore]
    queue: JobQueue
    verifier: JwtVerifier
    links: LinkSigner
    mailer: Mailer
    exports: ExportRepository
    notifications: NotificationRepository
    events: EventRepository
    audit: AuditLog
    mark: str
    metrics: Metrics
    clock: Clock
    tracer: Tracer
    user_mutex: KeyedMutex

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """A connection of the bookkeeping pool. Raises UnavailableError on a timeout."""
        return acquire(self.database, timeout_seconds=self.settings.acquire_timeout_seconds)

    @cached_property
    def autocommit(self) -> Autocommit:
        """Runs each statement in a transaction of its own, on the bookkeeping pool."""
        timeout_seconds = self.settings.acquire_timeout_seconds
        return Autocommit(self.database, timeout_seconds=timeout_seconds, encoding=self.encoding)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction on the bookkeeping pool. Raises UnavailableError on a timeout."""
        async with self.connection() as connection, connection.transaction():
            yield connection


class _Source(NamedTuple):
    """Facts about the application's database, read at start-up."""

    datasets: tuple[Dataset, ...]
    user_lists: dict[str, Dataset]
    user_search: Dataset | None
    operator_lists: dict[str, Dataset]
    exposed_columns: list[str]
    encoding: str


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Raises ConfigurationError, with one sentence that names the fault, if a server or a dataset is unusable."""
    brand = load_brand(settings)
    mailer = Mailer(
        settings.smtp_url,
        settings.mail_from,
        ehlo_name=settings.smtp_ehlo_name,
        token_file=settings.smtp_oauth_token_file,
        ca_file=settings.ca_file,
    )
    async with connect(settings.database_url) as connection:
        await check_schema(connection, user_id_type=settings.user_id_type, owner=settings.schema_owner)
        trail_unguarded = await may_change_trail(connection)
        encoding = connection.get_settings().server_encoding
        mark = await find_mark(connection)
    source = await _read_source(settings)
    _check_encodings(settings, encoding, source.encoding)
    _check_stores(settings, source.datasets)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        resources = Resources(
            settings=settings,
            brand=brand,
            tracer=await enter(_open_tracer(settings)),
            datasets=source.datasets,
            schema=load_schema(source.datasets),
            user_lists=source.user_lists,
            operator_lists=source.operator_lists,
            user_search=source.user_search,
            flags=await enter(open_flags(settings.database_url, settings.features, source.operator_lists)),
            database=await enter(
                open_pool(settings.database_url, size=settings.pool_size, application_name="carryout")
            ),
            encoding=encoding,
            source=await enter(_open_source_pool(settings, "source", size=settings.pool_size)),
            streams=await enter(_open_source_pool(settings, "streams", size=settings.stream_pool_size)),
            lists=await enter(_open_source_pool(settings, "lists", size=settings.list_pool_size)),
            storage=await enter(open_storage(settings)),
            file_stores=await enter(open_attachment_stores(settings)),
            queue=await enter(open_queue(settings.redis_url)),
            verifier=await enter(open_jwt_verifier(settings)),
            links=LinkSigner(settings.link_secrets),
            mailer=mailer,
            exports=ExportRepository(lease_seconds=settings.lease_seconds),
            notifications=NotificationRepository(mailer.domain),
            events=EventRepository(),
            audit=AuditLog(),
            mark=mark,
            metrics=metrics,
            clock=Clock(metrics),
            user_mutex=KeyedMutex(),
        )
        SINK.on_loss(resources.metrics.log_lines_lost.inc)
        for name in ("database", "source", "streams", "lists"):
            resources.metrics.watch_pool(name, getattr(resources, name))
        resources.metrics.exposed_columns.set(len(source.exposed_columns))
        resources.metrics.trail_unguarded.set(trail_unguarded)
        await _require_servers(resources)
        await _warn_of_stores(resources)
        if source.exposed_columns:
            await logger.awarning("source_role_can_read_forbidden_columns", columns=source.exposed_columns)
        if accepts_any_purpose(settings):
            await logger.awarning("tokens_of_any_purpose_accepted")
        if trail_unguarded:
            await logger.awarning("serving_role_can_change_audit_trail")
        yield resources


def _open_source_pool(settings: Settings, name: str, *, size: int) -> AbstractAsyncContextManager[Pool]:
    return open_pool(
        settings.source_database_url,
        size=size,
        application_name=f"carryout-{name}",
        own_search_path=True,
        max_replica_lag_seconds=settings.max_replica_lag_seconds or math.inf,
    )


async def _read_source(settings: Settings) -> _Source:
    to_operators = settings.forbidden_to_operators
    directory = Path(settings.datasets_dir)
    if settings.lists_dir and not settings.lists_folder.is_dir():
        raise ConfigurationError(f"CARRYOUT_LISTS_DIR: {settings.lists_dir} is not a folder")
    name = "CARRYOUT_SOURCE_DATABASE_URL"
    async with connect(settings.source_database_url, name=name, own_search_path=True) as connection:
        encoding = connection.get_settings().server_encoding
        datasets = await load_datasets(
            connection, directory, user_id_type=settings.user_id_type, forbidden=settings.forbidden_columns
        )
        user_lists = await load_user_lists(connection, directory, forbidden=to_operators)
        operator_lists = await load_lists(connection, settings.lists_folder, forbidden=to_operators)
        user_search = await load_user_search(connection, directory, forbidden=settings.forbidden_columns)
        lists = [*user_lists.values(), *operator_lists.values()]
        exposed_columns = await list_exposed_columns(
            connection,
            [*datasets, *lists, *([user_search] if user_search else [])],
            forbidden=to_operators if lists else settings.forbidden_columns,
        )
    return _Source(datasets, user_lists, user_search, operator_lists, exposed_columns, encoding)


def _check_encodings(settings: Settings, own: str, sources: str) -> None:
    """A user whose id the bookkeeping can't hold would count as unknown."""
    if settings.user_id_type == "text" and own not in {sources, *HOLD_EVERYTHING}:
        raise ConfigurationError(
            f"The encoding {own} can't hold the ids of a database in {sources}: make another with ENCODING 'UTF8' "
            "(CARRYOUT_DATABASE_URL, CARRYOUT_SOURCE_DATABASE_URL)"
        )


def _check_stores(settings: Settings, datasets: Sequence[Dataset]) -> None:
    known = {store.name for store in settings.file_stores}
    for dataset in datasets:
        for file in dataset.facts.files:
            if file.store not in known:
                raise ConfigurationError(
                    f"Dataset {dataset.name}.sql: its line `-- file:` names the store {file.store}, which "
                    "CARRYOUT_FILE_STORES lacks"
                )


@asynccontextmanager
async def _open_tracer(settings: Settings) -> AsyncIterator[Tracer]:
    if not settings.otlp_endpoint:
        yield Tracer()
        return
    try:
        from service.telemetry.otel import open_otel_tracer  # noqa: PLC0415 (an optional extra)
    except ModuleNotFoundError:
        raise ConfigurationError("CARRYOUT_OTLP_ENDPOINT needs OpenTelemetry: pip install carryout[otel]") from None
    async with open_otel_tracer(settings.otlp_endpoint, settings.ca_file) as tracer:
        yield tracer


async def _require_servers(resources: Resources) -> None:
    try:
        await _check_with_retries(resources.queue.check, failing_over="+sentinel:" in resources.settings.redis_url)
    except UnavailableError as error:
        cause = describe_cause(error)
        # One that doesn't speak TLS waits for the end of a command.
        hint = (
            " (does it speak TLS?)" if cause == NO_ANSWER and resources.settings.redis_url.startswith("rediss") else ""
        )
        raise ConfigurationError(f"Redis {cause}{hint} (CARRYOUT_REDIS_URL)") from error
    try:
        await _check_with_retries(resources.storage.check)
    except UnavailableError as error:
        cause, bucket = describe_cause(error), resources.settings.s3_bucket
        names = S3_SETTINGS.get(cause.partition(":")[0], "CARRYOUT_S3_ENDPOINT_URL")
        raise ConfigurationError(f"S3 {cause}, asked for {bucket} ({names})") from error


async def _warn_of_stores(resources: Resources) -> None:
    """Packages without their files are better than no service, so a store that can't be read stops no start."""
    stores = list(resources.file_stores.values())
    failures = await asyncio.gather(*(store.find_failure() for store in stores))
    for store, failure in zip(stores, failures, strict=True):
        if failure:
            await logger.awarning("file_store_unusable", store=store.name, cause=failure)


async def _check_with_retries(check: Callable[[], Awaitable[None]], *, failing_over: bool = False) -> None:
    """Retry what passes: the checks' time limits suit probes, but a busy server may take longer.

    `failing_over`: Sentinels may name a primary that is lost, or none, until they have chosen another.
    """
    for _ in range((FAILOVER_CHECKS if failing_over else START_CHECKS) - 1):
        try:
            await check()
        except UnavailableError as error:
            cause = describe_cause(error)
            if cause not in {NO_ANSWER, NO_PRIMARY} and not (failing_over and cause == NO_LISTENER):
                raise
            await asyncio.sleep(START_PAUSE_SECONDS)
        else:
            return
    await check()

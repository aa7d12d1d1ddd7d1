"""What Prometheus may know of a process. No label takes values from outside: its series would never end."""

import asyncio
import itertools
import math
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from service.database import QUERIES, Pool, acquire
from service.errors import UnavailableError

BACKLOG_TIMEOUT_SECONDS = 2.0
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# Alerts wait for the first of these: a counter that begins with 1 has not increased.
EXPORT_OUTCOMES = tuple(itertools.product(("completed", "failed", "cancelled", "retried"), ("csv", "json")))
MAIL_OUTCOMES = ("sent", "pending", "failed", "ambiguous", "skipped")
WORKER_LOOPS = ("queue", "repair", "expiry", "sweep", "mails")
EXPORT_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3_600)


class Metrics:
    """One process's numbers, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._registry: Final = registry
        self.requests: Final = Histogram(
            "carryout_http_request_duration_seconds",
            "Requests, from their head to the last byte of the answer",
            ["method", "route", "status"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.streams_open: Final = Gauge(
            "carryout_streams_open", "Streams being sent; kind is user or list", ["kind"], registry=registry
        )
        self.streams: Final = Counter(
            "carryout_streams", "Streams that ended", ["kind", "format", "outcome"], registry=registry
        )
        self.streamed_records: Final = Counter(
            "carryout_streamed_records", "Records in streams", ["kind", "format"], registry=registry
        )
        self.streamed_bytes: Final = Counter(
            "carryout_streamed_bytes", "Bytes in streams", ["kind", "format"], registry=registry
        )
        self.exports: Final = Counter(
            "carryout_exports",
            "Exports completed, failed or cancelled; retried counts attempts that are to be made again",
            ["outcome", "format"],
            registry=registry,
        )
        self.export_duration: Final = Histogram(
            "carryout_export_duration_seconds",
            "Completed exports, from the request to the file; queued ones are made by a worker",
            ["format", "queued"],
            buckets=EXPORT_BUCKETS,
            registry=registry,
        )
        self.mails: Final = Counter(
            "carryout_mails",
            "Attempts to send a mail, by the state they left it in; pending is to be tried again",
            ["outcome"],
            registry=registry,
        )
        self.repairs: Final = Counter(
            "carryout_repairs",
            "What the repair put right: exports requeued, lost and expired, orphaned objects and uploads removed",
            ["step"],
            registry=registry,
        )
        self.swept: Final = Gauge(
            "carryout_sweep_last_success_timestamp_seconds",
            "When this process last looked through all of the storage; 0: never",
            registry=registry,
        )
        self.loop_failures: Final = Counter(
            "carryout_worker_loop_failures",
            "How often a loop of the worker ended by an error that nobody foresaw; it begins again a second later",
            ["loop"],
            registry=registry,
        )
        self._queue_depth: Final = Gauge(
            "carryout_queue_exports", "Pending exports of all processes; NaN without PostgreSQL", registry=registry
        )
        self._queue_age: Final = Gauge(
            "carryout_queue_oldest_age_seconds", "Age of the oldest of them; 0 if there is none", registry=registry
        )
        self._mails_age: Final = Gauge(
            "carryout_mails_oldest_age_seconds",
            "Age of the oldest mail not sent yet; 0 if there is none",
            registry=registry,
        )
        self._files_overdue: Final = Gauge(
            "carryout_files_overdue_seconds",
            "How long ago the oldest file that is still stored should have been deleted; 0 if there is none",
            registry=registry,
        )
        self.exposed_columns: Final = Gauge(
            "carryout_source_exposed_columns",
            "Forbidden columns that the role of CARRYOUT_SOURCE_DATABASE_URL could read; no dataset does",
            registry=registry,
        )
        self._connections: Final = Gauge(
            "carryout_pool_connections", "Open connections; state is idle or used", ["pool", "state"], registry=registry
        )
        self._max_connections: Final = Gauge(
            "carryout_pool_max_connections", "Connections a pool may open", ["pool"], registry=registry
        )
        for outcome, format_ in EXPORT_OUTCOMES:
            self.exports.labels(outcome, format_)
        for outcome in MAIL_OUTCOMES:
            self.mails.labels(outcome)
        for loop in WORKER_LOOPS:
            self.loop_failures.labels(loop)

    def watch_pool(self, name: str, pool: Pool) -> None:
        self._max_connections.labels(name).set(pool.get_max_size())
        self._connections.labels(name, "idle").set_function(pool.get_idle_size)
        self._connections.labels(name, "used").set_function(lambda: pool.get_size() - pool.get_idle_size())

    async def render(self, database: Pool, accept: str) -> tuple[bytes, str]:
        """All numbers in the format that the Accept header asks for, and their Content-Type."""
        await self._measure_backlog(database)
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # how it takes a version that isn't made of numbers
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    async def _measure_backlog(self, database: Pool) -> None:
        backlog = dict.fromkeys(("queue_exports", "queue_age", "mails_age", "files_overdue"), math.nan)
        try:
            async with (
                asyncio.timeout(BACKLOG_TIMEOUT_SECONDS),
                acquire(database, timeout_seconds=BACKLOG_TIMEOUT_SECONDS) as connection,
            ):
                backlog = dict(await connection.fetchrow(QUERIES["measure_backlog"]))  # type: ignore[arg-type] # one row
        except (UnavailableError, TimeoutError):
            pass  # the process's own numbers matter most just then
        self._queue_depth.set(backlog["queue_exports"])
        self._queue_age.set(backlog["queue_age"])
        self._mails_age.set(backlog["mails_age"])
        self._files_overdue.set(backlog["files_overdue"])

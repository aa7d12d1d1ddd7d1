"""Prometheus metrics of a process. No label takes values from requests, which would make unbounded series."""

import asyncio
import datetime as dt
import itertools
import math
from importlib.metadata import version
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from service.backends.attachments import Fault
from service.backends.database import QUERIES, Pool, acquire
from service.errors import TokenFault, UnavailableError
from service.formats import Format

VERSION = version("carryout")
BACKLOG_TIMEOUT_SECONDS = 2.0
BACKLOG = (
    *("queue_exports", "queue_age", "mails_age", "mails_refused", "events_age", "receiver_gone"),
    *("files_overdue", "files_missing", "unknown_objects", "requests_overdue", "requests_due_soon"),
)
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# Each counter is exported as 0 from the start: `increase()` misses the first event of a counter that begins with 1.
EXPORT_OUTCOMES = tuple(itertools.product(("completed", "failed", "cancelled", "retried"), Format))
MAIL_OUTCOMES = ("sent", "pending", "failed", "ambiguous", "skipped")
EVENT_OUTCOMES = ("sent", "pending", "failed")
WorkerLoop = Literal["queue", "repair", "expiry", "erasure", "sweep", "mails", "events", "retention"]
EXPORT_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3_600)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._registry: Final = registry
        self.requests: Final = Histogram(
            "carryout_http_request_duration_seconds",
            "Duration of requests, from the request's head to the last byte of the response",
            ["method", "route", "status"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.token_refusals: Final = Counter(
            "carryout_token_refusals",
            "Users' tokens that were refused, by cause; the answer doesn't say it",
            ["cause"],
            registry=registry,
        )
        self.streams_open: Final = Gauge(
            "carryout_streams_open", "Streams that are being sent; kind is user or list", ["kind"], registry=registry
        )
        self.streams: Final = Counter(
            "carryout_streams", "Streams that ended", ["kind", "format", "outcome"], registry=registry
        )
        self.streamed_records: Final = Counter(
            "carryout_streamed_records", "Records sent in streams", ["kind", "format"], registry=registry
        )
        self.streamed_bytes: Final = Counter(
            "carryout_streamed_bytes", "Bytes sent in streams", ["kind", "format"], registry=registry
        )
        self.exports: Final = Counter(
            "carryout_exports",
            "Exports that completed, failed or were cancelled; retried counts attempts that will be repeated",
            ["outcome", "format"],
            registry=registry,
        )
        self._export_duration: Final = Histogram(
            "carryout_export_duration_seconds",
            "Duration of completed exports, from the request to the stored file; a worker makes queued exports",
            ["format", "queued"],
            buckets=EXPORT_BUCKETS,
            registry=registry,
        )
        self.attachments: Final = Counter(
            "carryout_attachments",
            "Attachments of packages that were made: included, or the reason why they are missing",
            ["outcome"],
            registry=registry,
        )
        self.mails: Final = Counter(
            "carryout_mails",
            "Attempts to send a mail, by the resulting state; a pending mail will be retried",
            ["outcome"],
            registry=registry,
        )
        self.events: Final = Counter(
            "carryout_events",
            "Attempts to post an event to CARRYOUT_WEBHOOK_URL, by the resulting state; a pending one will be retried",
            ["outcome"],
            registry=registry,
        )
        self.repairs: Final = Counter(
            "carryout_repairs",
            "Repairs by step: exports requeued, lost, expired or of erased users; orphaned or unknown objects removed; "
            "rows purged",
            ["step"],
            registry=registry,
        )
        self.swept: Final = Gauge(
            "carryout_sweep_last_success_timestamp_seconds",
            "Time of this process's last complete sweep of the storage; 0 if there was none",
            registry=registry,
        )
        self.loop_failures: Final = Counter(
            "carryout_worker_loop_failures",
            "Unexpected errors that ended a loop of the worker; the loop restarts a second later",
            ["loop"],
            registry=registry,
        )
        self._queue_depth: Final = Gauge(
            "carryout_queue_exports", "Pending exports of all processes; NaN without PostgreSQL", registry=registry
        )
        self._queue_age: Final = Gauge(
            "carryout_queue_oldest_age_seconds",
            "Age of the oldest pending export; 0 if there is none",
            registry=registry,
        )
        self._mails_age: Final = Gauge(
            "carryout_mails_oldest_age_seconds",
            "Age of the oldest unsent mail; 0 if there is none",
            registry=registry,
        )
        self._mails_refused: Final = Gauge(
            "carryout_mails_refused",
            "Unsent mails that the mail server refuses because of Carryout's login, sender, name, address or quota",
            registry=registry,
        )
        self._events_age: Final = Gauge(
            "carryout_events_oldest_age_seconds",
            "Age of the oldest event that wasn't posted; 0 if there is none, or no receiver",
            registry=registry,
        )
        self._receiver_gone: Final = Gauge(
            "carryout_webhook_receiver_gone",
            "1 if the receiver of events answered 410: events wait until an operator resends, else 0",
            registry=registry,
        )
        self._files_overdue: Final = Gauge(
            "carryout_files_overdue_seconds",
            "Seconds since the deletion of the most overdue file was due; 0 if no file is overdue",
            registry=registry,
        )
        self._files_missing: Final = Gauge(
            "carryout_files_missing",
            "Files of working links that the storage doesn't have, or that are in an earlier bucket",
            registry=registry,
        )
        self._unknown_objects: Final = Gauge(
            "carryout_unknown_objects",
            "Objects of this installation that no export knows, at the last sweep",
            registry=registry,
        )
        self._requests_overdue: Final = Gauge(
            "carryout_requests_overdue",
            "Requests of the desk that weren't answered within a month; not those of erased users",
            registry=registry,
        )
        self._requests_due_soon: Final = Gauge(
            "carryout_requests_due_soon",
            "Requests of the desk that aren't answered, and are due within seven days",
            registry=registry,
        )
        self.exposed_columns: Final = Gauge(
            "carryout_source_exposed_columns",
            "Forbidden columns that the role of CARRYOUT_SOURCE_DATABASE_URL may read; no dataset reads them",
            registry=registry,
        )
        self.trail_unguarded: Final = Gauge(
            "carryout_audit_trail_unguarded",
            "1 if the role of CARRYOUT_DATABASE_URL could disable the audit trail's guard, else 0",
            registry=registry,
        )
        self.server_reachable: Final = Gauge(
            "carryout_server_reachable",
            "1 if the server answered this process's last check, else 0",
            ["server"],
            registry=registry,
        )
        self.clock_skew: Final = Gauge(
            "carryout_clock_skew_seconds",
            "How far this host's clock is ahead of PostgreSQL's; negative if it is behind",
            registry=registry,
        )
        self.build: Final = Gauge("carryout_build", "1; the version is a label", ["version"], registry=registry)
        self.build.labels(VERSION).set(1)
        self.log_lines_lost: Final = Counter(
            "carryout_log_lines_lost", "Log lines that couldn't be written to stdout", registry=registry
        )
        self._connections: Final = Gauge(
            "carryout_pool_connections", "Open connections; state is idle or used", ["pool", "state"], registry=registry
        )
        self._max_connections: Final = Gauge(
            "carryout_pool_max_connections", "Connections a pool may open", ["pool"], registry=registry
        )
        for fault in TokenFault:
            self.token_refusals.labels(fault)
        for outcome, format_ in EXPORT_OUTCOMES:
            self.exports.labels(outcome, format_)
        for outcome in ("included", *Fault):
            self.attachments.labels(outcome)
        for outcome in MAIL_OUTCOMES:
            self.mails.labels(outcome)
        for outcome in EVENT_OUTCOMES:
            self.events.labels(outcome)
        for loop in get_args(WorkerLoop):
            self.loop_failures.labels(loop)

    def watch_pool(self, name: str, pool: Pool) -> None:
        self._max_connections.labels(name).set(pool.get_max_size())
        self._connections.labels(name, "idle").set_function(pool.get_idle_size)
        self._connections.labels(name, "used").set_function(lambda: pool.get_size() - pool.get_idle_size())

    def count_completed(self, format_: Format, duration: dt.timedelta, *, queued: bool) -> None:
        self.exports.labels("completed", format_).inc()
        self._export_duration.labels(format_, str(queued).lower()).observe(duration.total_seconds())

    async def render(self, database: Pool, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that the Accept header prefers, and the Content-Type of that format."""
        await self._measure_backlog(database)
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # raised for a version parameter that is not numeric
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    async def _measure_backlog(self, database: Pool) -> None:
        backlog = dict.fromkeys(BACKLOG, math.nan)
        try:
            async with (
                asyncio.timeout(BACKLOG_TIMEOUT_SECONDS),
                acquire(database, timeout_seconds=BACKLOG_TIMEOUT_SECONDS) as connection,
            ):
                backlog = dict(await connection.fetchrow(QUERIES["measure_backlog"]))  # type: ignore[arg-type] # one row
        except (UnavailableError, TimeoutError):
            pass  # in an outage the process's own metrics matter most
        self._queue_depth.set(backlog["queue_exports"])
        self._queue_age.set(backlog["queue_age"])
        self._mails_age.set(backlog["mails_age"])
        self._mails_refused.set(backlog["mails_refused"])
        self._events_age.set(backlog["events_age"])
        self._receiver_gone.set(backlog["receiver_gone"])
        self._files_overdue.set(backlog["files_overdue"])
        self._files_missing.set(backlog["files_missing"])
        self._unknown_objects.set(backlog["unknown_objects"])
        self._requests_overdue.set(backlog["requests_overdue"])
        self._requests_due_soon.set(backlog["requests_due_soon"])

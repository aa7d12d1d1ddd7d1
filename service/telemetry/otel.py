"""Traces by OpenTelemetry, from the extra `otel`. This module is imported only if CARRYOUT_OTLP_ENDPOINT is set."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from service.telemetry.tracing import TRACEPARENT, Kind, Span, Tracer

EXPORT_SECONDS = 5.0
FLUSH_SECONDS = 3.0
FLUSHING = "carryout-otel-flush"
KINDS: Mapping[Kind, trace.SpanKind] = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "consumer": trace.SpanKind.CONSUMER,
}


class OtelTracer(Tracer):
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def span(self, name: str, kind: Kind = "internal") -> AbstractContextManager[Span]:
        return self._record(name, kind, None)

    def entry(self, name: str, kind: Kind, traceparent: str | None) -> AbstractContextManager[Span]:
        return self._record(name, kind, _context_of(traceparent))

    @contextmanager
    def _record(self, name: str, kind: Kind, context: Context | None) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name, context, KINDS[kind], record_exception=False, set_status_on_exception=False
        ) as recorded:
            span = _RecordedSpan(recorded)
            try:
                yield span
            except Exception as error:
                span.fail(f"{type(error).__module__}.{type(error).__qualname__}")
                raise


@asynccontextmanager
async def open_otel_tracer(endpoint: str, ca_file: str = "") -> AsyncIterator[OtelTracer]:
    """A tracer whose thread sends spans to the collector at `endpoint`, and drops them while the collector is down."""
    exporter = OTLPSpanExporter(
        f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS, certificate_file=ca_file or None
    )
    provider = TracerProvider(resource=Resource.create({"service.name": "carryout"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield OtelTracer(provider.get_tracer("carryout"))
    finally:
        await _flush(provider, exporter)


async def _flush(provider: TracerProvider, exporter: OTLPSpanExporter) -> None:
    """Send the remaining spans within FLUSH_SECONDS; the SDK itself would try for half a minute."""
    # A daemon thread: the process can exit without waiting for it.
    flushing = threading.Thread(target=provider.shutdown, name=FLUSHING, daemon=True)
    flushing.start()
    await asyncio.to_thread(flushing.join, FLUSH_SECONDS)
    if flushing.is_alive():
        exporter.shutdown()  # type: ignore[no-untyped-call] # the library has no types here


class _RecordedSpan(Span):
    def __init__(self, recorded: trace.Span) -> None:
        self._recorded = recorded
        context = recorded.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def rename(self, name: str) -> None:
        self._recorded.update_name(name)

    def set(self, attributes: Mapping[str, str | int]) -> None:
        self._recorded.set_attributes(attributes)

    def fail(self, error_type: str) -> None:
        self._recorded.set_attribute("error.type", error_type)
        self._recorded.set_status(trace.StatusCode.ERROR)


def _context_of(traceparent: str | None) -> Context:
    """A context apart from the current one: a pipelined request inherits that of the request before it."""
    match = TRACEPARENT.fullmatch(traceparent or "")
    if match is None:
        return Context()
    parent = trace.SpanContext(
        int(match["trace_id"], 16),
        int(match["span_id"], 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(match["flags"], 16)),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())

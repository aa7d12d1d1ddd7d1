"""A real OTLP/HTTP collector that remembers what it was sent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.certificates import server_context


class SentSpan:
    def __init__(self, sent: trace_pb2.Span) -> None:
        self.name = sent.name
        self.kind = trace_pb2.Span.SpanKind.Name(sent.kind).removeprefix("SPAN_KIND_").lower()
        self.trace_id = sent.trace_id.hex()
        self.id = sent.span_id.hex()
        self.parent_id = sent.parent_span_id.hex()
        self.failed = sent.status.code == trace_pb2.Status.STATUS_CODE_ERROR
        self.message = sent.status.message
        self.events = len(sent.events)
        self.attributes = {pair.key: _value(pair.value) for pair in sent.attributes}


class Collector:
    def __init__(self) -> None:
        self.endpoint = ""
        self.text = ""
        """All that came, with every name and value in it."""
        self.spans: list[SentSpan] = []

    async def take(self, request: web.Request) -> web.Response:
        content = ExportTraceServiceRequest.FromString(await request.read())
        self.text += str(content)
        for resource in content.resource_spans:
            self.spans += [SentSpan(span) for scope in resource.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def find(self, name: str, trace_id: str) -> list[SentSpan]:
        return [span for span in self.spans if (span.name, span.trace_id) == (name, trace_id)]

    def get(self, name: str, trace_id: str) -> SentSpan:
        (span,) = self.find(name, trace_id)
        return span


def _value(value: AnyValue) -> Any:
    return getattr(value, value.WhichOneof("value") or "string_value")


@asynccontextmanager
async def open_collector(certificate: Path | None = None) -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.add_routes([web.post("/v1/traces", collector.take)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    tls = server_context(certificate) if certificate else None
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    collector.endpoint = f"https://localhost:{port}" if certificate else f"http://{host}:{port}"
    try:
        yield collector
    finally:
        await runner.cleanup()

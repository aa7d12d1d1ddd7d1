"""Traces: the steps of a request, of its export and of its mails.

A span holds numbers, templates and class names. It holds no path, query, user id, address or exception message: each
may be personal data.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["internal", "server", "client", "consumer"]
# https://www.w3.org/TR/trace-context/#traceparent-header: version ff and ids of zeros are invalid
TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace_id>(?!0{32})[0-9a-f]{32})-(?P<span_id>(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
)


class Span:
    """A span that is not recorded; its `traceparent` is None."""

    traceparent: str | None = None

    def rename(self, name: str) -> None:
        """Set a name that wasn't known when the span began."""

    def set(self, attributes: Mapping[str, str | int]) -> None:
        """Add attributes, named by OpenTelemetry's semantic conventions or `carryout.…`."""

    def fail(self, error_type: str) -> None:
        """Mark the span as failed. An exception raised inside the span does so too, with its class as `error_type`."""


class Tracer:
    """Records nothing. Used without CARRYOUT_OTLP_ENDPOINT."""

    _span: Final = nullcontext(Span())

    def span(self, _name: str, _kind: Kind = "internal") -> AbstractContextManager[Span]:
        """A child of the current span."""
        return self._span

    def entry(self, _name: str, _kind: Kind, _traceparent: str | None) -> AbstractContextManager[Span]:
        """A child of the span that `traceparent` names, also across processes. Without a valid one, a new trace."""
        return self._span


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace's id; None if `traceparent` isn't valid."""
    match = TRACEPARENT.fullmatch(traceparent or "")
    return match["trace_id"] if match else None

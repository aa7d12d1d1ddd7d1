"""Traces: the steps of a request, of its export and of its mails.

A span holds numbers, templates and the names of classes. No path, no query, no user's id, no address and no exception's
text: each may be personal.
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
    """A span that nobody records; its `traceparent` is None."""

    traceparent: str | None = None

    def rename(self, name: str) -> None:
        """For a name that isn't known at the beginning."""

    def set(self, attributes: Mapping[str, str | int]) -> None:
        """Add facts, by the names of OpenTelemetry's semantic conventions, or `carryout.…`."""

    def fail(self, error_type: str) -> None:
        """Mark it as failed; what is raised inside of it does the same, by its class."""


class Tracer:
    """Records nothing, and is what there is without CARRYOUT_OTLP_ENDPOINT."""

    _span: Final = nullcontext(Span())

    def span(self, _name: str, _kind: Kind = "internal") -> AbstractContextManager[Span]:
        """A part of the span that is current."""
        return self._span

    def entry(self, _name: str, _kind: Kind, _traceparent: str | None) -> AbstractContextManager[Span]:
        """A child of the span that `traceparent` names, in whichever process; without a valid one, a new trace."""
        return self._span


def trace_id_of(traceparent: str | None) -> str | None:
    """The id of the trace; None without a valid traceparent."""
    match = TRACEPARENT.fullmatch(traceparent or "")
    return match["trace_id"] if match else None

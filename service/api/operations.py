"""Types for the documentation of an endpoint. The OpenAPI document is generated from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
from starlette.exceptions import HTTPException

from service.errors import ServiceError

Json: TypeAlias = dict[str, Any]
Refusal: TypeAlias = ServiceError | HTTPException


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The meaning of a status. `content` maps media types to schema and example; a Struct instance is JSON."""

    description: str
    example: msgspec.Struct | None = None
    content: Mapping[str, Json] = field(default_factory=dict)
    headers: Sequence[str] = ()
    """Names of `Reference.headers`."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Operations that take this response's `job_id`, with descriptions."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """The documentation of a route's method. `refusals` are examples of the errors it answers with."""

    tag: str
    summary: str
    description: str = ""
    security: Sequence[str] = ()
    """Names of `Reference.security`; each alone suffices."""
    query: type[msgspec.Struct] | None = None
    headers: Sequence[str] = ()
    """Names of `Reference.parameters`."""
    body: msgspec.Struct | None = None
    answers: Mapping[int, Answer]
    refusals: Sequence[Refusal] = ()
    head: "Operation | None" = None
    """The operation for HEAD, if it differs from GET without its body."""

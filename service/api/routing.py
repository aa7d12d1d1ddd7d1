"""Routes: whole paths, each with its documentation."""

import re
from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from service.api.operations import Operation


class ExactRoute(Route):
    """A route that matches whole paths. Without an `operation` it stays out of the OpenAPI document.

    Starlette's patterns end with `$`, which also matches before a trailing newline: `/metrics%0a` would get past a
    proxy that blocks `/metrics`.
    """

    def __init__(
        self, path: str, endpoint: Callable[..., Any], operation: Operation | None = None, *, method: str = "GET"
    ) -> None:
        super().__init__(path, endpoint, methods=[method], include_in_schema=operation is not None)
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")
        self.operation = operation

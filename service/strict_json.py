"""JSON as RFC 8259 has it, with unique names: two readers must not see two different things in one text."""

import json
from typing import Any, NoReturn


class DuplicateNameError(ValueError):
    """An object has the member `name` twice."""

    def __init__(self, name: str) -> None:
        super().__init__("Duplicate name")
        self.name = name


def parse_strictly(text: bytes) -> Any:
    """Raises ValueError, of which DuplicateNameError is one, and RecursionError for deep nesting."""
    return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise DuplicateNameError(name)
        members[name] = value
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)

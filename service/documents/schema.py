"""The JSON Schema (2020-12) of the JSON document, derived from the datasets' columns."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from service.documents.datasets import Column, Dataset

Json: TypeAlias = dict[str, Any]

INTEGER: Json = {"type": ["integer", "null"]}
BIG_INTEGER: Json = {"type": ["integer", "string", "null"], "description": "A string only with `big=text`"}
NUMBER: Json = {"type": ["number", "string", "null"], "description": "A string for NaN and infinities"}
# Infinities, years before 1 and after 9999 stay as PostgreSQL writes them.
NOT_RFC_3339 = r"infinity$|BC$|^\d{5,}-"
INSTANT: Json = {
    "type": ["string", "null"],
    "anyOf": [{"format": "date-time"}, {"pattern": NOT_RFC_3339}],
    "description": "RFC 3339 in UTC",
}
LOCAL_TIME: Json = {
    "type": ["string", "null"],
    "description": "RFC 3339 without an offset: the column has no time zone",
}
VALUES: Mapping[str, Json] = {
    "json": {},
    "jsonb": {},
    "bool": {"type": ["boolean", "null"]},
    "int2": INTEGER,
    "int4": INTEGER,
    "int8": BIG_INTEGER,
    "float4": NUMBER,
    "float8": NUMBER,
    "numeric": NUMBER,
    "timestamptz": INSTANT,
    "timestamp": LOCAL_TIME,
}
FILTER: Json = {
    "type": "object",
    "description": "Only if a part of the data was selected. A null selects all.",
    "properties": {
        "sections": {"type": ["array", "null"], "items": {"type": "string"}},
        "from": {"type": ["string", "null"], "description": "The first moment selected."},
        "to": {"type": ["string", "null"], "description": "The first moment left out."},
        "since": {"type": ["string", "null"], "description": "The earlier export that `from` was derived from."},
        "unfiltered": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Sections without a time column, which are whole.",
        },
    },
}


class Schema(NamedTuple):
    """The schema as bytes, and their SHA-256."""

    body: bytes
    digest: bytes


def load_schema(datasets: Sequence[Dataset]) -> Schema:
    body = msgspec.json.format(msgspec.json.encode(create_schema(datasets)), indent=2) + b"\n"
    return Schema(body, hashlib.sha256(body).digest())


def create_schema(datasets: Sequence[Dataset]) -> Json:
    """Sections beside the user are optional, because users may ask for some of them."""
    profile, *others = datasets
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Carryout's JSON document",
        "type": "object",
        "properties": {
            "exported_at": {"type": "string", "format": "date-time", "description": "The moment the data is of."},
            "filter": FILTER,
            "user": _row(profile),
            **{dataset.name: {"type": "array", **_words(dataset), "items": _row(dataset)} for dataset in others},
        },
        "required": ["exported_at", "user"],
    }


def create_list_schema(dataset: Dataset) -> Json:
    """The schema of an operators' list."""
    return {
        "type": "object",
        "properties": {
            "exported_at": {"type": "string", "format": "date-time", "description": "The moment the data is of."},
            "filter": {"type": "object", "description": "The parameters that selected a part of the rows, if any."},
            dataset.name: {"type": "array", **_words(dataset), "items": _row(dataset)},
        },
        "required": ["exported_at", dataset.name],
    }


def list_breaking_changes(old: Json, new: Json) -> list[str]:
    """Sentences about each change that breaks importers of documents by the schema `old`."""
    before, after = _columns(old), _columns(new)
    changes = []
    for (section, column), value in before.items():
        if all(section != name for name, _ in after):
            changes.append(f"Section {section} is gone")
        elif (section, column) not in after:
            changes.append(f"Column {column} of {section} is gone")
        elif not _types(after[section, column]) <= _types(value):
            changes.append(f"Column {column} of {section} has other values: {_shown(after[section, column])}")
    return list(dict.fromkeys(changes))


def _columns(schema: Json) -> dict[tuple[str, str], Json]:
    """The columns' schemas by section and name."""
    sections = {name: value.get("items", value) for name, value in schema["properties"].items()}
    return {
        (section, column): value
        for section, row in sections.items()
        if section not in {"exported_at", "filter"}
        for column, value in row["properties"].items()
    }


def _types(value: Json) -> set[str]:
    """A value that may be anything has a type that no other has."""
    types = {"any"} if "type" not in value else set(value["type"])
    return types if "format" not in str(value.get("anyOf")) else types - {"string"} | {"instant"}


def _shown(value: Json) -> str:
    return ", ".join(sorted(_types(value) - {"null"}))


def _row(dataset: Dataset) -> Json:
    columns = {column.name: _described(dataset, column) for column in dataset.columns}
    return {"type": "object", "properties": columns, "required": list(columns)}


def _words(dataset: Dataset) -> Json:
    return {name: text for name, text in (("title", dataset.facts.title), ("description", dataset.facts.about)) if text}


def _described(dataset: Dataset, column: Column) -> Json:
    value = _value(column)
    about = [text for text in (dataset.facts.columns.get(column.name), value.get("description")) if text]
    return value | ({"description": ". ".join(about)} if about else {})


def _value(column: Column) -> Json:
    """As `row_to_json` writes the type. Any column may be NULL."""
    if column.cast_name is None and column.category not in {"E", "R"}:
        return {}  # a type of the application's may have a cast to json
    if column.type_name.startswith("_"):
        return {"type": ["array", "null"]}
    return VALUES.get(column.type_name, {"type": ["string", "null"]})

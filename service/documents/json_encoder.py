"""JSON, for programs: one object, with an array for each section; and the objects that NDJSON has, too."""

from collections.abc import Sequence

import msgspec

from guard.text import quote_identifier
from service.documents.datasets import Column, Dataset
from service.documents.encoding import DEFAULTS, EncoderOptions, iso_timestamp, may_have_casts, text_of
from service.formats import Format

MAX_SAFE_INTEGER = 2**53 - 1  # RFC 8259, 6
SCALAR_CATEGORIES = frozenset("ER")
VERBATIM_TYPES = frozenset({"json", "_json"})


class JsonEncoder:
    """`{"exported_at":…,"user":{…},"activity":[…],…}` with one row a line (RFC 8259).

    A column that is NULL and one that holds JSON's null look the same.
    """

    media_type = Format.JSON.media_type
    in_thread = False

    def __init__(self, options: EncoderOptions = DEFAULTS) -> None:
        self._options = options
        self._names: list[bytes] = []

    def row_text(self, dataset: Dataset) -> str:
        return json_objects(dataset, big_as_text=self._options.big_as_text)

    def begin(self, datasets: Sequence[Dataset], exported_at: str, profile: bytes) -> bytes:
        return self._head(datasets, exported_at) + b',\n"user":' + profile

    def begin_list(self, dataset: Dataset, exported_at: str) -> bytes:
        return self._head([dataset], exported_at)

    def rows(self, position: int, rows: Sequence[bytes], *, first: bool) -> bytes:
        opening = self._opening(position) if first else b",\n"
        return opening + b",\n".join(rows)

    def added_bytes(self, position: int) -> int:  # noqa: ARG002 (of every dataset)
        return len(b",\n")

    def end_dataset(self, position: int, *, empty: bool) -> bytes:
        return self._opening(position) + b"]" if empty else b"]"

    def end(self) -> bytes:
        return b"}\n"

    def _head(self, datasets: Sequence[Dataset], exported_at: str) -> bytes:
        self._names = [dataset.name.encode() for dataset in datasets]
        head = b'{"exported_at":' + msgspec.json.encode(exported_at)
        if self._options.filter:
            head += b',\n"filter":' + msgspec.json.encode(self._options.filter)
        return head

    def _opening(self, position: int) -> bytes:
        return b',\n"' + self._names[position] + b'":['


def json_objects(dataset: Dataset, *, big_as_text: bool) -> str:
    value = _json_safe_value if big_as_text else _json_value
    members = ", ".join(f"{value(column)} AS {quote_identifier(column.name)}" for column in dataset.columns)
    objects = f'SELECT {members} FROM ({dataset.sql}) AS "row"'  # noqa: S608 (checked at start-up)
    line = 'pg_catalog.row_to_json("object")::pg_catalog.text'
    if any(map(_may_have_line_breaks, dataset.columns)):
        line = f"pg_catalog.replace(pg_catalog.replace({line}, E'\\r', ' '), E'\\n', ' ')"
    return f'SELECT {line} FROM ({objects}) AS "object"'  # noqa: S608 (likewise)


def _may_have_line_breaks(column: Column) -> bool:
    """Whether a value can hold JSON as the application wrote it: jsonb doesn't keep white space, the type json does.

    Between tokens all of it is the same; within a string JSON has no line breaks, only their escapes.
    """
    return column.type_name in VERBATIM_TYPES or column.cast_name is None


def _json_value(column: Column) -> str:
    if may_have_casts(column) and column.category in SCALAR_CATEGORIES:
        return text_of(column)  # it would look for a cast to json
    value = f'"row".{quote_identifier(column.name)}'
    return iso_timestamp(value) if column.type_name in {"timestamptz", "timestamp"} else value


def _json_safe_value(column: Column) -> str:
    """The same, with integers as text that a double doesn't hold exactly: many JSON readers round numbers to one."""
    value = _json_value(column)
    if column.cast_name is None or column.type_name not in {"int8", "numeric"}:
        return value
    number = f"{value}::pg_catalog.numeric"
    big = f"pg_catalog.abs({number}) OPERATOR(pg_catalog.>) {MAX_SAFE_INTEGER}"
    text = f"pg_catalog.to_json({value}::pg_catalog.text)"
    return f"CASE WHEN {big} THEN {text} ELSE pg_catalog.to_json({value}) END"

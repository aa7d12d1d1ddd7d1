"""The shape of an encoder: rows become text inside PostgreSQL, and only whole lines travel and are joined here.

PostgreSQL's own output functions are exact for every type (infinities, BC, intervals, inet, arrays …) and run in C.
A session that evaluates these expressions needs the settings of the query `use_portable_formats`. It looks names up
where the operators' SQL expects them; so all names of ours are qualified, and none can be planted.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import msgspec

from guard.text import quote_identifier
from service.documents.datasets import Column, Dataset

# Composite, enum, range, and arrays: what CREATE TYPE makes without a superuser.
MADE_CATEGORIES = frozenset("ACER")

RowText: TypeAlias = Callable[[Dataset], str]
"""The SQL query that gives a dataset's rows as one text column, in order."""


class EncoderOptions(msgspec.Struct, frozen=True):
    """Variants of the formats; each format reads its own."""

    bom: bool = False
    """Begin a CSV with a byte order mark."""
    unguarded: bool = False
    """CSV for machines: leave text cells as they are, also those that a spreadsheet would run."""
    big_as_text: bool = False
    """JSON and NDJSON: write integers that a double can't hold as strings."""
    filter: Mapping[str, object] | None = None
    """JSON, NDJSON and XLSX: the part of the data that was selected; None for all of it."""


DEFAULTS: Final = EncoderOptions()


class Encoder(Protocol):
    """Turns one document's rows into its bytes; made anew for each document, as it remembers the profile."""

    media_type: str
    in_thread: bool
    """Whether `rows` takes so long that it runs in a thread."""

    def row_text(self, dataset: Dataset) -> str:
        """See `RowText`."""

    def begin(self, datasets: Sequence[Dataset], exported_at: str, profile: bytes) -> bytes:
        """All up to and including the profile; `datasets` begins with it, `profile` is its row of `row_text`."""

    def begin_list(self, dataset: Dataset, exported_at: str) -> bytes:
        """Instead of `begin`, for a document of one dataset without a profile: its position is 0."""

    def rows(self, position: int, rows: Sequence[bytes], *, first: bool) -> bytes:
        """Rows of the dataset at `position`; never empty, `first` if none of that dataset went before."""

    def added_bytes(self, position: int) -> int:
        """The bytes that encoding adds to each row's text in the dataset at `position`."""

    def end_dataset(self, position: int, *, empty: bool) -> bytes:
        """The bytes that close the dataset at `position`."""

    def end(self) -> bytes:
        """The bytes that close the document."""


async def encode_rows(encoder: Encoder, position: int, rows: Sequence[bytes], *, first: bool) -> bytes:
    if encoder.in_thread:
        return await asyncio.to_thread(encoder.rows, position, rows, first=first)
    return encoder.rows(position, rows, first=first)


def text_of(column: Column) -> str:
    """The value as PostgreSQL's output function writes it."""
    value = f'"row".{quote_identifier(column.name)}'
    if not may_have_casts(column):
        return f"{value}::pg_catalog.text"
    return f"CASE WHEN {value} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {value}) END"


def unless_retyped(column: Column) -> str:
    """The cell, in a query that PostgreSQL refuses once the column has become text, which would need a guard.

    CASE wants results of one kind (PostgreSQL's manual, "UNION, CASE, and Related Constructs"), so an integer may
    become a bigint; what is never chosen is gone from the plan, and costs nothing.
    """
    cell = f'"row".{quote_identifier(column.name)}'
    is_json = column.type_name in {"json", "jsonb"}
    same = f"{cell} OPERATOR(pg_catalog.->) 0" if is_json else f"NULL::{column.cast_name}"
    return f"CASE WHEN false THEN {same} ELSE {cell} END"


def may_have_casts(column: Column) -> bool:
    """Whether the type can belong to the application: its owner may make casts, which run what they like.

    Base types belong to superusers, and a domain's own casts are ignored.
    """
    return column.cast_name is None and column.category in MADE_CATEGORIES


def iso_timestamp(value: str) -> str:
    """RFC 3339; what that can't express (BC, infinities) stays in PostgreSQL's ISO form, which it reads back."""
    text = f"{value}::pg_catalog.text"
    return (
        f"CASE WHEN {value} OPERATOR(pg_catalog.<) '0001-01-01' THEN pg_catalog.replace({text}, '+00', 'Z') "
        f"ELSE pg_catalog.replace(pg_catalog.replace({text}, ' ', 'T'), '+00', 'Z') END"
    )


def plain_text(column: Column) -> str:
    """The value of a built-in type, for people."""
    value = unless_retyped(column)
    if column.type_name in {"timestamptz", "timestamp"}:
        return iso_timestamp(value)
    if column.type_name == "json":
        return f"pg_catalog.btrim({value}::pg_catalog.text, E' \\t\\r\\n')"
    if column.category == "I":  # a cast adds /32 to an address
        return f"CASE WHEN {value} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {value}) END"
    return f"{value}::pg_catalog.text"

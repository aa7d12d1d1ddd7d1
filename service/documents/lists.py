"""Operators' lists: one snapshot, one cursor, and no count to compare with."""

import datetime as dt
import re
from base64 import urlsafe_b64decode
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import asyncpg
import msgspec

from guard.text import quote_identifier
from service.backends.database import QUERIES, Connection, Pool, acquire
from service.documents.chunks import Chunks
from service.documents.datasets import Column, Dataset
from service.documents.encoding import Encoder, encode_rows
from service.documents.selection import Query, at_least, where
from service.documents.snapshots import (
    naming_failures,
    refusing_foreign_characters,
    require_whole_tables,
    take_snapshot,
)
from service.documents.subjects import QUERY_TIMEOUT_SECONDS
from service.errors import InvalidRequestError

BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
GUARDED = re.compile(r"'+[-+=@\t\r]")
GUARDED_TYPES = {"text", "varchar", "bpchar"}


class OperatorList(Chunks):
    """Yielded by `open_list`."""

    def __init__(self, connection: Connection, query: Query, exported_at: str) -> None:
        super().__init__(connection)
        self._query = query
        self._exported_at = exported_at

    def chunks(self, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        """Like `Document.chunks`, but without a count to compare with."""
        return self.joined(self._pieces(encoder))

    async def _pieces(self, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        yield encoder.begin_list(self._query.dataset, self._exported_at)
        empty = True
        async with aclosing(self._batches(encoder.row_text, self._query)) as batches:
            async for rows in batches:
                self.records_done += len(rows)
                yield await encode_rows(encoder, 0, rows, first=empty)
                empty = False
        yield encoder.end_dataset(0, empty=empty)
        await require_whole_tables(self._connection)
        yield encoder.end()


def read_key(text: str, key: Sequence[Column], *, guarded: bool) -> tuple[str, ...]:
    """The key's values: the JSON array that `text` encodes, or `text` itself for a key of one column.

    `guarded`: they are cells of a CSV with the guard against formulas. Raises InvalidRequestError.
    """
    values = _decode(text)
    if values is None or len(values) != len(key):
        if len(key) > 1:
            names = ", ".join(column.name for column in key)
            raise InvalidRequestError(
                f"after must be base64url of the JSON array of the last row's values of {names}, each as text"
            )
        values = [text]
    return tuple(
        value[1:] if guarded and column.type_name in GUARDED_TYPES and GUARDED.match(value) else value
        for column, value in zip(key, values, strict=True)
    )


def _decode(text: str) -> list[str] | None:
    if not BASE64URL.fullmatch(text):
        return None
    try:
        array = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return [str(value) for value in msgspec.json.decode(array, type=list[str | int])]
    except (ValueError, RecursionError):
        return None


def select_rows(
    dataset: Dataset,
    parameters: Sequence[object],
    *,
    after: Sequence[str] = (),
    updated_since: dt.datetime | None = None,
) -> Query:
    """The list's rows behind the key `after`, and not older than `updated_since`. Rows without a time are kept."""
    arguments = [*parameters, *after]
    if after:
        columns = ", ".join(f'"row".{quote_identifier(column.name)}' for column in dataset.key)
        values = ", ".join(cast(column, number) for number, column in enumerate(dataset.key, start=len(parameters) + 1))
        dataset = where(dataset, f"ROW({columns}) OPERATOR(pg_catalog.>) ROW({values})")
    if updated_since and dataset.time:
        arguments.append(updated_since)
        value = f'"row".{quote_identifier(dataset.time.name)}'
        dataset = where(dataset, f"({at_least(dataset.time, len(arguments))} OR {value} IS NULL)")
    return Query(dataset, tuple(arguments))


def cast(column: Column, number: int) -> str:
    """Parameter `number`, a text, as a value of the column's type."""
    return f"${number}::pg_catalog.text::{column.cast_name}"


@asynccontextmanager
async def open_list(
    pool: Pool, query: Query, *, after: Sequence[str] = (), acquire_timeout_seconds: float
) -> AsyncIterator[OperatorList]:
    """A REPEATABLE READ, READ ONLY snapshot of a list's rows; `after` is the key in the query.

    Raises UnavailableError, and InvalidRequestError for a key or a text that the database can't hold.
    """
    locking = f'SELECT FROM ({query.dataset.sql}) AS "row" LIMIT 0'
    async with (
        acquire(pool, timeout_seconds=acquire_timeout_seconds, server="source") as connection,
        take_snapshot(connection) as replayed_at,
    ):
        with naming_failures(), refusing_foreign_characters(_foreign_characters(query.dataset)):
            await _check_key(connection, query.dataset.key, after)
            await connection.execute(QUERIES["plan_for_arguments"])
            await connection.fetch(locking, *query.arguments, timeout=QUERY_TIMEOUT_SECONDS)
            exported_at = await connection.fetchval(QUERIES["find_snapshot_time"], replayed_at)
        await require_whole_tables(connection)
        yield OperatorList(connection, query, exported_at)


async def _check_key(connection: Connection, key: Sequence[Column], after: Sequence[str]) -> None:
    if not after:
        return
    values = ", ".join(cast(column, number) for number, column in enumerate(key, start=1))
    try:
        await connection.fetchval(f"SELECT pg_catalog.num_nulls({values})", *after)
    except asyncpg.UntranslatableCharacterError:
        raise
    except asyncpg.DataError:
        types = ", ".join(f"{column.name} ({column.type_name})" for column in key)
        raise InvalidRequestError(f"after must be the key of the last row received: {types}") from None


def _foreign_characters(dataset: Dataset) -> InvalidRequestError:
    texts = [parameter.name for parameter in dataset.facts.parameters if parameter.type == "text"]
    names = " or ".join(texts) or "after"
    return InvalidRequestError(f"{names} has characters that the application's database can't hold")

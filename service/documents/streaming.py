"""Documents of one user's data: one snapshot, surveyed, and one cursor after the other."""

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

from languages.words import to_translate
from service.backends.database import QUERIES, Connection, Pool
from service.documents.chunks import Chunks
from service.documents.datasets import Dataset
from service.documents.encoders import create_encoder
from service.documents.encoding import Encoder, EncoderOptions, RowText, encode_rows
from service.documents.file_counts import FileCounts
from service.documents.ranges import suggest_ranges
from service.documents.selection import Selected, describe_filter, select_datasets
from service.documents.snapshots import (
    naming_failures,
    open_dated_snapshot,
    open_snapshot,
    require_whole_tables,
)
from service.documents.subjects import find_locale, find_owner
from service.documents.survey import FEW_RECORDS, FEW_STREAMED, Survey, take_survey
from service.errors import (
    NO_SUCH_USER,
    DocumentError,
    ExportInProgressError,
    ExportTooLargeError,
    SubjectNotFoundError,
)
from service.export_spec import ExportSpec
from service.user_ids import UserId

# Cap on the bytes that an encoder adds to rows, mostly the profile's cells: a profile may be wide and the rows many.
MAX_ADDED_BYTES = 1024 * 1024
TOO_LARGE_DETAIL = to_translate("Export too large, please filter data")
TOO_LARGE_SUGGESTION = "Ask for a date range (from and to), or for some of the sections"
RANGES_SUGGESTION = "Ask for these date ranges (from and to) one after the other, or for some of the sections"
DAY_SECONDS = 86_400.0


class Document(Chunks):
    """Yielded by `open_document`. `records_total` is counted in the snapshot. Rows that it can't see are dated from
    `changes_from` on.
    """

    def __init__(  # noqa: PLR0913 (what a snapshot gives)
        self,
        connection: Connection,
        survey: Survey,
        *,
        spec: ExportSpec,
        options: EncoderOptions,
        changes_from: dt.datetime | None,
        end_snapshot: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(connection)
        self.records_total = sum(survey.counts)
        self.exported_at = survey.exported_at
        self.changes_from = changes_from
        self.spec = spec
        self.options = options
        self.end_snapshot: Final = end_snapshot  # chunks that aren't made by then can't be; a second call does nothing
        self.selected = survey.selected
        self.counts = survey.counts
        self.files: Final = FileCounts()  # of a package
        self._lines = survey.lines
        self._is_whole = survey.is_whole

    def chunks(self, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        """The document in chunks of about 64 KiB (a single larger row is a chunk of its own).

        A document that ends is whole: raises DocumentError where rows don't match their count or can't be read, and
        UnavailableError if the database goes away.
        """
        return self.joined(self._pieces(encoder))

    async def _pieces(self, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        profiles = [row async for rows in self._section(encoder, 0) for row in rows]
        self.records_done = 1
        yield encoder.begin([one.dataset for one in self.selected], self.exported_at, profiles[0])
        for position in range(1, len(self.selected)):
            empty = True
            async with aclosing(self._section(encoder, position)) as batches:
                async for batch in batches:
                    for rows in _portions(batch, encoder.added_bytes(position)):
                        self.records_done += len(rows)
                        yield await encode_rows(encoder, position, rows, first=empty)
                        empty = False
            yield encoder.end_dataset(position, empty=empty)
        if not self._is_whole:
            await self.require_whole()
        yield encoder.end()

    async def _section(self, encoder: Encoder, position: int) -> AsyncGenerator[list[bytes], None]:
        lines = self._lines[position]
        if lines is None:
            async with aclosing(self.rows(encoder.row_text, position)) as batches:
                async for batch in batches:
                    yield batch
        else:
            self._check_count(position, len(lines))
            if lines:
                yield lines

    async def rows(self, row_text: RowText, position: int) -> AsyncGenerator[list[bytes], None]:
        """Batches of the rows of the dataset at `position`. Raises DocumentError if they don't match their count."""
        done = 0
        for query in self.selected[position].queries:
            async with aclosing(self._batches(row_text, query)) as batches:
                async for batch in batches:
                    done += len(batch)
                    yield batch
        self._check_count(position, done)

    async def find_locale(self) -> str | None:
        """The user's locale, if the profile has one; in the snapshot."""
        return await find_locale(self._connection, self.selected[0].dataset, self.spec.user_id)

    async def require_whole(self) -> None:
        """Raise UnavailableError if a table was exchanged meanwhile: renaming a schema waits for none of our locks."""
        await require_whole_tables(self._connection)

    def _check_count(self, position: int, done: int) -> None:
        if done != self.counts[position]:
            name = self.selected[position].dataset.name
            raise DocumentError(f"Dataset {name} gave {done} rows, but counted {self.counts[position]}")


def _portions(rows: list[bytes], added_bytes: int) -> Iterator[list[bytes]]:
    """So few at a time that what is added to them stays below MAX_ADDED_BYTES."""
    number = max(1, MAX_ADDED_BYTES // (added_bytes + 1))
    return (rows[start : start + number] for start in range(0, len(rows), number))


@asynccontextmanager
async def open_document(  # noqa: PLR0913 (each is one independent fact of the request)
    pool: Pool,
    datasets: Sequence[Dataset],
    spec: ExportSpec,
    *,
    max_records: int,
    acquire_timeout_seconds: float,
    exclusive: bool = False,
    overlap_seconds: float = DAY_SECONDS,
    ranges_seconds: float | None = None,
) -> AsyncIterator[Document]:
    """One REPEATABLE READ, READ ONLY snapshot of the user's data, counted; exit ends it and returns the connection.

    Raises SubjectNotFoundError, ExportTooLargeError, UnavailableError and, if `exclusive`, ExportInProgressError
    while another exclusive document of the user is open anywhere; DocumentError if the data can't be read. With
    `ranges_seconds`, the ExportTooLargeError holds ranges that fit, if they are found in that time. An exclusive
    document has no `changes_from`.
    """
    async with AsyncExitStack() as held:
        snapshot = await held.enter_async_context(
            open_dated_snapshot(pool, acquire_timeout_seconds, overlap_seconds=None if exclusive else overlap_seconds)
        )
        connection = snapshot.connection
        if exclusive:
            await _lock_stream(connection, str(spec.user_id))
        selected = select_datasets(datasets, spec)
        options = EncoderOptions(
            bom=spec.bom,
            unguarded=spec.unguarded,
            big_as_text=spec.big_as_text,
            filter=describe_filter(selected, spec),
        )
        # A package reads the rows more than once, and otherwise each time.
        row_text = None if spec.format.is_package else create_encoder(spec.format, options).row_text
        few_records = FEW_STREAMED if exclusive else FEW_RECORDS
        survey = await take_survey(snapshot, selected, spec, row_text, max_records=max_records, few_records=few_records)
        await require_whole_tables(connection)
        _check_profile(survey.counts[0])
        if sum(survey.counts) > max_records:
            raise await _too_large(connection, selected, spec, max_records=max_records, seconds=ranges_seconds)
        if survey.is_whole and not exclusive:
            await held.aclose()
        yield Document(
            connection,
            survey,
            spec=spec,
            options=options,
            changes_from=snapshot.changes_from,
            end_snapshot=held.aclose,
        )


async def require_subject(
    pool: Pool, profile: Dataset, user_id: UserId, *, since: dt.datetime, acquire_timeout_seconds: float
) -> None:
    """Raise SubjectNotFoundError unless the user who made an export `since` then exists now, in a snapshot of its
    own.

    A row that was seen is there. Only a row that wasn't seen may be in a table that looks empty.
    """
    async with open_snapshot(pool, acquire_timeout_seconds) as connection:
        with naming_failures():
            owner = await find_owner(connection, profile, user_id, since=since)
        if owner is None:
            await require_whole_tables(connection)
            raise SubjectNotFoundError(NO_SUCH_USER)


async def _lock_stream(connection: Connection, user_id: str) -> None:
    if await connection.fetchval(QUERIES["try_stream_lock"], user_id):
        return
    if not await connection.fetchval(QUERIES["is_stream_lock_foreign"], user_id):
        raise ExportInProgressError("A stream of your data is already running")


def _check_profile(count: int) -> None:
    if count == 0:
        raise SubjectNotFoundError(NO_SUCH_USER)
    if count > 1:
        raise DocumentError("The profile has more than one row")


async def _too_large(
    connection: Connection, selected: Sequence[Selected], spec: ExportSpec, *, max_records: int, seconds: float | None
) -> ExportTooLargeError:
    found: dict[str, object] = {}
    if seconds is not None:
        found = await suggest_ranges(connection, selected, spec, max_records=max_records, seconds=seconds)
    return ExportTooLargeError(
        TOO_LARGE_DETAIL,
        record_count=f"more than {max_records}",
        limit=max_records,
        suggestion=RANGES_SUGGESTION if found.get("ranges") else TOO_LARGE_SUGGESTION,
        **found,
    )

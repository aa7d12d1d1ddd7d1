"""The attachments of a package: which there are, what is known of them before the first is read, and their content.

Their keys are read in the snapshot, and the files after its end: reading them may take hours.
"""

import asyncio
import itertools
import zlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final, TypeAlias

import msgspec

from service.backends.attachments import AttachmentError, AttachmentStore, Fault, Version
from service.documents.datasets import Dataset
from service.documents.encoding import text_of
from service.documents.file_counts import FaultKind
from service.documents.package.names import attachment_path, safe_name
from service.documents.package.spool import Spool
from service.documents.streaming import Document
from service.errors import ExportTooLargeError

# Looking at files keeps the snapshot's session waiting, which PostgreSQL ends after five minutes. Files that
# weren't looked at by then are looked at when they are read.
LOOK_SECONDS: Final = 120.0
LOOKS_AT_ONCE: Final = 16
# So much of a file is read before its entry begins: a smaller one that breaks off leaves no trace in the archive.
HEAD_BYTES: Final = 4 * 2**20
SAMPLE_BYTES: Final = 64 * 1024
WORTH_DEFLATING: Final = 0.9
TOO_LARGE_DETAIL: Final = "Export too large: its files have more than {:,} bytes. Please ask for some of the sections"

Stores: TypeAlias = Mapping[str, AttachmentStore]


class Attachment(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of a row, counted from 1, of the dataset at `position`. `title` is its name for people.

    Without a fault and a version, it wasn't looked at yet.
    """

    position: int
    row: int
    path: str
    title: str
    store: str
    key: str
    fault: Fault | None = None
    version: Version | None = None


class Attachments:
    """The attachments of an open document, in the order of its rows; to be closed."""

    def __init__(self, document: Document, stores: Stores, *, max_bytes: int) -> None:
        self._document = document
        self._stores = stores
        self._max_bytes = max_bytes
        self._files = Spool(Attachment)

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Attachment]:
        return iter(self._files)

    def close(self) -> None:
        self._files.close()

    async def find(self) -> None:
        """Read all keys, and look at what they name. Raises ExportTooLargeError and OutageError."""
        found = Spool(Attachment)
        try:
            for position, one in enumerate(self._document.selected):
                if one.dataset.facts.files:
                    await self._read_keys(found, position, one.dataset)
            await self._look_at_all(found)
        finally:
            found.close()

    def note_fault(self, file: Attachment, fault: Fault, cause: str = "") -> None:
        section = self._document.selected[file.position].dataset.name
        self._document.files.faults[FaultKind(section, file.store, fault, cause)] += 1

    async def open(self, file: Attachment) -> "Content":
        """Raises AttachmentError, OutageError and ExportTooLargeError."""
        store = self._stores[file.store]
        version = file.version
        if version is None:
            version = await store.look(file.key)
            self._add_bytes(version)
        content = Content(version, self._counted(store.read(file.key, version)))
        await content.read_head()
        return content

    async def _counted(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(chunks):
            async for chunk in chunks:
                self._document.files.bytes_done += len(chunk)
                yield chunk

    def _add_bytes(self, version: Version) -> None:
        files = self._document.files
        files.bytes_total = (files.bytes_total or 0) + version.size_bytes
        if files.bytes_total > self._max_bytes:
            raise ExportTooLargeError(TOO_LARGE_DETAIL.format(self._max_bytes), limit=self._max_bytes)

    async def _read_keys(self, found: Spool[Attachment], position: int, dataset: Dataset) -> None:
        row = 0
        async with aclosing(self._document.rows(_keys_text, position)) as batches:
            async for batch in batches:
                for line in batch:
                    row += 1
                    for file in _files_of_row(position, dataset, row, msgspec.json.decode(line)):
                        found.add(self._confined(file))

    def _confined(self, file: Attachment) -> Attachment:
        if self._stores[file.store].may_hold(file.key, self._document.spec.user_id):
            return file
        self.note_fault(file, Fault.OUTSIDE)
        return msgspec.structs.replace(file, fault=Fault.OUTSIDE)

    async def _look_at_all(self, found: Iterable[Attachment]) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + LOOK_SECONDS
        files = iter(found)
        while window := list(itertools.islice(files, LOOKS_AT_ONCE)):
            for file in await self._look_at(window) if loop.time() < until else window:
                self._files.add(file)
                if file.version:
                    self._add_bytes(file.version)

    async def _look_at(self, files: Sequence[Attachment]) -> list[Attachment]:
        looks = [asyncio.create_task(self._look(file)) for file in files]
        try:
            return await asyncio.gather(*looks)
        finally:
            for look in looks:
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _look(self, file: Attachment) -> Attachment:
        if file.fault:
            return file
        try:
            version = await self._stores[file.store].look(file.key)
        except AttachmentError as error:
            self.note_fault(file, error.fault, error.detail)
            return msgspec.structs.replace(file, fault=error.fault)
        return msgspec.structs.replace(file, version=version)


class Content:
    """A file that is being read: its first bytes are here, the others come."""

    def __init__(self, version: Version, chunks: AsyncGenerator[bytes, None]) -> None:
        self.size_bytes: Final = version.size_bytes
        self._chunks = chunks
        self._head: list[bytes] = []

    @property
    def is_worth_deflating(self) -> bool:
        """Whether a sample of it becomes smaller: pictures, films and archives don't."""
        sample = b"".join(self._head)[:SAMPLE_BYTES]
        return len(zlib.compress(sample, 1)) < WORTH_DEFLATING * len(sample)

    async def read_head(self) -> None:
        read_bytes = 0
        try:
            while read_bytes < min(HEAD_BYTES, self.size_bytes):
                self._head.append(await anext(self._chunks))
                read_bytes += len(self._head[-1])
        except BaseException:
            await self._chunks.aclose()
            raise

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._chunks):
            while self._head:
                yield self._head.pop(0)
            async for chunk in self._chunks:
                yield chunk


def _keys_text(dataset: Dataset) -> str:
    """The SQL query that gives each row's keys and names as a JSON array of texts."""
    columns = {column.name: text_of(column) for column in dataset.columns}
    values = ", ".join(
        value
        for file in dataset.facts.files
        for value in (columns[file.key], columns[file.name] if file.name else "NULL::pg_catalog.text")
    )
    return f'SELECT pg_catalog.json_build_array({values})::pg_catalog.text FROM ({dataset.sql}) AS "row"'  # noqa: S608 (checked at start-up)


def _files_of_row(position: int, dataset: Dataset, row: int, values: Sequence[str | None]) -> Iterator[Attachment]:
    """A row without a key has no file."""
    pairs = zip(dataset.facts.files, values[::2], values[1::2], strict=True)
    for number, (fact, key, name) in enumerate(pairs):
        if key:
            title = name or key.rpartition("/")[2]
            path = attachment_path(dataset.name, row, number, title)
            yield Attachment(position, row, path, safe_name(title), fact.store, key)

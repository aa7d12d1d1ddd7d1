"""The storage and the table of exports, compared both ways: after a restore, a loss or a move either may know more."""

import datetime as dt
import re
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from service.backends.database import Connection
from service.backends.storage import ObjectStorage, StoredObject
from service.bookkeeping.exports import Export, ExportRepository
from service.exports.files import is_in, key_of
from service.object_keys import KEYS, OBJECT_KEY

BATCH = 1_000
UNKNOWN_SECONDS = 86_400.0  # how much longer than a file an unknown object is kept: a better backup may know it
FIRST_ID = uuid.UUID(int=0)
LAST_ID = uuid.UUID(int=2**128 - 1)


class Mismatch(StrEnum):
    ORPHANED = "orphaned object"
    UNKNOWN = "unknown object"
    MISSING = "missing file"
    FOUND = "found file"
    ELSEWHERE = "file elsewhere"


class Finding(NamedTuple):
    """An object that no row owns, by its `key`; or an `export` whose file isn't where its row says."""

    mismatch: Mismatch
    url: str
    job_id: uuid.UUID
    key: str = ""
    modified_at: dt.datetime | None = None
    export: Export | None = None


@dataclass(frozen=True)
class Comparison:
    """`connect` opens a connection for as long as it takes to look at one page of the storage's list."""

    storage: ObjectStorage
    exports: ExportRepository
    mark: str
    connect: Callable[[], AbstractAsyncContextManager[Connection]]

    async def findings(self, *, marked: bool = False) -> AsyncGenerator[Finding]:
        """All mismatches, in little memory; with `marked` also the files that are marked as missing and still are.

        Objects are listed before rows are read: an object's row always exists before it. A row's object may be stored
        after the list was read, so each file that isn't listed is asked for.
        """
        after = FIRST_ID
        async for page in self.storage.list_objects(KEYS):
            listed = [(found, match) for found in page if (match := OBJECT_KEY.fullmatch(found.key))]
            for finding in await self._compare_objects(listed):
                yield finding
            until = max((uuid.UUID(match[1]) for _, match in listed), default=after)
            urls = [self.storage.url + found.key for found, _ in listed]
            async for finding in self._compare_files(after, until, urls, marked=marked):
                yield finding
            after = max(after, until)
        async for finding in self._compare_files(after, LAST_ID, [], marked=marked):
            yield finding

    async def _compare_objects(self, listed: "Sequence[tuple[StoredObject, re.Match[str]]]") -> list[Finding]:
        """Orphans of known exports, and objects with this installation's mark whose export is unknown."""
        ours = {uuid.UUID(match[1]) for _, match in listed if match[3] == self.mark}
        async with self.connect() as connection:
            orphaned = await self.exports.list_orphaned_keys(connection, [found.key for found, _ in listed])
            unknown = await self.exports.list_unknown_jobs(connection, ours)
        findings = []
        for found, match in listed:
            if found.key in orphaned:
                mismatch = Mismatch.ORPHANED
            elif uuid.UUID(match[1]) in unknown:
                mismatch = Mismatch.UNKNOWN
            else:
                continue
            url = self.storage.url + found.key
            findings.append(Finding(mismatch, url, uuid.UUID(match[1]), key=found.key, modified_at=found.modified_at))
        return findings

    async def _compare_files(
        self, after: uuid.UUID, until: uuid.UUID, urls: Sequence[str], *, marked: bool
    ) -> AsyncGenerator[Finding]:
        while after < until:
            async with self.connect() as connection:
                found = await self.exports.list_mismatched_files(
                    connection, after=after, until=until, urls=urls, limit=BATCH, marked=marked
                )
            for export, listed in found:
                if mismatch := await self._judge(export, listed=listed):
                    assert export.file_url  # of a completed export
                    yield Finding(mismatch, export.file_url, export.id, export=export)
            if len(found) < BATCH:
                return
            after = found[-1][0].id

    async def _judge(self, export: Export, *, listed: bool) -> Mismatch | None:
        if not is_in(self.storage, export):
            return Mismatch.ELSEWHERE
        if not (listed or await self.storage.has(key_of(export))):
            return Mismatch.MISSING
        return Mismatch.FOUND if export.file_missing_at else None

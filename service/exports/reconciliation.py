"""The work of `carryout reconcile`: mend what differs between storage and exports after a restore, a loss or a move."""

import asyncio
import datetime as dt
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

from service.backends.database import Connection
from service.backends.failures import describe_cause
from service.backends.storage import ObjectStorage, open_storage
from service.bookkeeping.exports import Export, ExportRepository, find_mark
from service.errors import ExportGoneError, UnavailableError
from service.exports.comparison import BATCH, FIRST_ID, UNKNOWN_SECONDS, Comparison, Finding, Mismatch
from service.exports.files import key_of
from service.settings import Settings

AT_ONCE = 16
CHANGED = "the file is not the one that was made"


class Outcome(msgspec.Struct, frozen=True):
    """A finding, and what was done about it, or would be. `left` is true if an operator has to do something."""

    mismatch: Mismatch
    job_id: str
    url: str
    action: str
    left: bool = False


@dataclass
class Reconciliation:
    """Changes something only if `apply`."""

    settings: Settings
    connection: Connection
    exports: ExportRepository
    storage: ObjectStorage
    mark: str
    apply: bool
    _opened: AsyncExitStack
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _earlier: dict[tuple[str, str], ObjectStorage] = field(default_factory=dict)

    async def outcomes(self) -> AsyncGenerator[Outcome]:
        """First files in earlier buckets, then the comparison of this one."""
        after = FIRST_ID
        while elsewhere := await self.exports.list_elsewhere(
            self.connection, url=self.storage.url, after=after, limit=BATCH
        ):
            for start in range(0, len(elsewhere), AT_ONCE):
                for outcome in await asyncio.gather(*map(self._bring, elsewhere[start : start + AT_ONCE])):
                    yield outcome
            after = elsewhere[-1].id
        comparison = Comparison(self.storage, self.exports, self.mark, lambda: nullcontext(self.connection))
        async with aclosing(comparison.findings(marked=True)) as findings:
            async for finding in findings:
                if finding.mismatch is not Mismatch.ELSEWHERE:  # it was brought, or is left
                    action = await self._mend(finding)
                    yield Outcome(finding.mismatch, str(finding.job_id), finding.url, action)

    async def _mend(self, finding: Finding) -> str:
        export = finding.export
        if finding.modified_at and finding.mismatch is Mismatch.UNKNOWN:
            kept_for = dt.timedelta(seconds=self.settings.export_ttl_seconds + UNKNOWN_SECONDS)
            return f"a worker deletes it after {finding.modified_at + kept_for:%Y-%m-%d %H:%M}Z"
        if export is None:
            return "a worker deletes it with its next sweep"
        if finding.mismatch is Mismatch.FOUND:
            return await self._find_again(export, finding.url)
        if self.apply:
            async with self._changing, self.connection.transaction():
                await self.exports.note_missing(self.connection, export)
        return "its link answers 410" if self.apply or export.file_missing_at else "its link would answer 410"

    async def _find_again(self, export: Export, url: str) -> str:
        if not self.apply:
            return "its link would work again"
        async with self._changing, self.connection.transaction():
            await self.exports.note_found(self.connection, export, url)
        return "its link works again"

    async def _bring(self, export: Export) -> Outcome:
        """Bring the file here; delete it there. One whose link has ended is only deleted."""
        assert export.file_url  # of a completed export
        left = False
        try:
            action = await (self._delete_there(export) if export.expired else self._move(export))
        except ExportGoneError:
            action = "it is missing there, too: its link answers 410"
        except UnavailableError as error:
            left = True
            action = f"left: {CHANGED if error.detail == CHANGED else f'that bucket {describe_cause(error)}'}"
        return Outcome(Mismatch.ELSEWHERE, str(export.id), export.file_url, action, left=left)

    async def _delete_there(self, export: Export) -> str:
        if not self.apply:
            return "its link has ended: it would be deleted there"
        await (await self._open_earlier(export)).delete(key_of(export))
        async with self._changing, self.connection.transaction():
            await self.exports.expire(self.connection, export)
        return "its link has ended: deleted there"

    async def _move(self, export: Export) -> str:
        key = key_of(export)
        if await self.storage.has(key):
            if not self.apply:
                return "it is here already: its link would work again"
            await self._require_same(export)
            return await self._settle(export)
        there = await self._open_earlier(export)
        if not await there.has(key):
            raise ExportGoneError("The file is missing")
        if not self.apply:
            return "it would be moved here"
        await self._copy(there, export)
        return await self._settle(export)

    async def _settle(self, export: Export) -> str:
        async with self._changing, self.connection.transaction():
            await self.exports.note_found(self.connection, export, self.storage.url + key_of(export))
        try:
            await (await self._open_earlier(export)).delete(key_of(export))
        except UnavailableError as error:
            return f"moved here: its link works again; that bucket {describe_cause(error)}, so delete it there"
        return "moved here: its link works again"

    async def _copy(self, there: ObjectStorage, export: Export) -> None:
        key = key_of(export)
        async with there.open_download(key) as chunks:
            stored = await self.storage.upload(key, chunks, content_type=export.format.media_type)
        if stored.sha256 != export.sha256:
            await self.storage.delete(key)
            raise UnavailableError(CHANGED)

    async def _require_same(self, export: Export) -> None:
        digest = hashlib.sha256()
        async with self.storage.open_download(key_of(export)) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
        if digest.digest() != export.sha256:
            raise UnavailableError(CHANGED)

    async def _open_earlier(self, export: Export) -> ObjectStorage:
        """The earlier bucket, by the keys and at the server of the settings."""
        assert export.file_url
        url = urlsplit(export.file_url)
        prefix = url.path.removeprefix("/").removesuffix(key_of(export))
        async with self._opening:
            if (url.netloc, prefix) not in self._earlier:
                settings = msgspec.structs.replace(self.settings, s3_bucket=url.netloc, s3_prefix=prefix)
                self._earlier[url.netloc, prefix] = await self._opened.enter_async_context(open_storage(settings))
        return self._earlier[url.netloc, prefix]


@asynccontextmanager
async def open_reconciliation(
    settings: Settings, connection: Connection, *, apply: bool
) -> AsyncIterator[Reconciliation]:
    async with AsyncExitStack() as opened:
        yield Reconciliation(
            settings,
            connection,
            ExportRepository(lease_seconds=settings.lease_seconds),
            await opened.enter_async_context(open_storage(settings)),
            await find_mark(connection),
            apply,
            opened,
        )

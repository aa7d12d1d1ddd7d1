"""A ZIP archive made entry by entry, whose bytes are taken away while it grows."""

import asyncio
import datetime as dt
import hashlib
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator
from typing import IO, NamedTuple

from service.documents.archive_sink import Sink

# Rows are alike: a higher level makes the tables a seventh smaller, and takes twice the time.
DEFLATE_LEVEL = 1
READABLE_BY_ALL = 0o644 << 16


class Entry(NamedTuple):
    """A finished entry; `size_bytes` and `sha256` (hexadecimal) are those of its content."""

    path: str
    size_bytes: int
    sha256: str


class Archive:
    """Any entry may be larger than 4 GiB. Entries are dated `moment`, so that equal data makes equal bytes."""

    def __init__(self, moment: dt.datetime) -> None:
        self._date = moment.timetuple()[:6]
        self._sink = Sink()
        self._zip = zipfile.ZipFile(self._sink, "w", compresslevel=DEFLATE_LEVEL)
        self.last: Entry  # of those that were added whole

    async def add(self, path: str, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The archive's bytes for an entry with the content `pieces`. Compression runs in a thread."""
        info = zipfile.ZipInfo(path, self._date)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = READABLE_BY_ALL
        digest = hashlib.sha256()
        size_bytes = 0
        with self._zip.open(info, "w", force_zip64=True) as entry:
            async for piece in pieces:
                await asyncio.to_thread(_write, entry, digest, piece)
                size_bytes += len(piece)
                yield self._sink.take()
        self.last = Entry(path, size_bytes, digest.hexdigest())
        yield self._sink.take()

    def end(self) -> bytes:
        """The archive's directory. Without it no reader takes the archive for whole."""
        self._zip.close()
        return self._sink.take()


def _write(entry: IO[bytes], digest: "hashlib._Hash", piece: bytes) -> None:
    digest.update(piece)
    entry.write(piece)

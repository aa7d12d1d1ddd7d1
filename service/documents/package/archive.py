"""A ZIP archive made entry by entry, whose bytes are taken away while it grows."""

import datetime as dt
import hashlib
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import NamedTuple

from service.documents.archive_sink import Sink, deflate_fast

READABLE_BY_ALL = 0o644 << 16
# The growth of content that can't be compressed.
MOST_GROWTH = 1.05


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
        self._zip = zipfile.ZipFile(self._sink, "w")
        self.last: Entry  # of those that were added whole

    async def add(
        self, path: str, pieces: AsyncIterator[bytes], *, deflate: bool = True, most_bytes: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The archive's bytes for an entry with the content `pieces`. ISA-L deflates one in less time than a thread
        would need to take it over.

        `most_bytes`: it isn't larger. An entry that raises is left out of the archive's directory, where readers look
        for entries; what came of it stays between the others.
        """
        info = zipfile.ZipInfo(path, self._date)
        info.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
        info.external_attr = READABLE_BY_ALL
        digest, size_bytes = hashlib.sha256(), 0
        # Some readers know no large entries, so an entry is called one only if it may be.
        large = most_bytes is None or most_bytes * MOST_GROWTH > zipfile.ZIP64_LIMIT
        try:
            with self._zip.open(info, "w", force_zip64=large) as entry:
                if deflate:
                    deflate_fast(entry)
                async for piece in pieces:
                    digest.update(piece)
                    size_bytes += len(piece)
                    entry.write(piece)
                    yield self._sink.take()
        except BaseException:
            self._drop(info)
            raise
        self.last = Entry(path, size_bytes, digest.hexdigest())
        yield self._sink.take()

    def end(self) -> bytes:
        """The archive's directory. Without it no reader takes the archive for whole."""
        self._zip.close()
        return self._sink.take()

    def _drop(self, info: zipfile.ZipInfo) -> None:
        with suppress(ValueError):
            self._zip.filelist.remove(info)
        self._zip.NameToInfo.pop(info.filename, None)

"""Compressed streams: `Accept-Encoding` negotiation, and incremental compression in a thread."""

import asyncio
import gzip
import sys
import time
import zlib
from typing import Literal, Protocol, TypeAlias

from starlette.requests import Request

from service.api.http.requests import weights

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Encoding: TypeAlias = Literal["gzip", "zstd"]

PREFERRED: tuple[Encoding, ...] = ("zstd", "gzip")
FLUSH_SECONDS = 2.0
GZIP_LEVEL = 4
ZSTD_LEVEL_OF_ASSETS = 12
GZIP_CONTAINER = 16 + zlib.MAX_WBITS
# At most a megabyte of memory per stream. Similar rows are close together, so a larger window wouldn't compress better.
ZSTD_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.window_log: 18,
    zstd.CompressionParameter.hash_log: 16,
    zstd.CompressionParameter.chain_log: 16,
}


def negotiate(request: Request) -> Encoding | None:
    """The encoding that the client prefers (RFC 9110, 12.5.3); None for no encoding.

    A client that refuses uncompressed content (`identity;q=0`) gets it rather than a 406: the RFC permits both.
    """
    accepted = weights(request, "Accept-Encoding")
    weighed = [(accepted.get(encoding, accepted.get("*", 0.0)), encoding) for encoding in PREFERRED]
    best, encoding = max(weighed, key=lambda pair: pair[0])
    return encoding if best > 0 and best >= accepted.get("identity", 0.0) else None


def compress(content: bytes, encoding: Encoding) -> bytes:
    """All of it at once, for content that is sent often."""
    if encoding == "zstd":
        return zstd.compress(content, ZSTD_LEVEL_OF_ASSETS)
    return gzip.compress(content, mtime=0)


class Compressor:
    """The compressor of one stream. Each call runs in a thread and returns the output so far, which may be empty.

    Input is flushed after FLUSH_SECONDS at the latest, with the next chunk; the first chunk at once.
    """

    def __init__(self, encoding: Encoding) -> None:
        self._steps: _Steps = _Zstd() if encoding == "zstd" else _Gzip()
        self._flushed_at = -FLUSH_SECONDS

    async def compress(self, chunk: bytes) -> bytes:
        due = time.monotonic() - self._flushed_at >= FLUSH_SECONDS
        compressed = await asyncio.to_thread(self._steps.compress, chunk, flush=due)
        if due:
            self._flushed_at = time.monotonic()
        return compressed

    async def finish(self) -> bytes:
        """The remaining bytes and the trailer. Without the trailer, decompressors report a truncated stream."""
        return await asyncio.to_thread(self._steps.finish)


class _Steps(Protocol):
    def compress(self, chunk: bytes, *, flush: bool) -> bytes: ...
    def finish(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_CONTAINER)

    def compress(self, chunk: bytes, *, flush: bool) -> bytes:
        compressed = self._stream.compress(chunk)
        return compressed + self._stream.flush(zlib.Z_SYNC_FLUSH) if flush else compressed

    def finish(self) -> bytes:
        return self._stream.flush()


class _Zstd:
    def __init__(self) -> None:
        self._stream = zstd.ZstdCompressor(options=ZSTD_OPTIONS)

    def compress(self, chunk: bytes, *, flush: bool) -> bytes:
        return self._stream.compress(chunk, zstd.ZstdCompressor.FLUSH_BLOCK if flush else zstd.ZstdCompressor.CONTINUE)

    def finish(self) -> bytes:
        return self._stream.flush()

"""Compressed streams: what `Accept-Encoding` asks for, made on another core, and still arriving while it is made."""

import asyncio
import sys
import time
import zlib
from typing import Literal, Protocol, TypeAlias

from starlette.requests import Request

from service.api.requests import weights

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Encoding: TypeAlias = Literal["gzip", "zstd"]

PREFERRED: tuple[Encoding, ...] = ("zstd", "gzip")
FLUSH_SECONDS = 2.0
GZIP_LEVEL = 4
GZIP_CONTAINER = 16 + zlib.MAX_WBITS
# A megabyte a stream at most, and nothing lost: a window larger than the rows that resemble each other finds no more.
ZSTD_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.window_log: 18,
    zstd.CompressionParameter.hash_log: 16,
    zstd.CompressionParameter.chain_log: 16,
}


def negotiate(request: Request) -> Encoding | None:
    """The encoding a client prefers (RFC 9110, 12.5.3); None for the bytes as they are.

    These are never refused, not even to whom they aren't acceptable (`identity;q=0`): the RFC leaves that open.
    """
    accepted = weights(request, "Accept-Encoding")
    weighed = [(accepted.get(encoding, accepted.get("*", 0.0)), encoding) for encoding in PREFERRED]
    best, encoding = max(weighed, key=lambda pair: pair[0])
    return encoding if best > 0 and best >= accepted.get("identity", 0.0) else None


class Compressor:
    """Of one stream. Each call runs in a thread and gives what is ready, which may be nothing.

    What went in is given out after FLUSH_SECONDS at the latest, with the next chunk; the first chunk at once.
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
        """The rest, with the trailer without which decompressors report a broken stream."""
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

"""A file for `zipfile` to write to, whose bytes are taken away while it grows, and the compressor of its entries."""

from typing import IO

from isal import isal_zlib

# ISA-L's level 1 makes files as small as zlib's does, in a quarter of the CPU.
DEFLATE_LEVEL = 1
RAW_DEFLATE = -15


class Sink:
    """It can't be sought in; zipfile then writes sizes behind each entry (APPNOTE.TXT, 4.3.9)."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Asked for by the type of zipfile's files."""

    def take(self) -> bytes:
        """The bytes that were written since this was called last."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def deflate_fast(entry: IO[bytes]) -> None:
    """Let an entry that was begun be deflated by ISA-L. zipfile has no parameter for another compressor."""
    compressor = isal_zlib.compressobj(DEFLATE_LEVEL, isal_zlib.DEFLATED, RAW_DEFLATE)
    entry._compressor = compressor  # type: ignore[attr-defined]  # noqa: SLF001 (tests/test_internals.py knows it)

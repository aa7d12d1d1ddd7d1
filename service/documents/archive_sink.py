"""A file for `zipfile` to write to, whose bytes are taken away while it grows."""


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
